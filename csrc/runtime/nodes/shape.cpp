// What moves elements, or only reads them in another shape.
#include <algorithm>

#include "core/frame.h"
#include "runtime/nodes/common.h"

namespace adfast::nodes {
namespace {

// The axes in storage order: rank-4 tensors lie channels-last.
struct Strip {
  int64_t outer = 1, axis = 1, inner = 1;
};

Strip strip_of(const Shape& shape, int64_t axis) {
  Shape stored = shape;
  int64_t position = axis;
  if (shape.size() == 4) {
    stored = {shape[0], shape[2], shape[3], shape[1]};
    position = axis == 0 ? 0 : axis == 1 ? 3 : axis - 1;
  }
  Strip strip;
  for (size_t i = 0; i < stored.size(); ++i) {
    const auto index = static_cast<int64_t>(i);
    (index < position ? strip.outer : index == position ? strip.axis : strip.inner) *= stored[i];
  }
  return strip;
}

int64_t checked_axis(const Node& node, const Shape& shape) {
  const int64_t axis = node.attrs.integer("axis");
  require(axis >= 0 && axis < static_cast<int64_t>(shape.size()), node,
          "axis " + std::to_string(axis) + " of " + to_string(shape));
  return axis;
}

}  // namespace

Strips concat(const OperatorRequest& request) {
  const Node& node = request.node;
  const Tensor& result = *request.outputs[0];
  const int64_t axis = checked_axis(node, result.shape);
  const Strip whole = strip_of(result.shape, axis);
  Shape sum = result.shape;
  sum[axis] = 0;
  Strips strips{whole.outer, whole.axis * whole.inner, {}};
  for (size_t i = 0; i < request.inputs.size(); ++i) {
    const Tensor* input = request.inputs[i];
    require(input != nullptr, node, "input " + std::to_string(i) + " is absent");
    require(!input->constant || result.shape.size() == 3, node,
            "input " + std::to_string(i) + " is constant: only tokens may be");
    Shape expected = result.shape;
    expected[axis] = input->shape.size() == result.shape.size() ? input->shape[axis] : -1;
    require_shape(request, i, expected);
    const Strip part = strip_of(input->shape, axis);
    strips.pieces.push_back({part.axis * part.inner, sum[axis] * whole.inner});
    sum[axis] += input->shape[axis];
  }
  require_result(request, 0, sum);
  return strips;
}

Strips slice(const OperatorRequest& request) {
  const Node& node = request.node;
  const Shape& x = request.inputs[0]->shape;
  const int64_t axis = checked_axis(node, x);
  const int64_t start = node.attrs.integer("start"), end = node.attrs.integer("end");
  require(0 <= start && start < end && end <= x[axis], node,
          std::to_string(start) + ":" + std::to_string(end) + " of axis " + std::to_string(axis) +
              " of " + to_string(x));
  Shape y = x;
  y[axis] = end - start;
  require_result(request, 0, y);
  const Strip strip = strip_of(x, axis);
  return {
      strip.outer, strip.axis * strip.inner, {{(end - start) * strip.inner, start * strip.inner}}};
}

Pixels resize_nearest(const OperatorRequest& request) {
  const Node& node = request.node;
  const Shape& x = request.inputs[0]->shape;
  const int64_t height = node.attrs.integer("height"), width = node.attrs.integer("width");
  require(x.size() == 4 && x[0] == 1 && height >= 1 && width >= 1 && height <= max_frame_side &&
              width <= max_frame_side && x[2] <= max_frame_side && x[3] <= max_frame_side,
          node,
          "input " + to_string(x) + " to " + std::to_string(height) + "x" + std::to_string(width));
  require_result(request, 0, {1, x[1], height, width});
  const auto places = [](int64_t size, int64_t out) {
    std::vector<int32_t> from(static_cast<size_t>(out));
    for (int64_t i = 0; i < out; ++i) from[i] = static_cast<int32_t>(i * size / out);
    return from;
  };
  return {places(x[2], height), places(x[3], width)};
}

Pixels reflection_pad2d(const OperatorRequest& request) {
  const Node& node = request.node;
  const Shape& x = request.inputs[0]->shape;
  const auto pads = node.attrs.integers("pads", 4, 0, max_frame_side);
  require(x.size() == 4 && x[0] == 1 && std::max(pads[0], pads[2]) < x[2] &&
              std::max(pads[1], pads[3]) < x[3] && x[2] <= max_frame_side && x[3] <= max_frame_side,
          node,
          "pads: expected each smaller than the side it mirrors, got " + to_string(pads) +
              " around " + to_string(x));
  require_result(request, 0, {1, x[1], x[2] + pads[0] + pads[2], x[3] + pads[1] + pads[3]});
  const auto places = [](int64_t size, int64_t before, int64_t after) {
    std::vector<int32_t> from;
    for (int64_t i = -before; i < size + after; ++i) {
      from.push_back(static_cast<int32_t>(i < 0 ? -i : i < size ? i : 2 * (size - 1) - i));
    }
    return from;
  };
  return {places(x[2], pads[0], pads[2]), places(x[3], pads[1], pads[3])};
}

Resize resize_bilinear(const OperatorRequest& request) {
  const Node& node = request.node;
  const Shape& x = request.inputs[0]->shape;
  const int64_t height = node.attrs.integer("height"), width = node.attrs.integer("width");
  require(x.size() == 4 && height >= 1 && width >= 1 && height <= max_frame_side &&
              width <= max_frame_side && x[2] <= max_frame_side && x[3] <= max_frame_side,
          node,
          "input " + to_string(x) + " to " + std::to_string(height) + "x" + std::to_string(width));
  require_result(request, 0, {1, x[1], height, width});
  return {static_cast<int32_t>(x[1]),  static_cast<int32_t>(x[2]),
          static_cast<int32_t>(x[3]),  static_cast<int32_t>(height),
          static_cast<int32_t>(width), node.attrs.integer("align_corners") != 0};
}

Gather window_gather(const OperatorRequest& request) {
  const Node& node = request.node;
  const Tensor& x = *request.inputs[0];
  const Tensor& index = constant(request, 1);
  require(x.shape.size() == 3 && x.shape[0] == 1 && index.shape.size() == 2, node,
          "expected x [1,M,D] and index [W,t], got " + to_string(x.shape) + " and " +
              to_string(index.shape));
  Gather gather{x.shape[2], integers(index)};
  for (int32_t row : gather.rows) {
    require(
        row >= 0 && row < x.shape[1], node,
        "index: expected 0 to " + std::to_string(x.shape[1] - 1) + ", got " + std::to_string(row));
  }
  require_result(request, 0, {index.shape[0], index.shape[1], x.shape[2]});
  return gather;
}

DepthToSpace depth_to_space(const OperatorRequest& request) {
  const Node& node = request.node;
  const Shape& x = request.inputs[0]->shape;
  const int64_t block = node.attrs.integer("block");
  require(x.size() == 4 && x[0] == 1 && block >= 1 && block <= max_frame_side &&
              x[1] % (block * block) == 0,
          node,
          "input 0: expected [1,C*" + std::to_string(block) + "*" + std::to_string(block) +
              ",H,W], got " + to_string(x));
  const int64_t channels = x[1] / (block * block);
  require_result(request, 0, {1, channels, x[2] * block, x[3] * block});
  return {x[2], x[3], block, channels};
}

void reinterpretation(const OperatorRequest& request) {
  const Node& node = request.node;
  const Shape& x = request.inputs[0]->shape;
  const Shape& y = request.outputs[0]->shape;
  if (node.op == "tokens") {
    feature_map(request, 0);
    require_result(request, 0, {1, x[2] * x[3], x[1]});
  } else if (node.op == "feature_map") {
    const int64_t height = node.attrs.integer("height"), width = node.attrs.integer("width");
    require(x.size() == 3 && x[0] == 1 && height >= 1 && width >= 1 && height <= x[1] &&
                width <= x[1] && x[1] == height * width,
            node,
            "input 0: expected [1," + std::to_string(height) + "*" + std::to_string(width) +
                ",C], got " + to_string(x));
    require_result(request, 0, {1, x[2], height, width});
  } else {
    require(x.size() != 4 && y.size() != 4 && element_count(x) == element_count(y) &&
                node.attrs.integers("shape") == y,
            node, "cannot read " + to_string(x) + " as " + to_string(y));
  }
}

}  // namespace adfast::nodes
