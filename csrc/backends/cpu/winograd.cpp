#include "backends/cpu/winograd.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <new>

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

int64_t second_level_cache() {
  const long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
  return bytes > 0 ? bytes : 1 << 20;
}

// Tiles that are transformed before they are multiplied. Half of the second-level cache is the best
// place for them; but all weights pass once for every block, and where they come from farther away,
// larger blocks spare more than they spill.
int64_t tiles_per_block(const Tiling& tiling, int64_t channels, int64_t weights, int64_t threads) {
  const int64_t cache = second_level_cache();
  const int64_t bytes = tiling.points() * (channels + 16 + 32) * 4;
  const int64_t most = std::max<int64_t>(8, (weights > cache ? cache : cache / 2) / bytes);
  int64_t blocks = (tiling.tiles() + most - 1) / most;
  if (blocks > 1) blocks = (blocks + threads - 1) / threads * threads;
  return (tiling.tiles() + blocks - 1) / blocks;
}

// Weights that a frame walks through from end to end, on huge pages where the system has them.
class Packed {
 public:
  explicit Packed(size_t floats) {
    constexpr size_t huge = size_t{2} << 20;
    const size_t bytes = floats * sizeof(float), page = bytes >= huge ? huge : 64;
    const size_t whole = (bytes + page - 1) / page * page;
    data_.reset(static_cast<float*>(std::aligned_alloc(page, whole)), std::free);
    if (data_ == nullptr) throw std::bad_alloc();
    if (page == huge) madvise(data_.get(), whole, MADV_HUGEPAGE);  // a wish; no matter if refused
  }
  float* data() const { return data_.get(); }

 private:
  std::shared_ptr<float> data_;
};

// Seconds on one core, as far as they are needed to choose: the rates are those of a processor with
// AVX-512 at 2.5 GHz, and what is chosen must not depend on what else a machine does at that
// moment.
constexpr double flops_per_second = 1.5e11;
constexpr double bytes_per_second = 1e10;

double direct_seconds(const SquareConvolution& c, const Device& device) {
  const double products = 2.0 * element_count(c.y) * c.x[1] * c.weight.shape[2] * c.weight.shape[3];
  const double bytes = static_cast<double>(c.weight.bytes()) *
                       static_cast<double>(size_of(device.features)) / sizeof(float);
  const double rate = device.features == DType::f32 ? 1.0 : device.bf16_rate;
  return products / (0.9 * flops_per_second * rate) + bytes / bytes_per_second;
}

double winograd_seconds(const SquareConvolution& c, const Tiling& tiling) {
  constexpr double transform = 1.5e-7, untransform = 1e-7;  // of sixteen channels of a 6 x 6 tile
  const auto vectors = [](int64_t channels) { return static_cast<double>((channels + 15) / 16); };
  const double width = static_cast<double>(kernels::winograd_panels(c.y[1]) * 32);
  const auto tiles = static_cast<double>(tiling.tiles());
  const auto points = static_cast<double>(tiling.points());
  const double weights = points * static_cast<double>(c.x[1]) * width;
  return 2 * tiles * weights / (0.75 * flops_per_second) + 4 * weights / bytes_per_second +
         tiles * points / 36 * (vectors(c.x[1]) * transform + vectors(c.y[1]) * untransform);
}

struct Plan {
  kernels::WinogradArgs args;
  int64_t tiles, block;  // in all; per block
  int64_t threads;
  size_t tiles_room, products_room;  // floats per thread
  void (*transform)(const kernels::WinogradArgs&);
  void (*multiply)(const kernels::WinogradArgs&);
};

void run_block(const Plan& plan, kernels::WinogradArgs args, int64_t begin) {
  args.block_begin = args.tile_begin = begin;
  args.block_end = args.tile_end = std::min(begin + plan.block, plan.tiles);
  plan.transform(args);
  plan.multiply(args);
}

// Each thread has blocks of its own, or all share the one there is. Results depend on neither.
void run(const Plan& plan) {
  const int64_t blocks = (plan.tiles + plan.block - 1) / plan.block;
  if (plan.threads == 1) {
    for (int64_t b = 0; b < blocks; ++b) run_block(plan, plan.args, b * plan.block);
    return;
  }
  const auto threads = static_cast<int>(plan.threads);
#pragma omp parallel num_threads(threads)
  {
    const uint32_t control = kernels::flush_denormals();
    const int64_t thread = omp_get_thread_num(), all = omp_get_num_threads();
    kernels::WinogradArgs mine = plan.args;
    mine.products += thread * plan.products_room;
    if (blocks > 1) {
      mine.tiles += thread * plan.tiles_room;
#pragma omp for schedule(static)
      for (int64_t b = 0; b < blocks; ++b) run_block(plan, mine, b * plan.block);
    } else {
      mine.block_begin = 0;
      mine.block_end = plan.tiles;
      mine.tile_begin = plan.tiles * thread / all;
      mine.tile_end = plan.tiles * (thread + 1) / all;
      plan.transform(mine);
#pragma omp barrier
      mine.panel_begin = plan.args.panel_end * thread / all;
      mine.panel_end = plan.args.panel_end * (thread + 1) / all;
      plan.multiply(mine);
    }
    kernels::restore_denormals(control);
  }
}

}  // namespace

