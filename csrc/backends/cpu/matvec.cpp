#include "backends/cpu/matvec.h"

#include "backends/cpu/own.h"

namespace adfast::cpu {
namespace {

// [width][depth] to panels of kMatvecPanel outputs, each [depth][kMatvecPanel], zeros past the
// last.
std::vector<float> panels_of(const Tensor& weight) {
  constexpr size_t panel = kernels::kMatvecPanel;
  const std::vector<float> values = floats(weight);
  const auto width = static_cast<size_t>(weight.shape[0]);
  const size_t depth = values.size() / width;
  std::vector<float> result((width + panel - 1) / panel * panel * depth);
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t row = i / depth, column = i % depth;
    result[(row / panel * depth + column) * panel + row % panel] = values[i];
  }
  return result;
}

}  // namespace

std::unique_ptr<Operator> make_matvec(const OperatorRequest& request, const Device& device,
                                      const nodes::Convolution& convolution) {
  const Shape &x = convolution.x, &y = convolution.y;
  const auto activation = own_activation(convolution.activation);
  if (!own_kernel(request, device) || convolution.residual != nullptr || !activation)
    return nullptr;
  if (x[2] * x[3] != 1 || y[2] * y[3] != 1) return nullptr;

  kernels::MatvecArgs args{};
  args.dtype = kernel_type(device.features);
  args.depth = x[1];
  args.width = y[1];
  args.activation = *activation;
  const std::vector<float> weight = panels_of(*convolution.weight);
  std::vector<std::byte> packed(weight.size() * size_of(device.features));
  device.kernels->unary({kernels::Unary::identity, weight.data(), kernels::DType::f32,
                         packed.data(), args.dtype, std::ssize(weight)});
  const auto run = device.kernels->matvec;
  return std::make_unique<OwnConvolution>("matvec", device, convolution, std::move(packed),
                                          [run, args](const OwnConvolution::Call& call) {
                                            kernels::MatvecArgs bound = args;
                                            bound.x = call.x;
                                            bound.weight = call.weight;
                                            bound.bias = call.bias;
                                            bound.y = call.y;
                                            return [run, bound] { run(bound); };
                                          });
}

}  // namespace adfast::cpu
