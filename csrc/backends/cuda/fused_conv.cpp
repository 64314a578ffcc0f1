// Convolutions and small products in half precision on tensor cores, by Triton's kernels with
// everything fused that follows (kernels/triton/conv2d.py).
#include <algorithm>
#include <cmath>

#include "backends/cuda/backend.h"

namespace adfast::cuda {
namespace {

namespace kernels = adfast::kernels::cuda;

int64_t ceil_div(int64_t count, int64_t size) { return (count + size - 1) / size; }

// A tile's times in microseconds, fitted to measurements on Hopper; what counts is their
// proportion. A launch takes `launch`, and `step` for each step along the depth as long as no
// multiprocessor has more than `resident` programs. With the depth shared, the parts' sum takes
// `sum`, and `megabyte` for each that the parts are long.
struct Times {
  const char* tile;
  double launch, step, resident, sum, megabyte;
};
constexpr Times times[] = {
    {"m128n128", 5.14, 0.618, 0.66, 0.9, 0.36},
    {"m64n64", 3.76, 0.467, 0.80, 1.0, 0.36},
    {"m32n64", 3.26, 0.219, 0.98, 1.0, 0.59},
    {"m32n32", 3.06, 0.188, 1.07, 1.1, 0.72},
};

// "fp16" or "bf16"; empty in f32, whose operands tensor cores would round.
const char* triton_type(DType type) {
  return type == DType::f16 ? "fp16" : type == DType::bf16 ? "bf16" : "";
}

class FusedConv final : public Operator {
 public:
  FusedConv(Device& device, const ConvSizes& sizes, const ConvTile& tile,
            std::span<const float> weight, const Tensor* bias, bool residual,
            nodes::Activation activation)
      : device_(device), sizes_(sizes), tile_(tile), has_residual_(residual) {
    weight_ = uploaded_as(weight, device.features);
    const auto width = static_cast<size_t>(sizes.out_channels);
    const std::vector<float> shift =
        bias == nullptr ? std::vector<float>(width) : nodes::floats(*bias);
    bias_ = uploaded(std::span<const float>(shift));
    sum_.x_type = kernels::Type::f32;
    sum_.out_type = sum_.residual_type = kernel_type(device.features);
    sum_.bias = bias_.as<const float>();
    sum_.activation = kernel_activation(activation);
    sum_.rows = sizes.out[0] * sizes.out[1];
    sum_.width = sizes.out_channels;
    sum_.parts = tile.splits;
  }

  std::function<void()> bind(const Binding& binding) const override {
    const void* residual = has_residual_ ? binding.inputs[3] : nullptr;
    auto convolve = [this, x = binding.inputs[0], residual, y = binding.outputs[0],
                     parts = binding.scratch, stream = device_.lane->stream] {
      check(launch(x, residual, y, parts, stream), "conv2d");
    };
    if (tile_.splits == 1) return convolve;
    auto sum = sum_;
    sum.x = binding.scratch;
    sum.residual = residual;
    sum.out = binding.outputs[0];
    return [convolve, add_up = cuda::launch(kernels::epilogue, sum, device_, "epilogue")] {
      convolve();
      add_up();
    };
  }
  size_t scratch_bytes() const override {
    return tile_.splits == 1
               ? 0
               : static_cast<size_t>(tile_.splits * sum_.rows * sum_.width) * sizeof(float);
  }
  double flops() const override {
    return 2.0 * static_cast<double>(sum_.rows * sum_.width * sizes_.channels * sizes_.kernel[0] *
                                     sizes_.kernel[1]);
  }
  size_t packed_bytes() const override { return weight_.bytes(); }
  std::string kernel() const override {
    return tile_.splits == 1 ? "adfast:triton" : "adfast:triton+adfast:cuda";
  }

