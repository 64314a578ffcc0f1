#include "runtime/nodes/common.h"

#include <cstring>
#include <unordered_map>

namespace adfast::nodes {

void refuse(const Node& node, const std::string& what) {
  throw Error(ErrorKind::plan, "[" + node.op + " '" + node.name + "'] " + what);
}

void require_shape(const OperatorRequest& request, size_t input, const Shape& expected) {
  const Tensor& tensor = *request.inputs[input];
  require(tensor.shape == expected, request.node,
          "input " + std::to_string(input) + " '" + tensor.name + "': expected " +
              to_string(expected) + ", got " + to_string(tensor.shape));
}

void require_result(const OperatorRequest& request, size_t output, const Shape& expected) {
  const Tensor& tensor = *request.outputs[output];
  require(tensor.shape == expected, request.node,
          "output " + std::to_string(output) + " '" + tensor.name + "': expected " +
              to_string(expected) + ", got " + to_string(tensor.shape));
}

const Tensor& constant(const OperatorRequest& request, size_t input) {
  require(input < request.inputs.size() && request.inputs[input] != nullptr &&
              request.inputs[input]->constant,
          request.node, "input " + std::to_string(input) + " must be a constant");
  return *request.inputs[input];
}

const Tensor* input_or_null(const OperatorRequest& request, size_t input) {
  return input < request.inputs.size() ? request.inputs[input] : nullptr;
}

std::vector<float> floats(const Tensor& constant) {
  std::vector<float> values(constant.data.size() / sizeof(float));
  std::memcpy(values.data(), constant.data.data(), constant.data.size());
  return values;
}

std::vector<int32_t> integers(const Tensor& index) {
  std::vector<int32_t> values(index.data.size() / sizeof(int32_t));
  std::memcpy(values.data(), index.data.data(), index.data.size());
  return values;
}

const Shape& feature_map(const OperatorRequest& request, size_t input) {
  const Shape& x = request.inputs[input]->shape;
  require(x.size() == 4 && x[0] == 1, request.node,
          "input " + std::to_string(input) + ": expected [1,C,H,W], got " + to_string(x));
  return x;
}

Activation activation(const Node& node) {
  static const std::unordered_map<std::string, Activation> kinds = {
      {"none", Activation::none}, {"relu", Activation::relu}, {"sigmoid", Activation::sigmoid},
      {"silu", Activation::silu}, {"gelu", Activation::gelu}, {"tanh", Activation::tanh}};
  const std::string& name = node.attrs.text("activation");
  const auto found = kinds.find(name);
  require(found != kinds.end(), node,
          "activation '" + name + "', expected none, relu, sigmoid, silu, gelu or tanh");
  return found->second;
}

float real(const Node& node, std::string_view key) {
  return static_cast<float>(node.attrs.real(key));
}

void require_scores(const OperatorRequest& request, const Shape& features) {
  require_result(request, 0, {1, 1, features[2], features[3]});
  require_result(request, 1, {1});
  require_result(request, 2, {1});
}

const Shape& tokens(const OperatorRequest& request, const char* what) {
  const Shape& x = request.inputs[0]->shape;
  require(!x.empty() && x.size() != 4, request.node,
          "input 0: expected tokens [..," + std::string(what) + "], got " + to_string(x));
  return x;
}

}  // namespace adfast::nodes
