// From the frame to features, from maps to the score.
#include <algorithm>

#include "core/frame.h"
#include "runtime/nodes/common.h"

namespace adfast::nodes {
namespace {

const Shape& map_of_one_channel(const OperatorRequest& request, size_t input) {
  const Shape& x = feature_map(request, input);
  require_shape(request, input, {1, 1, x[2], x[3]});
  return x;
}

}  // namespace

Frame frame(const OperatorRequest& request) {
  const Node& node = request.node;
  const auto crop = node.attrs.integers("crop", 2, 1, max_frame_side);
  require_result(request, 0, {1, 3, crop[0], crop[1]});
  const auto scale = node.attrs.reals("scale", 3), bias = node.attrs.reals("bias", 3);
  Frame frame{crop[0], crop[1], {}, {}};
  for (size_t c = 0; c < 3; ++c) {
    frame.scale[c] = static_cast<float>(scale[c]);
    frame.bias[c] = static_cast<float>(bias[c]);
  }
  return frame;
}

Features score_map(const OperatorRequest& request) {
  const Shape& a = feature_map(request, 0);
  require_shape(request, 1, a);
  require_scores(request, a);
  return {a[2] * a[3], a[1]};
}

FuseMaps fuse_maps(const OperatorRequest& request) {
  const Node& node = request.node;
  FuseMaps args{};
  for (size_t layer = 0; layer < 3; ++layer) {
    const Shape& map = map_of_one_channel(request, 3 * layer);
    require_shape(request, 3 * layer + 1, {1});
    require_shape(request, 3 * layer + 2, {1});
    args.map_height[layer] = static_cast<int32_t>(map[2]);
    args.map_width[layer] = static_cast<int32_t>(map[3]);
  }
  args.lambda = &constant(request, 9);
  require_shape(request, 9, {3});
  const int64_t mode = node.attrs.integer("mode");
  const int64_t height = node.attrs.integer("height"), width = node.attrs.integer("width");
  require(mode >= 1 && mode <= 6, node, "mode is " + std::to_string(mode) + ", expected 1 to 6");
  require_result(request, 0, {1, 1, height, width});
  require(height <= max_frame_side && width <= max_frame_side, node, "the map is too large");
  args.mode = static_cast<int32_t>(mode);
  args.height = static_cast<int32_t>(height);
  args.width = static_cast<int32_t>(width);
  return args;
}

GaussianBlur gaussian_blur(const OperatorRequest& request) {
  const Shape& x = map_of_one_channel(request, 0);
  require_result(request, 0, x);
  const Tensor& kernel = constant(request, 1);
  require(kernel.shape.size() == 1 && kernel.shape[0] % 2 == 1, request.node,
          "kernel: expected an odd number of taps, got " + to_string(kernel.shape));
  const int64_t taps = kernel.shape[0];
  require(taps / 2 < std::min(x[2], x[3]) && x[2] <= max_frame_side && x[3] <= max_frame_side,
          request.node,
          std::to_string(taps) + " taps do not fit a map of " + to_string(x) +
              ": the border is mirrored once");
  return {static_cast<int32_t>(x[2]), static_cast<int32_t>(x[3]), static_cast<int32_t>(taps),
          &kernel};
}

GmsMap gms_map(const OperatorRequest& request) {
  const Node& node = request.node;
  const Shape& x = feature_map(request, 0);
  require_shape(request, 1, x);
  for (size_t i = 0; i < 2; ++i) {
    require(!request.inputs[i]->constant, node, "an image is constant, expected computed ones");
  }
  require_result(request, 0, {1, 1, x[2], x[3]});
  const float c = real(node, "c");
  require(c > 0, node, "c is " + std::to_string(c) + ", expected a positive number");
  return {x[2], x[3], x[1], c};
}

CalibrateMap calibrate_map(const OperatorRequest& request) {
  const Node& node = request.node;
  const Shape& x = map_of_one_channel(request, 0);
  require_shape(request, 1, x);
  require_result(request, 0, x);
  const std::string& mode = node.attrs.text("mode");
  require(mode == "square" || mode == "absolute", node,
          "mode is '" + mode + "', expected 'square' or 'absolute'");
  return {element_count(x), mode == "square", &constant(request, 1)};
}

}  // namespace adfast::nodes
