// Products with constant weights by oneDNN: y = activation(x weight^T + bias + residual).
//
// Tokens are f32. With bf16 features, a product of many rows rounds x and the weight to bf16 and
// still sums, adds and activates in f32: a transformer over pixels spends its time here. A few rows
// (the token groups of GTrans) wait for the weights, not for the arithmetic, and stay exact.
#include "backends/cpu/onednn.h"

namespace adfast::cpu {
namespace {

using dnnl::memory;

constexpr int64_t kManyRows = 64;

// Runs `product` on its first input rounded to bf16.
class RoundedInput final : public Operator {
 public:
  RoundedInput(std::unique_ptr<Operator> product, const Device& device, int64_t count)
      : product_(std::move(product)),
        convert_(device.kernels->unary),
        count_(count),
        offset_((static_cast<size_t>(count) * size_of(DType::bf16) + 63) / 64 * 64) {}

  std::function<void()> bind(const Binding& binding) const override {
    Binding rounded = binding;
    rounded.inputs[0] = binding.scratch;
    rounded.scratch = static_cast<std::byte*>(binding.scratch) + offset_;
    const kernels::UnaryArgs args{kernels::Unary::identity, binding.inputs[0],
                                  kernels::DType::f32,      binding.scratch,
                                  kernels::DType::bf16,     count_};
    return [args, convert = convert_, product = product_->bind(rounded)] {
      convert(args);
      product();
    };
  }
  size_t scratch_bytes() const override { return offset_ + product_->scratch_bytes(); }
  double flops() const override { return product_->flops(); }
  std::string kernel() const override { return product_->kernel() + ",bf16"; }

 private:
  std::unique_ptr<Operator> product_;
  void (*convert_)(const kernels::UnaryArgs&);
  int64_t count_;
  size_t offset_;
};

// On AVX-512 without bf16 products, oneDNN would widen every operand again.
bool multiplies_bf16() {
  const auto isa = static_cast<int>(dnnl::get_effective_cpu_isa());
  return (isa & static_cast<int>(dnnl::cpu_isa::avx512_core_bf16)) ==
         static_cast<int>(dnnl::cpu_isa::avx512_core_bf16);
}

std::unique_ptr<Operator> make_linear(const OperatorRequest& request, const Device& device) {
  const Node& node = request.node;
  const Shape& x = request.inputs[0]->shape;
  const Tensor& weight = constant(request, 1);
  require(!x.empty() && x.size() != 4, node,
          "input 0: expected tokens [..,K], got " + to_string(x));
  require(weight.shape.size() == 2 && weight.shape[1] == x.back(), node,
          "weight: expected [N," + std::to_string(x.back()) + "], got " + to_string(weight.shape));
  const int64_t depth = x.back(), width = weight.shape[0], rows = element_count(x) / depth;
  Shape y = x;
  y.back() = width;
  require_result(request, 0, y);

  const auto f32 = memory::data_type::f32;
  const bool narrow = device.features == DType::bf16 && rows >= kManyRows && multiplies_bf16();
  const auto type = narrow ? memory::data_type::bf16 : f32;
  const memory::desc x_desc({rows, depth}, type, memory::format_tag::ab);
  const memory::desc y_desc({rows, width}, f32, memory::format_tag::ab);
  const memory::desc plain({depth, width}, f32, memory::dims{1, depth});
  const memory::desc any({depth, width}, type, memory::format_tag::any);
  const Tensor* bias = input_or_null(request, 2);
  const Tensor* residual = input_or_null(request, 3);
  memory::desc bias_desc;
  if (bias != nullptr) {
    constant(request, 2);
    require_shape(request, 2, {width});
    bias_desc = memory::desc({1, width}, f32, memory::format_tag::ab);
  }
  if (residual != nullptr) require_shape(request, 3, y);
  const dnnl::matmul::primitive_desc desc(device.engine, x_desc, any, bias_desc, y_desc,
                                          fused_attributes(node, residual != nullptr, y_desc));
  std::vector<Argument> constants = {
      {DNNL_ARG_WEIGHTS, packed(device.engine, weight, plain, desc.weights_desc())}};
  if (bias != nullptr) {
    constants.push_back({DNNL_ARG_BIAS, packed(device.engine, *bias, bias_desc, bias_desc)});
  }
  std::vector<Slot> slots = {{DNNL_ARG_SRC, x_desc, Slot::input, 0},
                             {DNNL_ARG_DST, y_desc, Slot::output, 0}};
  if (residual != nullptr) {
    slots.push_back({DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1, y_desc, Slot::input, 3});
  }
  auto product = std::make_unique<OnednnOperator>(dnnl::matmul(desc), desc, device.engine,
                                                  std::move(constants), std::move(slots),
                                                  2.0 * rows * depth * width);
  if (!narrow) return product;
  return std::make_unique<RoundedInput>(std::move(product), device, rows * depth);
}

}  // namespace

std::vector<Op> linear_ops() {
  return {{"linear", 2, 4, 1, {OperandType::f32}, Op::Result::f32, make_linear}};
}

}  // namespace adfast::cpu
