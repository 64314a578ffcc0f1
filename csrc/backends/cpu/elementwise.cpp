// Element by element, row by row: activations, arithmetic, norms, reductions.
#include <unordered_map>

#include "backends/cpu/backend.h"

namespace adfast::cpu {
namespace {

std::unique_ptr<Operator> make_unary(const OperatorRequest& request, const Device& device) {
  using enum kernels::Unary;
  static const std::unordered_map<std::string, kernels::Unary> kinds = {
      {"relu", relu}, {"sigmoid", sigmoid}, {"silu", silu}, {"gelu", gelu}, {"tanh", tanh},
      {"sqrt", sqrt}, {"exp", exp},         {"abs", abs},   {"neg", neg},   {"square", square}};
  const Tensor& x = *request.inputs[0];
  require_result(request, 0, x.shape);
  const kernels::UnaryArgs args{kinds.at(request.node.op),
                                nullptr,
                                kernel_type(x.dtype),
                                nullptr,
                                kernel_type(request.outputs[0]->dtype),
                                element_count(x.shape),
                                kernel_levels(request.outputs[0]->levels)};
  const auto run = device.kernels->unary;
  return kernel_operator(device, static_cast<double>(args.count), 0,
                         [run, args](const Binding& binding) {
                           kernels::UnaryArgs bound = args;
                           bound.x = binding.inputs[0];
                           bound.out = binding.outputs[0];
                           return [run, bound] { share_unary(run, bound); };
                         });
}

// b may be a scalar, a vector along the channels, one window's tokens, or of a's shape. All but the
// last are constant, or the vector is the gate of a squeeze-and-excite block.
int64_t broadcast_count(const OperatorRequest& request) {
  const Shape& a = request.inputs[0]->shape;
  const Tensor& b = *request.inputs[1];
  if (b.shape == a) return element_count(a);
  const int64_t channels = a.empty() ? 1 : a.size() == 4 ? a[1] : a.back();
  const Shape vector = a.size() == 4 ? Shape{1, channels, 1, 1} : Shape{channels};
  const int64_t count = element_count(b.shape);
  if (b.constant && a.size() == 3 && b.shape == Shape{1, a[1], a[2]}) return count;
  const bool gate = request.node.op == "mul" && a.size() == 4 && b.shape == vector;
  require((b.constant && (count == 1 || b.shape == vector)) || gate, request.node,
          "second input: expected " + to_string(a) + ", a constant scalar or a constant " +
              to_string(vector) + ", got " + to_string(b.shape));
  return count;
}

// Whole repetitions of b are shared out; two operands of one size, in blocks.
void run_binary(void (*run)(const kernels::BinaryArgs&), const kernels::BinaryArgs& args) {
  constexpr int64_t block = 1024;
  const bool same = args.b_count == args.count;
  const int64_t width = same || args.b_count == 1 ? block : args.b_count;
  share_rows((args.count + width - 1) / width, width, [&](int64_t begin, int64_t end) {
    const auto at = [&](kernels::DType type) {
      return begin * width * static_cast<int64_t>(size_of(static_cast<DType>(type)));
    };
    kernels::BinaryArgs mine = args;
    mine.a = static_cast<const std::byte*>(args.a) + at(args.a_dtype);
    if (same) mine.b = static_cast<const std::byte*>(args.b) + at(args.b_dtype);
    mine.out = static_cast<std::byte*>(args.out) + at(args.out_dtype);
    mine.count = std::min(args.count, end * width) - begin * width;
    if (same) mine.b_count = mine.count;
    run(mine);
  });
}

std::unique_ptr<Operator> make_binary(const OperatorRequest& request, const Device& device) {
  using enum kernels::Binary;
  static const std::unordered_map<std::string, kernels::Binary> kinds = {
      {"add", add}, {"sub", sub}, {"mul", mul}, {"div", div}, {"max", max}, {"min", min}};
  const Tensor& a = *request.inputs[0];
  const Tensor& b = *request.inputs[1];
  require(!a.constant, request.node, "the first input must be computed, not constant");
  require_result(request, 0, a.shape);
  kernels::BinaryArgs args{};
  args.op = kinds.at(request.node.op);
  args.a_dtype = kernel_type(a.dtype);
  args.b_dtype = b.constant ? kernels::DType::f32 : kernel_type(b.dtype);
  args.count = element_count(a.shape);
  args.b_count = broadcast_count(request);
  args.out_dtype = kernel_type(request.outputs[0]->dtype);
  args.out_levels = kernel_levels(request.outputs[0]->levels);
  // A constant of a's shape would lie in the plan as NCHW; only vectors have one layout.
  require(!b.constant || args.b_count < args.count || a.shape.size() != 4 || args.count == 1 ||
              a.shape[1] == 1 || a.shape[2] * a.shape[3] == 1,
          request.node, "a constant as large as the feature map");
  std::vector<float> vector;
  if (b.constant) vector = floats(b);
  const auto run = device.kernels->binary;
  return kernel_operator(device, static_cast<double>(args.count), 0,
                         [run, args, vector](const Binding& binding) {
                           kernels::BinaryArgs bound = args;
                           bound.a = binding.inputs[0];
                           bound.b = vector.empty() ? binding.inputs[1] : vector.data();
                           bound.out = binding.outputs[0];
                           return [run, bound] { run_binary(run, bound); };
                         });
}

void run_layer_norm(void (*run)(const kernels::LayerNormArgs&),
                    const kernels::LayerNormArgs& args) {
  const auto size = static_cast<int64_t>(size_of(static_cast<DType>(args.out_dtype)));
  share_rows(args.rows, args.width, [&](int64_t begin, int64_t end) {
    kernels::LayerNormArgs mine = args;
    mine.rows = end - begin;
    mine.x += begin * args.width;
    if (args.residual != nullptr) mine.residual += begin * args.width;
    mine.out = static_cast<std::byte*>(args.out) + begin * args.width * size;
    run(mine);
  });
}

std::unique_ptr<Operator> make_layer_norm(const OperatorRequest& request, const Device& device) {
  const Shape& x = request.inputs[0]->shape;
  require(!x.empty() && x.size() != 4, request.node,
          "input 0: expected tokens [..,D], got " + to_string(x));
  const int64_t width = x.back();
  require_shape(request, 1, {width});
  require_shape(request, 2, {width});
  if (input_or_null(request, 3) != nullptr) require_shape(request, 3, x);
  require_result(request, 0, x);
  kernels::LayerNormArgs args{};
  args.rows = element_count(x) / width;
  args.width = width;
  args.eps = static_cast<float>(request.node.attrs.real("eps"));
  args.out_dtype = kernel_type(request.outputs[0]->dtype);
  args.out_levels = kernel_levels(request.outputs[0]->levels);
  const auto run = device.kernels->layer_norm;
  return kernel_operator(device, 8.0 * element_count(x), 0,
                         [run, args, gamma = floats(constant(request, 1)),
                          beta = floats(constant(request, 2))](const Binding& binding) {
                           kernels::LayerNormArgs bound = args;
                           bound.x = static_cast<const float*>(binding.inputs[0]);
                           bound.gamma = gamma.data();
                           bound.beta = beta.data();
                           bound.residual = binding.inputs.size() > 3
                                                ? static_cast<const float*>(binding.inputs[3])
                                                : nullptr;
                           bound.out = binding.outputs[0];
                           return [run, bound] { run_layer_norm(run, bound); };
                         });
}

std::unique_ptr<Operator> make_softmax(const OperatorRequest& request, const Device& device) {
  const Shape& x = request.inputs[0]->shape;
  require(!x.empty() && x.size() != 4, request.node,
          "input 0: expected tokens [..,D], got " + to_string(x));
  require_result(request, 0, x);
  const kernels::SoftmaxArgs args{nullptr, element_count(x) / x.back(), x.back(), nullptr};
  const auto run = device.kernels->softmax;
  return kernel_operator(device, 8.0 * element_count(x), 0, [run, args](const Binding& binding) {
    kernels::SoftmaxArgs bound = args;
    bound.x = static_cast<const float*>(binding.inputs[0]);
    bound.out = static_cast<float*>(binding.outputs[0]);
    return [run, bound] { run(bound); };
  });
}

void run_reduce(void (*run)(const kernels::ReduceArgs&), const kernels::ReduceArgs& args) {
  const int64_t size = args.width * args.inner;
  share_rows(args.rows, size, [&](int64_t begin, int64_t end) {
    kernels::ReduceArgs mine = args;
    mine.rows = end - begin;
    mine.x = static_cast<const std::byte*>(args.x) +
             begin * size * static_cast<int64_t>(size_of(static_cast<DType>(args.dtype)));
    mine.out += begin * args.inner;
    run(mine);
  });
}

std::unique_ptr<Operator> make_reduce(const OperatorRequest& request, const Device& device) {
  static const std::unordered_map<std::string, kernels::Reduce> kinds = {
      {"reduce_sum", kernels::Reduce::sum},
      {"reduce_mean", kernels::Reduce::mean},
      {"reduce_max", kernels::Reduce::max}};
  const Node& node = request.node;
  const Tensor& x = *request.inputs[0];
  require(x.shape.size() == 3 || x.shape.size() == 4, node,
          "input 0: expected [1,C,H,W] or [W,t,D], got " + to_string(x.shape));
  const std::vector<int64_t>& axes = node.attrs.integers("axes");
  kernels::ReduceArgs args{};
  args.op = kinds.at(node.op);
  args.dtype = kernel_type(x.dtype);
  if (x.shape.size() == 3) {
    require(axes == std::vector<int64_t>{1}, node, "axes: expected [1], got " + to_string(axes));
    args.rows = x.shape[0];
    args.width = x.shape[1];
    args.inner = x.shape[2];
    require_result(request, 0, {x.shape[0], x.shape[2]});
  } else if (axes == std::vector<int64_t>{1}) {
    args.rows = x.shape[2] * x.shape[3];
    args.width = x.shape[1];
    require_result(request, 0, {1, 1, x.shape[2], x.shape[3]});
  } else {
    require(axes == std::vector<int64_t>{1, 2, 3} && x.shape[1] == 1, node,
            "axes: expected [1], or [1,2,3] of one channel, got " + to_string(axes) + " of " +
                to_string(x.shape));
    args.rows = 1;
    args.width = element_count(x.shape);
    require(element_count(request.outputs[0]->shape) == 1, node, "output: expected one number");
  }
  const auto run = device.kernels->reduce;
  return kernel_operator(device, static_cast<double>(element_count(x.shape)), 0,
                         [run, args](const Binding& binding) {
                           kernels::ReduceArgs bound = args;
                           bound.x = binding.inputs[0];
                           bound.out = static_cast<float*>(binding.outputs[0]);
                           return [run, bound] { run_reduce(run, bound); };
                         });
}

}  // namespace

std::vector<Op> elementwise_ops() {
  using enum OperandType;
  std::vector<Op> ops = {
      {"layer_norm", 3, 4, 1, {f32}, Op::Result::as_read, make_layer_norm},
      {"softmax", 1, 1, 1, {f32}, Op::Result::f32, make_softmax},
  };
  for (const char* name : {"reduce_sum", "reduce_mean", "reduce_max"}) {
    ops.push_back({name, 1, 1, 1, {any}, Op::Result::f32, make_reduce});
  }
  for (const char* name :
       {"relu", "sigmoid", "silu", "gelu", "tanh", "sqrt", "exp", "abs", "neg"}) {
    ops.push_back({name, 1, 1, 1, {any}, Op::Result::as_first, make_unary});
  }
  // Squares, differences, products and quotients stay in f32: they are what scores are made of.
  ops.push_back({"square", 1, 1, 1, {any}, Op::Result::f32, make_unary});
  for (const char* name : {"sub", "div"}) {
    ops.push_back({name, 2, 2, 1, {any}, Op::Result::f32, make_binary});
  }
  ops.push_back({"mul", 2, 2, 1, {any}, Op::Result::product, make_binary});
  for (const char* name : {"add", "max", "min"}) {
    ops.push_back({name, 2, 2, 1, {any}, Op::Result::sum, make_binary});
  }
  for (Op& op : ops) op.writes_u8 = op.make != make_softmax && op.make != make_reduce;
  return ops;
}

}  // namespace adfast::cpu
