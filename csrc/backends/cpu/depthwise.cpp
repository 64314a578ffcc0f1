#include "backends/cpu/depthwise.h"

namespace adfast::cpu {
namespace {

// [channels][1][kernel][kernel] to [kernel][kernel][channels].
std::vector<float> channels_last(const Tensor& weight) {
  const std::vector<float> values = floats(weight);
  const auto channels = static_cast<size_t>(weight.shape[0]);
  const size_t taps = values.size() / channels;
  std::vector<float> result(values.size());
  for (size_t i = 0; i < values.size(); ++i) result[i % taps * channels + i / taps] = values[i];
  return result;
}

}  // namespace

std::unique_ptr<Operator> make_depthwise(const OperatorRequest& request, const Device& device,
                                         const nodes::Convolution& convolution) {
  const nodes::Window& window = convolution.window;
  const Shape &x = convolution.x, &y = convolution.y;
  const int64_t kernel = window.kernel[0], stride = window.strides[0];
  if (request.inputs[0]->dtype != device.features || request.outputs[0]->dtype != device.features) {
    return nullptr;
  }
  if (convolution.residual != nullptr || y[1] != x[1]) return nullptr;
  if (window.kernel[1] != kernel || (kernel != 3 && kernel != 5)) return nullptr;
  if (window.strides[1] != stride || stride > 2) return nullptr;
  const nodes::Activation activation = convolution.activation;
  if (activation != nodes::Activation::none && activation != nodes::Activation::relu &&
      activation != nodes::Activation::silu) {
    return nullptr;
  }
  // oneDNN has vectors where our scalar kernels have none.
  if (device.tactic(request.node) == "direct") return nullptr;
  if (device.kernels->isa == kernels::Isa::scalar) return nullptr;

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
  args.activation = activation == nodes::Activation::silu   ? kernels::Unary::silu
                    : activation == nodes::Activation::relu ? kernels::Unary::relu
                                                            : kernels::Unary::identity;
  const auto run = device.kernels->depthwise;
  const Tensor* bias = convolution.bias;
  return std::make_unique<SimpleOperator>(
      std::string("adfast:depthwise:") + device.kernels->name, convolution.flops, 0,
      [run, args, weight = channels_last(*convolution.weight),
       bias = bias == nullptr ? std::vector<float>() : floats(*bias)](const Binding& binding) {
        kernels::DepthwiseArgs bound = args;
        bound.x = binding.inputs[0];
        bound.weight = weight.data();
        bound.bias = bias.empty() ? nullptr : bias.data();
        bound.y = binding.outputs[0];
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
