#include "runtime/nodes.h"

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "core/frame.h"

namespace adfast::nodes {
namespace {

float real(const Node& node, std::string_view key) {
  return static_cast<float>(node.attrs.real(key));
}

int64_t window_size(int64_t input, int64_t kernel, int64_t stride, int64_t begin, int64_t end,
                    int64_t dilation) {
  const int64_t reach = (kernel - 1) * dilation + 1;
  const int64_t padded = input + begin + end;
  return padded < reach ? 0 : (padded - reach) / stride + 1;
}

Window read_window(const Node& node, const std::vector<int64_t>& kernel) {
  const auto strides = node.attrs.integers("strides", 2, 1, 1 << 15);
  const auto pads = node.attrs.integers("pads", 4, 0, 1 << 15);
  return {{kernel[0], kernel[1]},
          {strides[0], strides[1]},
          {pads[0], pads[1]},
          {pads[2], pads[3]},
          {1, 1}};
}

Shape window_result(const Shape& x, int64_t channels, const Window& w) {
  Shape shape = {1, channels, 0, 0};
  for (int i = 0; i < 2; ++i) {
    shape[2 + i] =
        window_size(x[2 + i], w.kernel[i], w.strides[i], w.begin[i], w.end[i], w.dilations[i]);
  }
  return shape;
}

const Shape& map_of_one_channel(const OperatorRequest& request, size_t input) {
  const Shape& x = feature_map(request, input);
  require_shape(request, input, {1, 1, x[2], x[3]});
  return x;
}

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

// How many keys of all blocks along one axis lie inside the map.
int64_t inside(int64_t size, int64_t block, int64_t halo) {
  int64_t total = 0;
  for (int64_t first = 0; first < size; first += block) {
    total += std::min(size, first + block + halo) - std::max<int64_t>(0, first - halo);
  }
  return total;
}

void require_scores(const OperatorRequest& request, const Shape& features) {
  require_result(request, 0, {1, 1, features[2], features[3]});
  require_result(request, 1, {1});
  require_result(request, 2, {1});
}

Projector projector(const OperatorRequest& request) {
  const Shape& x = feature_map(request, 0);
  require_shape(request, 1, x);
  const Shape& key = request.inputs[2]->shape;
  require(key.size() == 3 && key[0] == 1 && key[2] == x[1], request.node,
          "key: expected [1,tokens," + std::to_string(x[1]) + "], got " + to_string(key));
  if (input_or_null(request, 3) != nullptr) require_shape(request, 3, {1, key[1], 1});
  require_shape(request, 4, key);
  for (size_t i = 2; i < 5; ++i) {
    const Tensor* tensor = request.inputs[i];
    require(tensor == nullptr || !tensor->constant, request.node,
            "key and value must be computed, not constant");
  }
  return {x[2] * x[3], x[1], key[1], real(request.node, "scale")};
}

const Shape& tokens(const OperatorRequest& request, const char* what) {
  const Shape& x = request.inputs[0]->shape;
  require(!x.empty() && x.size() != 4, request.node,
          "input 0: expected tokens [..," + std::string(what) + "], got " + to_string(x));
  return x;
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

}  // namespace

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

bool Window::dense() const {
  constexpr std::array<int64_t, 2> one = {1, 1};
  return strides == one && dilations == one;
}

Convolution convolution(const OperatorRequest& request) {
  const Node& node = request.node;
  Convolution c{};
  c.x = feature_map(request, 0);
  c.weight = &constant(request, 1);
  c.groups = node.attrs.integer("groups");
  const Shape& weight = c.weight->shape;
  require(weight.size() == 4, node, "weight: expected [O,I,kh,kw], got " + to_string(weight));
  const int64_t out_channels = weight[0];
  require(c.groups >= 1 && out_channels % c.groups == 0 && weight[1] * c.groups == c.x[1], node,
          "weight " + to_string(weight) + " with " + std::to_string(c.groups) +
              " groups does not fit an input of " + std::to_string(c.x[1]) + " channels");
  c.window = read_window(node, {weight[2], weight[3]});
  const auto dilations = node.attrs.integers("dilations", 2, 1, 1 << 15);
  c.window.dilations = {dilations[0], dilations[1]};
  c.y = window_result(c.x, out_channels, c.window);
  require(c.y[2] > 0 && c.y[3] > 0, node, "the kernel is larger than the padded input");
  require_result(request, 0, c.y);
  c.residual = input_or_null(request, 3);
  if (c.residual != nullptr) require_shape(request, 3, c.y);
  c.bias = input_or_null(request, 2);
  if (c.bias != nullptr) {
    constant(request, 2);
    require_shape(request, 2, {out_channels});
  }
  c.activation = activation(node);
  c.flops = 2.0 * element_count(c.y) * weight[1] * weight[2] * weight[3];
  return c;
}

Pool pool(const OperatorRequest& request) {
  const Node& node = request.node;
  Pool pool{
      feature_map(request, 0), {}, read_window(node, node.attrs.integers("kernel", 2, 1, 1 << 15))};
  const Window& window = pool.window;
  pool.y = window_result(pool.x, pool.x[1], window);
  require(pool.y[2] > 0 && pool.y[3] > 0, node, "the window is larger than the padded input");
  for (int i = 0; i < 2; ++i) {
    require(window.begin[i] < window.kernel[i] && window.end[i] < window.kernel[i], node,
            "padding must be smaller than the window");
  }
  require_result(request, 0, pool.y);
  return pool;
}

Linear linear(const OperatorRequest& request) {
  const Shape& x = tokens(request, "K");
  Linear linear{};
  linear.weight = &constant(request, 1);
  const Shape& weight = linear.weight->shape;
  require(weight.size() == 2 && weight[1] == x.back(), request.node,
          "weight: expected [N," + std::to_string(x.back()) + "], got " + to_string(weight));
  linear.depth = x.back();
  linear.width = weight[0];
  linear.rows = element_count(x) / linear.depth;
  Shape y = x;
  y.back() = linear.width;
  require_result(request, 0, y);
  linear.bias = input_or_null(request, 2);
  if (linear.bias != nullptr) {
    constant(request, 2);
    require_shape(request, 2, {linear.width});
  }
  linear.residual = input_or_null(request, 3);
  if (linear.residual != nullptr) require_shape(request, 3, y);
  linear.activation = activation(request.node);
  return linear;
}

Attention attention(const OperatorRequest& request) {
  const Node& node = request.node;
  const Shape& q = request.inputs[0]->shape;
  const Shape& k = request.inputs[1]->shape;
  const Shape& v = request.inputs[2]->shape;
  const int64_t heads = node.attrs.integer("heads");
  const bool fits = q.size() == 3 && k.size() == 3 && v.size() == 3 && q[0] == k[0] &&
                    q[0] == v[0] && q[2] == k[2] && k[1] == v[1] && heads >= 1 &&
                    q[2] % heads == 0 && v[2] % heads == 0;
  require(fits, node,
          "expected q [W,tq,d], k [W,tk,d], v [W,tk,dv], widths divisible by heads = " +
              std::to_string(heads) + ", got " + to_string(q) + ", " + to_string(k) + ", " +
              to_string(v));
  require_result(request, 0, {q[0], q[1], v[2]});
  return {q[0],
          q[1],
          k[1],
          q[2],
          v[2],
          heads,
          real(node, "scale"),
          2.0 * q[0] * q[1] * k[1] * (q[2] + v[2])};
}

HaloAttention halo_attention(const OperatorRequest& request) {
  const Node& node = request.node;
  const Shape& q = request.inputs[0]->shape;
  const Shape& v = request.inputs[2]->shape;
  const int64_t block = node.attrs.integer("block"), halo = node.attrs.integer("halo");
  const int64_t heads = node.attrs.integer("heads"), legacy = node.attrs.integer("legacy_mask");
  require(block >= 1 && block <= max_frame_side && halo >= 0 && halo <= max_frame_side &&
              heads >= 1 && (legacy == 0 || legacy == 1),
          node, "block, halo, heads or legacy_mask is out of range");
  require(q.size() == 4 && v.size() == 4 && q[0] == 1 && q[2] % block == 0 && q[3] % block == 0 &&
              q[1] % heads == 0 && v[1] % heads == 0,
          node,
          "expected q and v [1,C,H,W], H and W divisible by block = " + std::to_string(block) +
              ", C by heads = " + std::to_string(heads) + ", got " + to_string(q) + " and " +
              to_string(v));
  require_shape(request, 1, q);
  require_shape(request, 2, {1, v[1], q[2], q[3]});
  require_result(request, 0, v);
  for (size_t i : {3, 4}) {
    constant(request, i);
    require_shape(request, i, {2 * (block + 2 * halo) - 1, q[1] / heads});
  }
  const double pairs =
      static_cast<double>(block * block) * inside(q[2], block, halo) * inside(q[3], block, halo);
  return {q[2],        q[3],
          block,       halo,
          q[1],        v[1],
          heads,       real(node, "scale"),
          legacy == 1, 2.0 * pairs * (q[1] + v[1])};
}

TokenAttention token_attention(const OperatorRequest& request) {
  const Shape& x = feature_map(request, 0);
  TokenAttention args{x[2] * x[3],           x[1],    0,
                      &constant(request, 1), nullptr, real(request.node, "scale")};
  const Shape& weight = args.weight->shape;
  require(weight.size() == 2 && weight[1] == x[1], request.node,
          "weight: expected [groups," + std::to_string(x[1]) + "], got " + to_string(weight));
  args.groups = weight[0];
  require_result(request, 0, {1, args.groups, x[1]});
  if (input_or_null(request, 2) != nullptr) {
    require_shape(request, 2, {args.groups});
    args.bias = &constant(request, 2);
  }
  return args;
}

Projector projector_attention(const OperatorRequest& request) {
  const Projector args = projector(request);
  require_result(request, 0, request.inputs[0]->shape);
  return args;
}

Projector projector_score_map(const OperatorRequest& request) {
  const Projector args = projector(request);
  require_scores(request, request.inputs[0]->shape);
  return args;
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
