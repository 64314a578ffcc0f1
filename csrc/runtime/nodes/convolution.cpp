// Convolutions, pooling, linears.
#include "runtime/nodes/common.h"

namespace adfast::nodes {
namespace {

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

}  // namespace

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

}  // namespace adfast::nodes
