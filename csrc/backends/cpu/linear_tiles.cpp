#include "backends/cpu/linear_tiles.h"

#include <omp.h>

#include <algorithm>

#include "backends/cpu/own.h"
#include "backends/cpu/quantise.h"

namespace adfast::cpu {
namespace {

constexpr double linear_worth_waking = 1 << 18;

// Each thread takes its share of the rows, or of the outputs and their weights: whichever comes out
// more evenly.
void run(void (*linear)(const kernels::LinearArgs&), const kernels::LinearArgs& args) {
  const int64_t row_blocks = (args.rows + kernels::kLinearRows - 1) / kernels::kLinearRows;
  const double work = 2.0 * args.rows * args.depth * args.width;
  const int64_t parts = work < linear_worth_waking ? 1 : omp_get_max_threads();
  const auto rounds = [parts](int64_t units) {
    return static_cast<double>((units + parts - 1) / parts) / units;
  };
  const double by_rows = rounds(row_blocks), by_panels = rounds(args.panel_end);
  const bool rows = by_rows == by_panels ? args.rows >= args.width : by_rows < by_panels;
  const int64_t units = rows ? row_blocks : args.panel_end, shares = std::min(parts, units);
#pragma omp parallel for num_threads(static_cast<int>(shares)) schedule(static) if (shares > 1)
  for (int64_t part = 0; part < shares; ++part) {
    kernels::LinearArgs mine = args;
    const int64_t begin = units * part / shares, end = units * (part + 1) / shares;
    if (rows) {
      mine.row_begin = begin * kernels::kLinearRows;
      mine.row_end = std::min(args.rows, end * kernels::kLinearRows);
    } else {
      mine.panel_begin = begin;
      mine.panel_end = end;
    }
    const uint32_t control = kernels::flush_denormals();
    linear(mine);
    kernels::restore_denormals(control);
  }
}

class LinearTiles final : public Operator {
 public:
  LinearTiles(const Device& device, kernels::LinearArgs args, Packed weight,
              std::vector<float> factor, std::vector<float> offset, bool residual)
      : run_(device.kernels->linear),
        kernel_(std::string("adfast:linear") +
                (args.x_dtype == kernels::DType::u8 ? "_int8:" : "_bf16:") + device.kernels->name),
        args_(args),
        weight_(std::move(weight)),
        factor_(std::move(factor)),
        offset_(std::move(offset)),
        residual_(residual) {}

  std::function<void()> bind(const Binding& binding) const override {
    kernels::LinearArgs bound = args_;
    bound.x = binding.inputs[0];
    bound.weight = weight_.data();
    bound.factor = factor_.empty() ? nullptr : factor_.data();
    bound.offset = offset_.empty() ? nullptr : offset_.data();
    bound.residual = residual_ ? binding.inputs[3] : nullptr;
    bound.y = binding.outputs[0];
    return [bound, kernel = run_] { run(kernel, bound); };
  }
  size_t scratch_bytes() const override { return 0; }
  double flops() const override { return 2.0 * args_.rows * args_.depth * args_.width; }
  size_t packed_bytes() const override {
    return weight_.bytes() + (factor_.size() + offset_.size()) * sizeof(float);
  }
  std::string kernel() const override { return kernel_; }

 private:
  void (*run_)(const kernels::LinearArgs&);
  std::string kernel_;
  kernels::LinearArgs args_;
  Packed weight_;
  std::vector<float> factor_, offset_;
  bool residual_;
};

}  // namespace

std::unique_ptr<Operator> make_linear_tiles(const OperatorRequest& request, const Device& device,
                                            const nodes::Linear& linear) {
  const Tensor& x = *request.inputs[0];
  if (device.kernels->linear == nullptr || device.tactic(request.node) == "direct" ||
      linear.rows < kernels::kLinearRows || (x.dtype != DType::bf16 && x.dtype != DType::u8)) {
    return nullptr;
  }
  kernels::LinearArgs args = linear_args(request, linear);
  args.panel_end = kernels::linear_panels(linear.width);

  std::vector<float> factor, offset;
  if (linear.bias != nullptr) offset = floats(*linear.bias);
  Packed packed(kernels::linear_weight_bytes(args.width, args.depth, args.x_dtype));
  if (x.dtype == DType::u8) {
    const QuantisedWeight weight = quantised_weight(request);
    kernels::linear_weight(weight.values.data(), args.width, args.depth, args.x_dtype,
                           packed.data());
    factor.resize(weight.scales.size());
    offset.resize(weight.scales.size());
    for (size_t row = 0; row < factor.size(); ++row) {
      const auto* from = weight.values.data() + row * static_cast<size_t>(args.depth);
      int64_t sum = 0;
      for (int64_t i = 0; i < args.depth; ++i) sum += from[i];
      factor[row] = x.levels.scale * weight.scales[row];
      offset[row] -= static_cast<float>(static_cast<double>(factor[row]) * x.levels.zero *
                                        static_cast<double>(sum));
    }
  } else {
    // A panel at a time: a second copy of all would double what loading takes.
    const auto* weight = reinterpret_cast<const float*>(linear.weight->data.data());
    constexpr int64_t most = kernels::kLinearPanel;
    std::vector<uint16_t> narrow(most * args.depth);
    auto* to = static_cast<std::byte*>(packed.data());
    for (int64_t row = 0; row < args.width; row += most) {
      const int64_t rows = std::min(most, args.width - row);
      device.kernels->unary({kernels::Unary::identity, weight + row * args.depth,
                             kernels::DType::f32, narrow.data(), kernels::DType::bf16,
                             rows * args.depth});
      kernels::linear_weight(narrow.data(), rows, args.depth, args.x_dtype, to);
      to += kernels::linear_weight_bytes(rows, args.depth, args.x_dtype);
    }
  }
  return std::make_unique<LinearTiles>(device, args, std::move(packed), std::move(factor),
                                       std::move(offset), linear.residual != nullptr);
}

}  // namespace adfast::cpu
