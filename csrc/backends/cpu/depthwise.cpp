#include "backends/cpu/depthwise.h"

#include <cstring>

#include "backends/cpu/own.h"

namespace adfast::cpu {

std::vector<float> depthwise_weight(const Tensor& weight) {
  const std::vector<float> values = floats(weight);
  const auto channels = static_cast<size_t>(weight.shape[0]);
  const size_t taps = values.size() / channels;
  std::vector<float> result(values.size());
  for (size_t i = 0; i < values.size(); ++i) result[i % taps * channels + i / taps] = values[i];
  return result;
}

std::optional<kernels::DepthwiseArgs> depthwise_args(const OperatorRequest& request,
                                                     const Device& device,
                                                     const nodes::Convolution& convolution) {
  const nodes::Window& window = convolution.window;
  const Shape &x = convolution.x, &y = convolution.y;
  const int64_t kernel = window.kernel[0], stride = window.strides[0];
  const auto activation = own_activation(convolution.activation);
  if (!own_kernel(request, device) || convolution.residual != nullptr || !activation) return {};
  if (convolution.groups != x[1] || convolution.groups == 1 || y[1] != x[1]) return {};
  if (window.dilations != std::array<int64_t, 2>{1, 1}) return {};
  if (window.strides[1] != stride || stride > 2) return {};
  if (window.kernel[1] != kernel || (kernel != 3 && kernel != 5)) return {};

  kernels::DepthwiseArgs args{};
  args.dtype = kernel_type(device.features);
  args.height = x[2];
  args.width = x[3];
  args.channels = args.x_pixel = args.channel_end = x[1];
  args.out_height = args.row_end = y[2];
  args.out_width = y[3];
  args.top = window.begin[0];
  args.left = window.begin[1];
  args.kernel = static_cast<int32_t>(kernel);
  args.stride = static_cast<int32_t>(stride);
  args.activation = *activation;
  return args;
}

std::unique_ptr<Operator> make_depthwise(const OperatorRequest& request, const Device& device,
                                         const nodes::Convolution& convolution) {
  const auto args = depthwise_args(request, device, convolution);
  if (!args) return nullptr;
  const auto run = device.kernels->depthwise;
  const std::vector<float> weight = depthwise_weight(*convolution.weight);
  std::vector<std::byte> bytes(weight.size() * sizeof(float));
  std::memcpy(bytes.data(), weight.data(), bytes.size());
  return std::make_unique<OwnConvolution>(
      "depthwise", device, convolution, std::move(bytes),
      [run, args = *args](const OwnConvolution::Call& call) {
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
