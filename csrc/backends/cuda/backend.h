// The CUDA backend: a table of ops over cuDNN (convolutions), cuBLASLt (products) and our kernels.
// Operators put their work on the device's stream and wait for nothing.
#pragma once
#include <array>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "backends/cuda/device.h"
#include "runtime/nodes.h"
#include "runtime/op_rules.h"
#include "runtime/operator.h"

namespace adfast::cuda {

struct Op {
  OpRules rules;
  std::unique_ptr<Operator> (*make)(const OperatorRequest&, Device&);
};

// Families; each returns its rows.
std::vector<Op> convolution_ops();
std::vector<Op> linear_ops();
std::vector<Op> attention_ops();
std::vector<Op> score_ops();
std::vector<Op> elementwise_ops();
std::vector<Op> shape_ops();
std::vector<Op> engine_ops();

std::unique_ptr<Backend> make_cuda_backend(Device& device);

// The function that a kernel's launcher and its bound arguments make.
template <class Args>
std::function<void()> launch(cudaError_t (*launcher)(const Args&, cudaStream_t), Args args,
                             const Device& device, const char* name) {
  return
      [launcher, args, stream = device.lane->stream, name] { check(launcher(args, stream), name); };
}

// An operator over one of our kernels; `bind` returns the call. `scratch` is in floats.
inline std::unique_ptr<Operator> kernel_operator(double flops, size_t scratch,
                                                 SimpleOperator::Bind bind) {
  return std::make_unique<SimpleOperator>("adfast:cuda", flops, scratch * sizeof(float),
                                          std::move(bind));
}

// Constants that several bindings of an operator share.
using Shared = std::shared_ptr<const Buffer>;
inline Shared shared(Buffer buffer) { return std::make_shared<const Buffer>(std::move(buffer)); }
inline Shared shared_floats(const Tensor& constant) {
  return shared(uploaded(std::span<const float>(nodes::floats(constant))));
}
// Null stays null.
inline Shared shared_floats(const Tensor* constant) {
  return constant == nullptr ? nullptr : shared_floats(*constant);
}
inline const float* floats_of(const Shared& buffer) {
  return buffer == nullptr ? nullptr : buffer->as<const float>();
}

inline kernels::cuda::Unary kernel_activation(nodes::Activation activation) {
  using kernels::cuda::Unary;
  static constexpr Unary kinds[] = {Unary::identity, Unary::relu, Unary::sigmoid,
                                    Unary::silu,     Unary::gelu, Unary::tanh};
  return kinds[static_cast<int>(activation)];
}

// y[rows][width] = activation(x[rows][depth] weight[width][depth]^T + bias + residual) by cuBLASLt:
// a linear layer, or a 1x1 convolution with a row for each pixel.
struct Product {
  int64_t rows, depth, width;
  std::vector<float> weight;  // [width][depth]
  const Tensor* bias;         // [width] or null
  const Tensor* residual;     // [rows][width] or null, input 3
  nodes::Activation activation;
};
std::unique_ptr<Operator> make_product(const OperatorRequest& request, Device& device,
                                       const Product& product);

// A convolution without groups, or a product as one of 1x1 over `rows` pixels.
struct ConvSizes {
  std::array<int64_t, 2> in, out, kernel, strides, begin, dilations;
  int64_t channels, out_channels;
};
// Tile of kernels/triton/conv2d.py, and among how many programs the depth is shared.
struct ConvTile {
  const TritonKernel* kernel;
  int64_t splits;
};
// What is the quickest for these sizes; null where the kernels do not serve.
std::optional<ConvTile> conv_tile(const OperatorRequest& request, Device& device,
                                  const ConvSizes& sizes, nodes::Activation activation);
// `weight`: [out_channels][kernel height][kernel width][channels].
std::unique_ptr<Operator> make_fused_conv(Device& device, const ConvSizes& sizes,
                                          const ConvTile& tile, std::span<const float> weight,
                                          const Tensor* bias, bool residual,
                                          nodes::Activation activation);

}  // namespace adfast::cuda
