#include "backends/cpu/winograd.h"

#include "backends/cpu/estimate.h"
#include "backends/cpu/own.h"
#include "backends/cpu/quantise.h"

namespace adfast::cpu {
namespace {

// One of the ways to cut y into tiles.
struct Tiling {
  int32_t outputs, kernel;
  int64_t across, down;
  int64_t tiles() const { return across * down; }
  int64_t points() const { return (outputs + kernel - 1) * (outputs + kernel - 1); }
};

Tiling tiling_of(const Shape& y, int32_t outputs, int32_t kernel) {
  return {outputs, kernel, (y[3] + outputs - 1) / outputs, (y[2] + outputs - 1) / outputs};
}

// Tiles that are transformed before they are multiplied. Half of the second-level cache is the best
// place for them; but all weights pass once for every block, and where they come from farther away,
// larger blocks spare more than they spill: from memory, a weight should serve many tiles.
int64_t tiles_per_block(const Tiling& tiling, int64_t words, int64_t weights, int64_t threads) {
  constexpr int64_t far = 8 << 20;
  const int64_t cache = second_level_cache();
  const int64_t bytes = tiling.points() * (words + 16 + 32) * 4;
  const int64_t most =
      std::max<int64_t>(weights > far ? 32 : 8, (weights > cache ? cache : cache / 2) / bytes);
  int64_t blocks = (tiling.tiles() + most - 1) / most;
  if (blocks > 1) blocks = (blocks + threads - 1) / threads * threads;
  return (tiling.tiles() + blocks - 1) / blocks;
}

double direct_seconds(const nodes::Convolution& c, double rate, size_t size) {
  return cpu::direct_seconds(c.flops, static_cast<double>(element_count(c.weight->shape)), rate,
                             size);
}

double winograd_seconds(const nodes::Convolution& c, const Tiling& tiling, const Device& device) {
  constexpr double transform = 1.5e-7, untransform = 1e-7;  // of sixteen channels of a 6 x 6 tile
  const auto vectors = [](int64_t channels) { return static_cast<double>((channels + 15) / 16); };
  const double width = static_cast<double>(kernels::winograd_panels(c.y[1]) * 32);
  const auto tiles = static_cast<double>(tiling.tiles());
  const auto points = static_cast<double>(tiling.points());
  const double weights = points * static_cast<double>(c.x[1]) * width;
  const bool pairs = device.points == DType::bf16;
  const double rate = pairs ? 0.9 * device.bf16_rate : 0.75, bytes = pairs ? 2 : 4;
  return 2 * tiles * weights / (rate * flops_per_second) + bytes * weights / bytes_per_second +
         tiles * points / 36 * (vectors(c.x[1]) * transform + vectors(c.y[1]) * untransform);
}

bool has_kernel(const nodes::Convolution& c) {
  const int64_t kernel = c.weight->shape[2];
  return c.groups == 1 && c.window.dense() && c.weight->shape[3] == kernel &&
         (kernel == 3 || kernel == 5) &&
         (c.activation == nodes::Activation::none || c.activation == nodes::Activation::relu);
}

// The tiling that a tactic names, or the fastest below `seconds`; none: another algorithm.
std::optional<Tiling> best_tiling(const nodes::Convolution& c, const Device& device,
                                  const std::string& tactic, double seconds) {
  const auto kernel = static_cast<int32_t>(c.weight->shape[2]);
  std::optional<Tiling> best;
  // 64 points, of a 5 x 5 kernel and 4 x 4 outputs, would lose too many digits.
  for (const int32_t outputs : {2, 4}) {
    if (outputs == 4 && kernel == 5) continue;
    const Tiling candidate = tiling_of(c.y, outputs, kernel);
    const bool told = tactic == "winograd" + std::to_string(outputs);
    const double needed = told ? -1 : winograd_seconds(c, candidate, device);
    if (needed >= seconds) continue;
    seconds = needed;
    best = candidate;
  }
  return best;
}

std::optional<Tiling> chosen_tiling(const OperatorRequest& request, const Device& device,
                                    const nodes::Convolution& convolution) {
  // In int8, products cost a quarter, and the transforms would leave its range.
  const Tensor* residual = convolution.residual;
  if (request.inputs[0]->dtype != device.features ||
      (residual != nullptr && residual->dtype != device.features)) {
    return std::nullopt;
  }
  const std::string tactic = device.tactic(request.node);
  if (!has_kernel(convolution) || tactic == "direct") return std::nullopt;
  // oneDNN has vectors where our scalar kernels have none: only if told to.
  const bool scalar = device.kernels->isa == kernels::Isa::scalar;
  const double rate = device.features == DType::f32 ? 1.0 : device.bf16_rate;
  const double direct = direct_seconds(convolution, rate, size_of(device.features));
  return best_tiling(convolution, device, tactic, scalar ? 0 : direct);
}

struct Work {
  kernels::WinogradArgs args;
  int64_t tiles, block;  // in all; per block
  int64_t threads;
  size_t tiles_room, products_room;  // floats per thread
  void (*transform)(const kernels::WinogradArgs&);
  void (*multiply)(const kernels::WinogradArgs&);
};

void run_block(const Work& work, kernels::WinogradArgs args, int64_t begin) {
  args.block_begin = args.tile_begin = begin;
  args.block_end = args.tile_end = std::min(begin + work.block, work.tiles);
  work.transform(args);
  work.multiply(args);
}

// A thread takes the next block when it has done one, so that one whose core other programs use
// does fewer; or all share the one block there is. Results depend on neither.
void run(const Work& work) {
  const int64_t blocks = (work.tiles + work.block - 1) / work.block;
  if (work.threads == 1) {
    for (int64_t b = 0; b < blocks; ++b) run_block(work, work.args, b * work.block);
    return;
  }
  const auto threads = static_cast<int>(work.threads);
#pragma omp parallel num_threads(threads)
  {
    const uint32_t control = kernels::flush_denormals();
    const int64_t thread = omp_get_thread_num(), all = omp_get_num_threads();
    kernels::WinogradArgs mine = work.args;
    mine.products += thread * work.products_room;
    if (blocks > 1) {
      mine.tiles += thread * work.tiles_room;
#pragma omp for schedule(dynamic)
      for (int64_t b = 0; b < blocks; ++b) run_block(work, mine, b * work.block);
    } else {
      mine.block_begin = 0;
      mine.block_end = work.tiles;
      mine.tile_begin = work.tiles * thread / all;
      mine.tile_end = work.tiles * (thread + 1) / all;
      work.transform(mine);
#pragma omp barrier
      mine.panel_begin = work.args.panel_end * thread / all;
      mine.panel_end = work.args.panel_end * (thread + 1) / all;
      work.multiply(mine);
    }
    kernels::restore_denormals(control);
  }
}

class WinogradOperator final : public Operator {
 public:
  WinogradOperator(Work work, Packed weight, std::vector<float> bias, bool residual, double flops,
                   std::string kernel)
      : work_(work),
        weight_(std::move(weight)),
        bias_(std::move(bias)),
        residual_(residual),
        flops_(flops),
        kernel_(std::move(kernel)) {}

