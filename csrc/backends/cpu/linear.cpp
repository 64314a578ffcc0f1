// Products with constant weights by oneDNN: y = activation(x weight^T + bias + residual).
//
// Tokens are f32. With bf16 features, a product of many rows takes x and the weight rounded to bf16
// and still sums, adds and activates in f32: a transformer over pixels spends its time here.
#include <tuple>

#include "backends/cpu/linear_tiles.h"
#include "backends/cpu/onednn.h"

namespace adfast::cpu {
namespace {

using dnnl::memory;

std::unique_ptr<Operator> make_linear(const OperatorRequest& request, const Device& device) {
  const nodes::Linear linear = nodes::linear(request);
  if (auto own = make_linear_tiles(request, device, linear)) return own;
  const auto [rows, depth, width] = std::tuple(linear.rows, linear.depth, linear.width);

  const auto f32 = memory::data_type::f32;
  const auto type = onednn_type(request.inputs[0]->dtype);
  const memory::desc x_desc({rows, depth}, type, memory::format_tag::ab);
  const memory::desc y_desc({rows, width}, onednn_type(request.outputs[0]->dtype),
                            memory::format_tag::ab);
  const bool int8 = is_int8(request);
  const auto s8 = memory::data_type::s8;
  const memory::desc plain({depth, width}, int8 ? s8 : f32, memory::dims{1, depth});
  const memory::desc any({depth, width}, int8 ? s8 : type, memory::format_tag::any);
  const Tensor *bias = linear.bias, *residual = linear.residual;
  memory::desc bias_desc;
  if (bias != nullptr) bias_desc = memory::desc({1, width}, f32, memory::format_tag::ab);
  const memory::desc residual_desc({rows, width}, f32, memory::format_tag::ab);
  dnnl::primitive_attr attr =
      fused_attributes(linear.activation, residual != nullptr, residual_desc);
  if (int8) set_levels(&attr, request, 2);
  const dnnl::matmul::primitive_desc desc(device.engine, x_desc, any, bias_desc, y_desc, attr);
  std::vector<Argument> constants;
  if (int8) {
    constants = int8_arguments(device, request, plain, desc.weights_desc());
  } else {
    constants = {
        {DNNL_ARG_WEIGHTS, packed(device.engine, *linear.weight, plain, desc.weights_desc())}};
  }
  if (bias != nullptr) {
    constants.push_back({DNNL_ARG_BIAS, packed(device.engine, *bias, bias_desc, bias_desc)});
  }
  std::vector<Slot> slots = {{DNNL_ARG_SRC, x_desc, Slot::input, 0},
                             {DNNL_ARG_DST, y_desc, Slot::output, 0}};
  if (residual != nullptr) {
    slots.push_back(
        {DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1, residual_desc, Slot::input, 3});
  }
  return std::make_unique<OnednnOperator>(dnnl::matmul(desc), desc, device.engine,
                                          std::move(constants), std::move(slots),
                                          2.0 * rows * depth * width);
}

}  // namespace

std::vector<Op> linear_ops() {
  return {{{"linear", 2, 4, 1, {OperandType::f32}, ResultType::as_read, -1, true}, make_linear}};
}

}  // namespace adfast::cpu
