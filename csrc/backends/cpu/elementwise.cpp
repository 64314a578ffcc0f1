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
  const nodes::Binary node = nodes::binary(request);
  kernels::BinaryArgs args{};
  args.op = kinds.at(request.node.op);
  args.a_dtype = kernel_type(a.dtype);
  args.b_dtype = b.constant ? kernels::DType::f32 : kernel_type(b.dtype);
  args.count = node.count;
  args.b_count = node.b_count;
  args.out_dtype = kernel_type(request.outputs[0]->dtype);
  args.out_levels = kernel_levels(request.outputs[0]->levels);
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
  const nodes::LayerNorm node = nodes::layer_norm(request);
  kernels::LayerNormArgs args{};
  args.rows = node.rows;
  args.width = node.width;
  args.eps = node.eps;
  args.out_dtype = kernel_type(request.outputs[0]->dtype);
  args.out_levels = kernel_levels(request.outputs[0]->levels);
  const auto run = device.kernels->layer_norm;
  return kernel_operator(
      device, 8.0 * node.rows * node.width, 0,
      [run, args, gamma = floats(*node.gamma), beta = floats(*node.beta)](const Binding& binding) {
        kernels::LayerNormArgs bound = args;
        bound.x = static_cast<const float*>(binding.inputs[0]);
        bound.gamma = gamma.data();
        bound.beta = beta.data();
        bound.residual =
            binding.inputs.size() > 3 ? static_cast<const float*>(binding.inputs[3]) : nullptr;
        bound.out = binding.outputs[0];
        return [run, bound] { run_layer_norm(run, bound); };
      });
}

std::unique_ptr<Operator> make_softmax(const OperatorRequest& request, const Device& device) {
  const nodes::Rows node = nodes::softmax(request);
  const kernels::SoftmaxArgs args{nullptr, node.rows, node.width, nullptr};
  const auto run = device.kernels->softmax;
  return kernel_operator(device, 8.0 * node.rows * node.width, 0,
                         [run, args](const Binding& binding) {
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
  const Tensor& x = *request.inputs[0];
  const nodes::Reduce node = nodes::reduce(request);
  kernels::ReduceArgs args{};
  args.op = kinds.at(request.node.op);
  args.dtype = kernel_type(x.dtype);
  args.rows = node.rows;
  args.width = node.width;
  args.inner = node.inner;
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
  for (Op& op : ops) op.writes_u8 = op.make != make_softmax && op.make != make_reduce;
  return ops;
}

}  // namespace adfast::cpu