 private:
  cudaError_t launch(const void* x, const void* residual, void* y, void* parts,
                     cudaStream_t stream) const {
    const auto& tile = tile_.kernel->constants;
    const dim3 grid(static_cast<unsigned>(ceil_div(sum_.rows, tile.at("BLOCK_M"))),
                    static_cast<unsigned>(ceil_div(sum_.width, tile.at("BLOCK_N"))),
                    static_cast<unsigned>(tile_.splits));
    const void* weight = weight_.data();
    const void* bias = bias_.data();
    // What is not there is any pointer.
    const void* added = residual == nullptr ? y : residual;
    void* shares = tile_.splits == 1 ? bias_.data() : parts;
    const auto number = [](int64_t value) { return static_cast<int32_t>(value); };
    int32_t numbers[] = {number(sum_.rows),
                         number(sizes_.in[0]),
                         number(sizes_.in[1]),
                         number(sizes_.channels),
                         number(sizes_.out[0]),
                         number(sizes_.out[1]),
                         number(sizes_.out_channels),
                         number(sizes_.kernel[1]),
                         number(sizes_.kernel[0] * sizes_.kernel[1]),
                         number(sizes_.strides[0]),
                         number(sizes_.strides[1]),
                         number(sizes_.begin[0]),
                         number(sizes_.begin[1]),
                         number(sizes_.dilations[0]),
                         number(sizes_.dilations[1]),
                         has_residual_ ? 1 : 0,
                         static_cast<int32_t>(sum_.activation),
                         number(tile_.splits)};
    std::vector<void*> arguments = {&x, &weight, &bias, &added, &y, &shares};
    for (int32_t& value : numbers) arguments.push_back(&value);
    return tile_.kernel->launch(grid, std::move(arguments), stream);
  }

  const Device& device_;
  ConvSizes sizes_;
  ConvTile tile_;
  bool has_residual_;
  Buffer weight_, bias_;
  kernels::EpilogueArgs sum_{};
};

}  // namespace

std::optional<ConvTile> conv_tile(const OperatorRequest& request, Device& device,
                                  const ConvSizes& sizes, nodes::Activation activation) {
  const std::string type = triton_type(device.features);
  // Channels are fetched in whole sixteens. Offsets are of 32 bits.
  const int64_t rows = sizes.out[0] * sizes.out[1];
  const int64_t taps = sizes.kernel[0] * sizes.kernel[1];
  const int64_t largest =
      std::max({sizes.in[0] * sizes.in[1] * sizes.channels, rows * sizes.out_channels,
                sizes.out_channels * taps * sizes.channels});
  const bool serves = !type.empty() && sizes.channels % 16 == 0 && largest < int64_t{1} << 31 &&
                      activation <= nodes::Activation::gelu &&
                      request.inputs[0]->dtype == device.features &&
                      request.outputs[0]->dtype == device.features &&
                      (request.inputs.size() < 4 || request.inputs[3] == nullptr ||
                       request.inputs[3]->dtype == device.features);
  if (!serves) return std::nullopt;
  std::optional<ConvTile> best;
  double least = INFINITY;
  for (const Times& each : times) {
    std::string name = "conv2d_";
    name.append(type).append("_").append(each.tile);
    const TritonKernel* kernel = device.triton->find(name);
    if (kernel == nullptr) continue;
    const int64_t steps = taps * ceil_div(sizes.channels, kernel->constants.at("BLOCK_K"));
    const int64_t programs = ceil_div(rows, kernel->constants.at("BLOCK_M")) *
                             ceil_div(sizes.out_channels, kernel->constants.at("BLOCK_N"));
    for (int64_t splits : {1, 2, 3, 4, 8}) {
      if (splits > 1 && steps < 2 * splits) break;
      const double load = static_cast<double>(programs * splits) /
                          (each.resident * static_cast<double>(device.multiprocessors));
      double time = each.launch +
                    each.step * std::max(1.0, load) * static_cast<double>(ceil_div(steps, splits));
      if (splits > 1) {
        time += each.sum +
                each.megabyte * 4e-6 * static_cast<double>(rows * sizes.out_channels * splits);
      }
      if (time < least) {
        least = time;
        best = ConvTile{kernel, splits};
      }
    }
  }
  return best;
}

std::unique_ptr<Operator> make_fused_conv(Device& device, const ConvSizes& sizes,
                                          const ConvTile& tile, std::span<const float> weight,
                                          const Tensor* bias, bool residual,
                                          nodes::Activation activation) {
  return std::make_unique<FusedConv>(device, sizes, tile, weight, bias, residual, activation);
}

}  // namespace adfast::cuda