  std::function<void()> bind(const Binding& binding) const override {
    Work bound = work_;
    bound.args.x = binding.inputs[0];
    bound.args.residual = residual_ ? binding.inputs[3] : nullptr;
    bound.args.y = binding.outputs[0];
    bound.args.weight = weight_.data();
    bound.args.bias = bias_.empty() ? nullptr : bias_.data();
    bound.args.tiles = static_cast<float*>(binding.scratch);
    bound.args.products = bound.args.tiles + bound.threads * bound.tiles_room;
    return [bound] { run(bound); };
  }
  size_t scratch_bytes() const override {
    return work_.threads * (work_.tiles_room + work_.products_room) * sizeof(float);
  }
  double flops() const override { return flops_; }
  size_t packed_bytes() const override { return weight_.bytes(); }
  std::string kernel() const override { return kernel_; }

 private:
  Work work_;
  Packed weight_;
  std::vector<float> bias_;
  bool residual_;
  double flops_;  // of the convolution computed directly
  std::string kernel_;
};

}  // namespace

std::unique_ptr<Operator> make_winograd(const OperatorRequest& request, const Device& device,
                                        const nodes::Convolution& convolution) {
  const Tensor& weight = *convolution.weight;
  const Tensor *bias = convolution.bias, *residual = convolution.residual;
  const Shape &x = convolution.x, &y = convolution.y;
  const Tensor& result = *request.outputs[0];
  if (result.dtype != device.features && result.dtype != DType::u8) return nullptr;
  const auto tiling = chosen_tiling(request, device, convolution);
  if (!tiling) return nullptr;
  const int32_t outputs = tiling->outputs, kernel = tiling->kernel;

  Work work{};
  work.threads = omp_get_max_threads();
  work.tiles = tiling->tiles();
  const kernels::DType operands = kernel_type(device.points);
  const bool pairs = operands == kernels::DType::bf16;
  const size_t weights = kernels::winograd_weight_size(y[1], x[1], outputs, kernel, operands);
  work.block = tiles_per_block(*tiling, pairs ? (x[1] + 1) / 2 : x[1],
                               static_cast<int64_t>(weights * sizeof(float)), work.threads);
  work.transform = device.kernels->winograd_transform;
  work.multiply = device.kernels->winograd_multiply;
  // Whole cache lines, so that threads share none.
  const auto lines = [](size_t floats) { return (floats + 15) / 16 * 16; };
  work.tiles_room = lines(kernels::winograd_tiles(work.block, x[1], outputs, kernel, operands));
  work.products_room = lines(kernels::winograd_products(work.block, outputs, kernel));
  kernels::WinogradArgs& args = work.args;
  args.dtype = kernel_type(device.features);
  args.y_dtype = kernel_type(result.dtype);
  args.y_levels = kernel_levels(result.levels);
  args.height = x[2];
  args.width = x[3];
  args.channels = x[1];
  args.out_height = y[2];
  args.out_width = y[3];
  args.out_channels = y[1];
  args.top = convolution.window.begin[0];
  args.left = convolution.window.begin[1];
  args.outputs = outputs;
  args.kernel = kernel;
  args.operands = operands;
  args.relu = convolution.activation == nodes::Activation::relu;
  args.panel_end = kernels::winograd_panels(y[1]);

  Packed packed(weights * sizeof(float));
  kernels::winograd_weight(reinterpret_cast<const float*>(weight.data.data()), y[1], x[1], outputs,
                           kernel, operands, packed.data());
  return std::make_unique<WinogradOperator>(
      work, std::move(packed), bias == nullptr ? std::vector<float>() : floats(*bias),
      residual != nullptr, convolution.flops,
      "adfast:winograd" + std::to_string(outputs) + "x" + std::to_string(kernel) +
          (pairs ? "_bf16:" : ":") + device.kernels->name);
}

bool runs_by_winograd(const OperatorRequest& request, const Device& device) {
  return chosen_tiling(request, device, nodes::convolution(request)).has_value();
}

bool winograd_beats_int8(const OperatorRequest& request, const Device& device) {
  if (request.node.op != "conv2d") return false;
  const nodes::Convolution convolution = nodes::convolution(request);
  const std::string tactic = device.tactic(request.node);
  if (!has_kernel(convolution) || tactic == "direct") return false;
  const bool scalar = device.kernels->isa == kernels::Isa::scalar;
  const double direct = direct_seconds(convolution, int8_rates().convolutions, 1);
  return best_tiling(convolution, device, tactic, scalar ? 0 : direct).has_value();
}

}  // namespace adfast::cpu
