// Element by element, row by row: activations, arithmetic, norms, reductions.
#include <unordered_map>

#include "backends/cuda/backend.h"

namespace adfast::cuda {
namespace {

namespace kernels = adfast::kernels::cuda;

std::unique_ptr<Operator> make_unary(const OperatorRequest& request, Device& device) {
  using enum kernels::Unary;
  static const std::unordered_map<std::string, kernels::Unary> kinds = {
      {"relu", relu}, {"sigmoid", sigmoid}, {"silu", silu}, {"gelu", gelu}, {"tanh", tanh},
      {"sqrt", sqrt}, {"exp", exp},         {"abs", abs},   {"neg", neg},   {"square", square}};
  const Tensor& x = *request.inputs[0];
  nodes::require_result(request, 0, x.shape);
  kernels::UnaryArgs args{};
  args.op = kinds.at(request.node.op);
  args.x_type = kernel_type(x.dtype);
  args.out_type = kernel_type(request.outputs[0]->dtype);
  args.count = element_count(x.shape);
  return kernel_operator(static_cast<double>(args.count), 0,
                         [args, &device](const Binding& binding) {
                           kernels::UnaryArgs bound = args;
                           bound.x = binding.inputs[0];
                           bound.out = binding.outputs[0];
                           return launch(kernels::unary, bound, device, "unary");
                         });
}

std::unique_ptr<Operator> make_binary(const OperatorRequest& request, Device& device) {
  using enum kernels::Binary;
  static const std::unordered_map<std::string, kernels::Binary> kinds = {
      {"add", add}, {"sub", sub}, {"mul", mul}, {"div", div}, {"max", max}, {"min", min}};
  const nodes::Binary node = nodes::binary(request);
  const Tensor& b = *request.inputs[1];
  kernels::BinaryArgs args{};
  args.op = kinds.at(request.node.op);
  args.a_type = kernel_type(request.inputs[0]->dtype);
  args.b_type = kernel_type(b.constant ? DType::f32 : b.dtype);
  args.count = node.count;
  args.b_count = node.b_count;
  args.out_type = kernel_type(request.outputs[0]->dtype);
  const Shared vector = b.constant ? shared_floats(b) : nullptr;
  return kernel_operator(static_cast<double>(args.count), 0,
                         [args, vector, &device](const Binding& binding) {
                           kernels::BinaryArgs bound = args;
                           bound.a = binding.inputs[0];
                           bound.b = vector != nullptr ? vector->data() : binding.inputs[1];
                           bound.out = binding.outputs[0];
                           return launch(kernels::binary, bound, device, "binary");
                         });
}

std::unique_ptr<Operator> make_layer_norm(const OperatorRequest& request, Device& device) {
  const nodes::LayerNorm node = nodes::layer_norm(request);
  kernels::LayerNormArgs args{};
  args.rows = node.rows;
  args.width = node.width;
  args.eps = node.eps;
  args.out_type = kernel_type(request.outputs[0]->dtype);
  return kernel_operator(
      8.0 * node.rows * node.width, 0,
      [args, gamma = shared_floats(*node.gamma), beta = shared_floats(*node.beta),
       residual = node.residual, &device](const Binding& binding) {
        kernels::LayerNormArgs bound = args;
        bound.x = static_cast<const float*>(binding.inputs[0]);
        bound.gamma = floats_of(gamma);
        bound.beta = floats_of(beta);
        bound.residual = residual ? static_cast<const float*>(binding.inputs[3]) : nullptr;
        bound.out = binding.outputs[0];
        return launch(kernels::layer_norm, bound, device, "layer_norm");
      });
}

std::unique_ptr<Operator> make_softmax(const OperatorRequest& request, Device& device) {
  const nodes::Rows node = nodes::softmax(request);
  return kernel_operator(8.0 * node.rows * node.width, 0, [node, &device](const Binding& binding) {
    const kernels::SoftmaxArgs bound{static_cast<const float*>(binding.inputs[0]), node.rows,
                                     node.width, static_cast<float*>(binding.outputs[0])};
    return launch(kernels::softmax, bound, device, "softmax");
  });
}

std::unique_ptr<Operator> make_reduce(const OperatorRequest& request, Device& device) {
  static const std::unordered_map<std::string, kernels::Reduce> kinds = {
      {"reduce_sum", kernels::Reduce::sum},
      {"reduce_mean", kernels::Reduce::mean},
      {"reduce_max", kernels::Reduce::max}};
  const nodes::Reduce node = nodes::reduce(request);
  kernels::ReduceArgs args{};
  args.op = kinds.at(request.node.op);
  args.type = kernel_type(request.inputs[0]->dtype);
  args.rows = node.rows;
  args.width = node.width;
  args.inner = node.inner;
  return kernel_operator(static_cast<double>(node.rows * node.width * node.inner),
                         kernels::reduce_scratch(node.rows, node.width, node.inner),
                         [args, &device](const Binding& binding) {
                           kernels::ReduceArgs bound = args;
                           bound.x = binding.inputs[0];
                           bound.out = static_cast<float*>(binding.outputs[0]);
                           bound.scratch = static_cast<float*>(binding.scratch);
                           return launch(kernels::reduce, bound, device, "reduce");
                         });
}

}  // namespace

std::vector<Op> elementwise_ops() {
  using enum OperandType;
  std::vector<Op> ops = {
      {{"layer_norm", 3, 4, 1, {f32}, ResultType::as_read}, make_layer_norm},
      {{"softmax", 1, 1, 1, {f32}, ResultType::f32}, make_softmax},
  };
  for (const char* name : {"reduce_sum", "reduce_mean", "reduce_max"}) {
    ops.push_back({{name, 1, 1, 1, {any}, ResultType::f32}, make_reduce});
  }
  for (const char* name :
       {"relu", "sigmoid", "silu", "gelu", "tanh", "sqrt", "exp", "abs", "neg"}) {
    ops.push_back({{name, 1, 1, 1, {any}, ResultType::as_first}, make_unary});
  }
  // Squares, differences, products and quotients stay in f32: they are what scores are made of.
  ops.push_back({{"square", 1, 1, 1, {any}, ResultType::f32}, make_unary});
  for (const char* name : {"sub", "div"}) {
    ops.push_back({{name, 2, 2, 1, {any}, ResultType::f32}, make_binary});
  }
  ops.push_back({{"mul", 2, 2, 1, {any}, ResultType::product}, make_binary});
  for (const char* name : {"add", "max", "min"}) {
    ops.push_back({{name, 2, 2, 1, {any}, ResultType::sum}, make_binary});
  }
  return ops;
}

}  // namespace adfast::cuda