std::unique_ptr<Operator> make_winograd(const OperatorRequest& request, const Device& device,
                                        const SquareConvolution& convolution) {
  const auto& [weight, bias, residual, x, y, top, left] = convolution;
  const std::string& activation = request.node.attrs.text("activation");
  const auto kernel = static_cast<int32_t>(weight.shape[2]);
  if (activation != "none" && activation != "relu") return nullptr;
  if (weight.shape[3] != kernel || (kernel != 3 && kernel != 5)) return nullptr;
  // 64 points, of a 5 x 5 kernel and 4 x 4 outputs, would lose too many digits.
  std::vector<int32_t> choices = {2};
  if (kernel == 3) choices.push_back(4);
  const std::string tactic = device.tactic(request.node);
  if (tactic == "direct") return nullptr;
  Tiling tiling{};
  // oneDNN has vectors where our scalar kernels have none: only if told to.
  double best =
      device.kernels->isa == kernels::Isa::scalar ? 0 : direct_seconds(convolution, device);
  for (const int32_t outputs : choices) {
    const Tiling candidate = tiling_of(y, outputs, kernel);
    const bool told = tactic == "winograd" + std::to_string(outputs);
    const double seconds = told ? -1 : winograd_seconds(convolution, candidate);
    if (seconds >= best) continue;
    best = seconds;
    tiling = candidate;
  }
  if (tiling.outputs == 0) return nullptr;
  const int32_t outputs = tiling.outputs;

  Plan plan{};
  plan.threads = omp_get_max_threads();
  plan.tiles = tiling.tiles();
  const size_t weights = kernels::winograd_weight_size(y[1], x[1], outputs, kernel);
  plan.block =
      tiles_per_block(tiling, x[1], static_cast<int64_t>(weights * sizeof(float)), plan.threads);
  plan.transform = device.kernels->winograd_transform;
  plan.multiply = device.kernels->winograd_multiply;
  // Whole cache lines, so that threads share none.
  const auto lines = [](size_t floats) { return (floats + 15) / 16 * 16; };
  plan.tiles_room = lines(kernels::winograd_tiles(plan.block, x[1], outputs, kernel));
  plan.products_room = lines(kernels::winograd_products(plan.block, outputs, kernel));
  kernels::WinogradArgs& args = plan.args;
  args.dtype = kernel_type(device.features);
  args.height = x[2];
  args.width = x[3];
  args.channels = x[1];
  args.out_height = y[2];
  args.out_width = y[3];
  args.out_channels = y[1];
  args.top = top;
  args.left = left;
  args.outputs = outputs;
  args.kernel = kernel;
  args.relu = activation == "relu";
  args.panel_end = kernels::winograd_panels(y[1]);

  const Packed packed(weights);
  kernels::winograd_weight(floats(weight).data(), y[1], x[1], outputs, kernel, packed.data());
  const double flops = 2.0 * element_count(y) * x[1] * kernel * kernel;
  const size_t scratch = plan.threads * (plan.tiles_room + plan.products_room) * sizeof(float);
  return std::make_unique<SimpleOperator>(
      "adfast:winograd" + std::to_string(outputs) + "x" + std::to_string(kernel) + ":" +
          device.kernels->name,
      flops, scratch,
      [plan, has_residual = residual != nullptr, packed,
       bias = bias == nullptr ? std::vector<float>() : floats(*bias)](const Binding& binding) {
        Plan bound = plan;
        bound.args.x = binding.inputs[0];
        bound.args.residual = has_residual ? binding.inputs[3] : nullptr;
        bound.args.y = binding.outputs[0];
        bound.args.weight = packed.data();
        bound.args.bias = bias.empty() ? nullptr : bias.data();
        bound.args.tiles = static_cast<float*>(binding.scratch);
        bound.args.products = bound.args.tiles + bound.threads * bound.tiles_room;
        return [bound] { run(bound); };
      });
}

}  // namespace adfast::cpu
