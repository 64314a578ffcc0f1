// Element by element, row by row.
#include "runtime/nodes/common.h"

namespace adfast::nodes {
namespace {

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

}  // namespace

LayerNorm layer_norm(const OperatorRequest& request) {
  const Shape& x = tokens(request, "D");
  const int64_t width = x.back();
  require_shape(request, 1, {width});
  require_shape(request, 2, {width});
  const bool residual = input_or_null(request, 3) != nullptr;
  if (residual) require_shape(request, 3, x);
  require_result(request, 0, x);
  return {{element_count(x) / width, width},
          &constant(request, 1),
          &constant(request, 2),
          residual,
          real(request.node, "eps")};
}

Rows softmax(const OperatorRequest& request) {
  const Shape& x = tokens(request, "D");
  require_result(request, 0, x);
  return {element_count(x) / x.back(), x.back()};
}

Reduce reduce(const OperatorRequest& request) {
  const Node& node = request.node;
  const Shape& x = request.inputs[0]->shape;
  require(x.size() == 3 || x.size() == 4, node,
          "input 0: expected [1,C,H,W] or [W,t,D], got " + to_string(x));
  const std::vector<int64_t>& axes = node.attrs.integers("axes");
  if (x.size() == 3) {
    require(axes == std::vector<int64_t>{1}, node, "axes: expected [1], got " + to_string(axes));
    require_result(request, 0, {x[0], x[2]});
    return {{x[0], x[1]}, x[2]};
  }
  if (axes == std::vector<int64_t>{1}) {
    require_result(request, 0, {1, 1, x[2], x[3]});
    return {{x[2] * x[3], x[1]}, 1};
  }
  require(axes == std::vector<int64_t>{1, 2, 3} && x[1] == 1, node,
          "axes: expected [1], or [1,2,3] of one channel, got " + to_string(axes) + " of " +
              to_string(x));
  require(element_count(request.outputs[0]->shape) == 1, node, "output: expected one number");
  return {{1, element_count(x)}, 1};
}

Binary binary(const OperatorRequest& request) {
  const Tensor& a = *request.inputs[0];
  const Tensor& b = *request.inputs[1];
  require(!a.constant, request.node, "the first input must be computed, not constant");
  require_result(request, 0, a.shape);
  const Binary args{element_count(a.shape), broadcast_count(request)};
  // A constant of a's shape would lie in the plan as NCHW; only vectors have one layout.
  require(!b.constant || args.b_count < args.count || a.shape.size() != 4 || args.count == 1 ||
              a.shape[1] == 1 || a.shape[2] * a.shape[3] == 1,
          request.node, "a constant as large as the feature map");
  return args;
}

}  // namespace adfast::nodes
