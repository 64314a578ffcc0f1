#include "runtime/op_rules.h"

#include <algorithm>
#include <iterator>
#include <string_view>

#include "runtime/nodes.h"

namespace adfast {
namespace {

// Fewer wait for the weights, not for the arithmetic, and stay exact: the token groups of GTrans.
constexpr int64_t many_rows = 64;

OperandType type_of(const OpRules& rules, size_t input) {
  if (rules.operands.empty()) return OperandType::any;
  return rules.operands[std::min(input, rules.operands.size() - 1)];
}

// Where a constant may stand: what an operator packs when it is made. Elsewhere it would read the
// arena, in which a constant has no place. The flags of python/adfast/compiler/ops.py.
bool may_be_constant(std::string_view op, size_t input) {
  if (op == "concat" || op == "attention" || op == "window_gather") return true;
  if (op == "conv2d" || op == "linear" || op == "token_attention" || op == "layer_norm") {
    return input == 1 || input == 2;
  }
  if (op == "halo_attention") return input == 3 || input == 4;
  if (op == "fuse_maps") return input == 9;
  static constexpr std::string_view second[] = {"gaussian_blur", "calibrate_map", "add", "sub",
                                                "mul",           "div",           "max", "min"};
  return input == 1 && std::find(std::begin(second), std::end(second), op) != std::end(second);
}

}  // namespace

std::optional<Storage> operand_storage(const OpRules& rules, const NarrowTypes& types, size_t input,
                                       const Shape& shape) {
  const OperandType type = type_of(rules, input);
  if (type == OperandType::any || type == OperandType::index) return std::nullopt;
  if (rules.product && input == 0 && !shape.empty()) {
    const int64_t rows = element_count(shape) / shape.back();
    return Storage{rows >= many_rows ? types.products : DType::f32, {}};
  }
  // Tokens, maps and statistics stay in f32; only feature maps are stored narrower.
  const bool narrow =
      type == OperandType::narrow || (type == OperandType::features && shape.size() == 4);
  return Storage{narrow ? types.features : DType::f32, {}};
}

DType result_type(const OpRules& rules, const NarrowTypes& types, const Shape& shape,
                  std::span<const Tensor* const> inputs, const std::optional<Storage>& wanted) {
  const bool map = shape.size() == 4;
  switch (rules.result) {
    case ResultType::f32:
      return DType::f32;
    case ResultType::features:
      return map ? types.features : DType::f32;
    case ResultType::narrow:
      return types.features;
    case ResultType::as_read:
      // Rounded where it is made instead of where it is read: the same numbers, half the traffic.
      return wanted && wanted->dtype == types.features ? types.features : DType::f32;
    case ResultType::as_first:
      return inputs.empty() || inputs[0] == nullptr ? DType::f32 : inputs[0]->dtype;
    case ResultType::product:
      // check_operands, which comes later, refuses what has no two operands.
      if (inputs.size() < 2 || inputs[0] == nullptr) return DType::f32;
      // A gated feature map is one; a product of two maps is part of a score.
      return inputs[1] != nullptr && !inputs[1]->constant && inputs[1]->shape != shape
                 ? inputs[0]->dtype
                 : DType::f32;
    case ResultType::sum:
      // The sum of two narrow feature maps may be narrow; a difference may not (it cancels).
      for (const Tensor* input : inputs) {
        if (input != nullptr && !input->constant && input->dtype == DType::f32) return DType::f32;
      }
      return map ? types.features : DType::f32;
  }
  return DType::f32;
}

void check_operands(const OpRules& rules, const OperatorRequest& request) {
  using nodes::require;
  const size_t given = request.inputs.size();
  require(given >= rules.min_inputs && given <= rules.max_inputs, request.node,
          "takes " + std::to_string(rules.min_inputs) + " to " + std::to_string(rules.max_inputs) +
              " inputs, got " + std::to_string(given));
  require(request.outputs.size() == rules.outputs, request.node,
          "has " + std::to_string(rules.outputs) + " outputs, got " +
              std::to_string(request.outputs.size()));
  for (size_t i = 0; i < rules.min_inputs; ++i) {
    require(request.inputs[i] != nullptr || static_cast<int>(i) == rules.optional, request.node,
            "input " + std::to_string(i) + " is absent");
  }
  for (size_t i = 0; i < given; ++i) {
    const Tensor* input = request.inputs[i];
    const bool index = type_of(rules, i) == OperandType::index;
    require(input == nullptr || (input->dtype == DType::i32) == index, request.node,
            "input " + std::to_string(i) + ": expected " +
                (index ? "a constant of integers, got numbers" : "numbers, got integers"));
    if (input != nullptr && input->constant && !may_be_constant(request.node.op, i)) {
      nodes::refuse(request.node, "input " + std::to_string(i) +
                                      ": expected a computed value, got the constant '" +
                                      input->name + "'");
    }
  }
}

}  // namespace adfast
