#include "backends/cpu/depthwise.h"

#include <cstring>

#include "backends/cpu/own.h"

namespace adfast::cpu {
namespace {

// [channels][1][kernel][kernel] to [kernel][kernel][channels].
std::vector<std::byte> channels_last(const Tensor& weight) {
  const std::vector<float> values = floats(weight);
  const auto channels = static_cast<size_t>(weight.shape[0]);
  const size_t taps = values.size() / channels;
  std::vector<float> result(values.size());
  for (size_t i = 0; i < values.size(); ++i) result[i % taps * channels + i / taps] = values[i];
  std::vector<std::byte> bytes(result.size() * sizeof(float));
  std::memcpy(bytes.data(), result.data(), bytes.size());
  return bytes;
}

}  // namespace

std::unique_ptr<Operator> make_depthwise(const OperatorRequest& request, const Device& device,
                                         const nodes::Convolution& convolution) {
  const nodes::Window& window = convolution.window;
  const Shape &x = convolution.x, &y = convolution.y;
  const int64_t kernel = window.kernel[0], stride = window.strides[0];
  const auto activation = own_activation(convolution.activation);
  if (!own_kernel(request, device) || convolution.residual != nullptr || !activation)
    return nullptr;
  if (y[1] != x[1] || window.strides[1] != stride || stride > 2) return nullptr;
  if (window.kernel[1] != kernel || (kernel != 3 && kernel != 5)) return nullptr;

  kernels::DepthwiseArgs args{};
  args.dtype = kernel_type(device.features);
  args.height = x[2];
  args.width = x[3];
  args.channels = x[1];
  args.out_height = y[2];
  args.out_width = y[3];
  args.top = window.begin[0];
  args.left = window.begin[1];
  args.kernel = static_cast<int32_t>(kernel);
  args.stride = static_cast<int32_t>(stride);
  args.activation = *activation;
  const auto run = device.kernels->depthwise;
  return std::make_unique<OwnConvolution>(
      "depthwise", device, convolution, channels_last(*convolution.weight),
      [run, args](const OwnConvolution::Call& call) {
        kernels::DepthwiseArgs bound = args;
        bound.x = call.x;
        bound.weight = static_cast<const float*>(call.weight);
        bound.bias = call.bias;
        bound.y = call.y;
        return [run, bound] {
          const int64_t work = bound.out_width * bound.channels * bound.kernel * bound.kernel;
          share_rows(bound.out_height, work, [&](int64_t begin, int64_t end) {
            kernels::DepthwiseArgs mine = bound;
            mine.row_begin = begin;
            mine.row_end = end;
            run(mine);
          });
        };
      });
}

}  // namespace adfast::cpu
