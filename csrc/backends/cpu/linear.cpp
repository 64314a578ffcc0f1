// Products with constant weights by oneDNN: y = activation(x weight^T + bias + residual).
//
// Tokens are f32. With bf16 features, a product of many rows takes x and the weight rounded to bf16
// and still sums, adds and activates in f32: a transformer over pixels spends its time here.
#include <tuple>

#include "backends/cpu/linear_tiles.h"
#include "backends/cpu/onednn.h"
#include "backends/cpu/strassen.h"

namespace adfast::cpu {
namespace {

using dnnl::memory;

// Of x, the weight (as the plan has it) and y: [rows][columns], or pixels in a row with channels.
struct Descriptions {
  memory::desc x, plain, any, bias, y, residual;
};

Descriptions as_matrices(const OperatorRequest& request, const nodes::Linear& linear) {
  const auto [rows, depth, width] = std::tuple(linear.rows, linear.depth, linear.width);
  const bool int8 = is_int8(request);
  const auto f32 = memory::data_type::f32, s8 = memory::data_type::s8;
  const auto type = onednn_type(request.inputs[0]->dtype);
  const auto ab = memory::format_tag::ab;
  return {memory::desc({rows, depth}, type, ab),
          memory::desc({depth, width}, int8 ? s8 : f32, memory::dims{1, depth}),
          memory::desc({depth, width}, int8 ? s8 : type, memory::format_tag::any),
          linear.bias == nullptr ? memory::desc() : memory::desc({1, width}, f32, ab),
          memory::desc({rows, width}, onednn_type(request.outputs[0]->dtype), ab),
          memory::desc({rows, width}, f32, ab)};
}

Descriptions as_pixels(const OperatorRequest& request, const nodes::Linear& linear) {
  const auto [rows, depth, width] = std::tuple(linear.rows, linear.depth, linear.width);
  const auto f32 = memory::data_type::f32;
  const auto nhwc = memory::format_tag::nhwc;
  return {
      memory::desc({1, depth, 1, rows}, onednn_type(request.inputs[0]->dtype), nhwc),
      memory::desc({width, depth, 1, 1}, f32, memory::format_tag::oihw),
      memory::desc({width, depth, 1, 1}, onednn_type(request.inputs[0]->dtype),
                   memory::format_tag::any),
      linear.bias == nullptr ? memory::desc() : memory::desc({width}, f32, memory::format_tag::x),
      memory::desc({1, width, 1, rows}, onednn_type(request.outputs[0]->dtype), nhwc),
      memory::desc({1, width, 1, rows}, f32, nhwc)};
}

std::unique_ptr<Operator> make_linear(const OperatorRequest& request, const Device& device) {
  const nodes::Linear linear = nodes::linear(request);
  if (auto own = make_linear_tiles(request, device, linear)) return own;
  if (auto own = make_strassen(request, device, linear)) return own;
  const Tensor *bias = linear.bias, *residual = linear.residual;
  const bool int8 = is_int8(request);

  Descriptions parts = as_matrices(request, linear);
  const auto attributes = [&] {
    auto attr = fused_attributes(linear.activation, residual != nullptr, parts.residual);
    if (int8) set_levels(&attr, request, 2);
    return attr;
  };
  const auto finished = [&](const dnnl::primitive& primitive, const auto& desc) {
    std::vector<Argument> constants;
    if (int8) {
      constants = int8_arguments(device, request, parts.plain, desc.weights_desc());
    } else {
      constants = {{DNNL_ARG_WEIGHTS,
                    packed(device.engine, *linear.weight, parts.plain, desc.weights_desc())}};
    }
    if (bias != nullptr) {
      constants.push_back({DNNL_ARG_BIAS, packed(device.engine, *bias, parts.bias, parts.bias)});
    }
    std::vector<Slot> slots = {{DNNL_ARG_SRC, parts.x, Slot::input, 0},
                               {DNNL_ARG_DST, parts.y, Slot::output, 0}};
    if (residual != nullptr) {
      slots.push_back(
          {DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1, parts.residual, Slot::input, 3});
    }
    return std::make_unique<OnednnOperator>(
        primitive, desc, device.engine, std::move(constants), std::move(slots),
        2.0 * static_cast<double>(linear.rows * linear.depth * linear.width));
  };
  const dnnl::matmul::primitive_desc product(device.engine, parts.x, parts.any, parts.bias, parts.y,
                                             attributes());
  // Without AVX-512 oneDNN multiplies floats by its GEMM, which walks over the results once more
  // for bias and activation, and shares out the terms of few rows' sums among threads, so that bits
  // depend on their number. Its convolutions do neither.
  const bool twice = std::string(product.impl_info_str()).starts_with("gemm:");
  if (int8 || !twice) {
    return finished(dnnl::matmul(product), product);
  }
  parts = as_pixels(request, linear);
  const dnnl::convolution_forward::primitive_desc convolution(
      device.engine, dnnl::prop_kind::forward_inference, dnnl::algorithm::convolution_direct,
      parts.x, parts.any, parts.bias, parts.y, {1, 1}, {0, 0}, {0, 0}, {0, 0}, attributes());
  return finished(dnnl::convolution_forward(convolution), convolution);
}

}  // namespace

std::vector<Op> linear_ops() {
  return {{{"linear", 2, 4, 1, {OperandType::f32}, ResultType::as_read, -1, true}, make_linear}};
}

}  // namespace adfast::cpu
