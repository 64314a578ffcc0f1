#include "backends/cpu/strassen.h"

#include "backends/cpu/estimate.h"
#include "backends/cpu/own.h"

namespace adfast::cpu {
namespace {

// Pairs of rows that are computed together: few enough for the caches to hold their sums, and the
// weights pass once for each block.
constexpr int64_t most_pairs = 48;
// Fewer for each thread, and the weights' way through the caches would cost more than it spares.
constexpr int64_t few_pairs = 24;

double strassen_seconds(const nodes::Linear& linear) {
  constexpr double element = 2e-10;  // to load two, add them and store one
  const auto rows = static_cast<double>(linear.rows), depth = static_cast<double>(linear.depth);
  const auto width = static_cast<double>(linear.width);
  return direct_seconds(7.0 / 8 * 2 * rows * depth * width, 7.0 / 4 * depth * width, 1,
                        sizeof(float)) +
         (5.0 / 4 * rows * depth + 11.0 / 4 * rows * width) * element;
}

// Only where it was measured to gain: the first Zen, which computes vectors of AVX2 by halves. Zen
// 3, which computes them whole, is slower by it than by oneDNN.
bool expected_faster(const nodes::Linear& linear, const Device& device, bool pairs) {
  if (device.kernels->isa != kernels::Isa::avx2 || pairs) return false;
  if (!__builtin_cpu_is("znver1")) return false;
  const auto weights = static_cast<double>(linear.depth * linear.width);
  const double direct =
      direct_seconds(2 * weights * static_cast<double>(linear.rows), weights, 1, sizeof(float));
  return strassen_seconds(linear) < direct;
}

class Strassen final : public Operator {
 public:
  Strassen(const Device& device, const kernels::LinearArgs& args, const nodes::Linear& linear)
      : run_(device.kernels->strassen),
        residual_(linear.residual != nullptr),
        weight_(kernels::strassen_weight_size(args.width, args.depth, args.x_dtype) *
                sizeof(float)),
        bias_(linear.bias == nullptr ? std::vector<float>() : floats(*linear.bias)),
        kernel_(std::string("adfast:strassen") +
                (args.x_dtype == kernels::DType::bf16 ? "_bf16:" : ":") + device.kernels->name) {
    args_.linear = args;
    const int64_t pairs = (args.rows + 1) / 2;
    // Panels are shared out too where there are many threads for the rows: each computes the sums
    // of its rows by itself.
    const int64_t threads = omp_get_max_threads();
    by_rows_ = std::clamp<int64_t>(pairs / few_pairs, 1, threads);
    while (threads % by_rows_ != 0) --by_rows_;
    by_panels_ = std::min(threads / by_rows_, args.panel_end);
    const int64_t mine = (pairs + by_rows_ - 1) / by_rows_;
    const int64_t blocks = (mine + most_pairs - 1) / most_pairs;
    args_.block = (mine + blocks - 1) / blocks;
    room_ = kernels::strassen_scratch(args_.block, args.depth, args.x_dtype);
    kernels::strassen_weight(reinterpret_cast<const float*>(linear.weight->data.data()), args.width,
                             args.depth, args.x_dtype, weight_.data());
  }

  std::function<void()> bind(const Binding& binding) const override {
    kernels::StrassenArgs bound = args_;
    bound.linear.x = binding.inputs[0];
    bound.linear.weight = weight_.data();
    bound.linear.offset = bias_.empty() ? nullptr : bias_.data();
    bound.linear.residual = residual_ ? binding.inputs[3] : nullptr;
    bound.linear.y = binding.outputs[0];
    bound.scratch = static_cast<float*>(binding.scratch);
    return [this, bound] { share(bound); };
  }
  size_t scratch_bytes() const override { return by_rows_ * by_panels_ * room_ * sizeof(float); }
  double flops() const override {
    return 2.0 * args_.linear.rows * args_.linear.depth * args_.linear.width;
  }
  size_t packed_bytes() const override { return weight_.bytes() + bias_.size() * sizeof(float); }
  std::string kernel() const override { return kernel_; }

 private:
  // No result depends on how rows and panels are shared out.
  void share(const kernels::StrassenArgs& args) const {
    const int64_t shares = by_rows_ * by_panels_, pairs = (args.linear.rows + 1) / 2;
#pragma omp parallel for num_threads(static_cast<int>(shares)) schedule(static) if (shares > 1)
    for (int64_t share = 0; share < shares; ++share) {
      const int64_t row = share / by_panels_, panel = share % by_panels_;
      kernels::StrassenArgs mine = args;
      mine.scratch += share * room_;
      mine.linear.row_begin = 2 * (pairs * row / by_rows_);
      mine.linear.row_end = std::min(args.linear.rows, 2 * (pairs * (row + 1) / by_rows_));
      mine.linear.panel_begin = args.linear.panel_end * panel / by_panels_;
      mine.linear.panel_end = args.linear.panel_end * (panel + 1) / by_panels_;
      const uint32_t control = kernels::flush_denormals();
      run_(mine);
      kernels::restore_denormals(control);
    }
  }

  void (*run_)(const kernels::StrassenArgs&);
  kernels::StrassenArgs args_{};
  int64_t by_rows_, by_panels_;
  size_t room_;  // floats of scratch for each share
  bool residual_;
  Packed weight_;
  std::vector<float> bias_;
  std::string kernel_;
};

}  // namespace

std::unique_ptr<Operator> make_strassen(const OperatorRequest& request, const Device& device,
                                        const nodes::Linear& linear) {
  const DType type = request.inputs[0]->dtype;
  const bool pairs = type == DType::bf16;
  if (pairs ? device.points != DType::bf16 : type != DType::f32) return nullptr;
  if (linear.width % 2 != 0 || linear.depth % (pairs ? 4 : 2) != 0) return nullptr;
  const std::string tactic = device.tactic(request.node);
  if (tactic == "direct") return nullptr;
  if (tactic != "strassen" && !expected_faster(linear, device, pairs)) return nullptr;
  kernels::LinearArgs args = linear_args(request, linear);
  args.panel_end = kernels::strassen_panels(linear.width);
  return std::make_unique<Strassen>(device, args, linear);
}

}  // namespace adfast::cpu
