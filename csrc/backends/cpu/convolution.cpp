// Convolutions and pooling by oneDNN, channels-last, with bias, residual and activation fused.
#include <array>

#include "backends/cpu/onednn.h"
#include "backends/cpu/winograd.h"
#include "core/frame.h"

namespace adfast::cpu {
namespace {

using dnnl::memory;
using Tag = memory::format_tag;

struct Window {
  std::vector<int64_t> kernel, strides, begin, end,
      dilations;  // dilations as oneDNN counts: from 0
};

int64_t window_size(int64_t input, int64_t kernel, int64_t stride, int64_t begin, int64_t end,
                    int64_t dilation) {
  const int64_t reach = (kernel - 1) * (dilation + 1) + 1;
  const int64_t padded = input + begin + end;
  return padded < reach ? 0 : (padded - reach) / stride + 1;
}

Window read_window(const Node& node, std::vector<int64_t> kernel) {
  Window window;
  window.kernel = std::move(kernel);
  window.strides = node.attrs.integers("strides", 2, 1, 1 << 15);
  const auto pads = node.attrs.integers("pads", 4, 0, 1 << 15);
  window.begin = {pads[0], pads[1]};
  window.end = {pads[2], pads[3]};
  window.dilations = {0, 0};
  return window;
}

Shape result_shape(const Shape& x, int64_t channels, const Window& w) {
  Shape shape = {1, channels, 0, 0};
  for (int i = 0; i < 2; ++i) {
    shape[2 + i] =
        window_size(x[2 + i], w.kernel[i], w.strides[i], w.begin[i], w.end[i], w.dilations[i]);
  }
  return shape;
}

const Shape& feature_map(const OperatorRequest& request) {
  const Shape& x = request.inputs[0]->shape;
  require(x.size() == 4 && x[0] == 1, request.node,
          "input 0: expected [1,C,H,W], got " + to_string(x));
  return x;
}

std::unique_ptr<Operator> make_conv2d(const OperatorRequest& request, const Device& device) {
  const Node& node = request.node;
  const Shape& x = feature_map(request);
  const Tensor& weight = constant(request, 1);
  const int64_t groups = node.attrs.integer("groups");
  require(weight.shape.size() == 4, node,
          "weight: expected [O,I,kh,kw], got " + to_string(weight.shape));
  const int64_t out_channels = weight.shape[0];
  require(groups >= 1 && out_channels % groups == 0 && weight.shape[1] * groups == x[1], node,
          "weight " + to_string(weight.shape) + " with " + std::to_string(groups) +
              " groups does not fit an input of " + std::to_string(x[1]) + " channels");
  Window window = read_window(node, {weight.shape[2], weight.shape[3]});
  for (int i = 0; i < 2; ++i) {
    window.dilations[i] = node.attrs.integers("dilations", 2, 1, 1 << 15)[i] - 1;
  }
  const Shape y = result_shape(x, out_channels, window);
  require(y[2] > 0 && y[3] > 0, node, "the kernel is larger than the padded input");
  require_result(request, 0, y);
  const Tensor* residual = input_or_null(request, 3);
  if (residual != nullptr) require_shape(request, 3, y);
  const Tensor* bias = input_or_null(request, 2);
  if (bias != nullptr) {
    constant(request, 2);
    require_shape(request, 2, {out_channels});
  }
  if (groups == 1 && window.strides == std::vector<int64_t>{1, 1} &&
      window.dilations == std::vector<int64_t>{0, 0}) {
    auto fast = make_winograd(request, device,
                              {weight, bias, residual, x, y, window.begin[0], window.begin[1]});
    if (fast) return fast;
  }

  memory::dims weight_dims = weight.shape;
  if (groups > 1) {
    weight_dims = {groups, out_channels / groups, weight.shape[1], weight.shape[2],
                   weight.shape[3]};
  }
  const auto type = onednn_type(device.features);
  const memory::desc x_desc(x, type, Tag::nhwc), y_desc(y, type, Tag::nhwc);
  const memory::desc any_weight(weight_dims, type, Tag::any);
  memory::desc bias_desc;
  if (bias != nullptr) {
    bias_desc = memory::desc({out_channels}, memory::data_type::f32, Tag::x);
  }
  const dnnl::primitive_attr attr = fused_attributes(node, residual != nullptr, y_desc);
  const dnnl::convolution_forward::primitive_desc desc(
      device.engine, dnnl::prop_kind::forward_inference, dnnl::algorithm::convolution_direct,
      x_desc, any_weight, bias_desc, y_desc, window.strides, window.dilations, window.begin,
      window.end, attr);

  const memory::desc plain(weight_dims, memory::data_type::f32,
                           groups > 1 ? Tag::goihw : Tag::oihw);
  std::vector<Argument> constants = {
      {DNNL_ARG_WEIGHTS, packed(device.engine, weight, plain, desc.weights_desc())}};
  if (bias != nullptr) {
    constants.push_back({DNNL_ARG_BIAS, packed(device.engine, *bias, bias_desc, bias_desc)});
  }
  const double flops =
      2.0 * element_count(y) * weight.shape[1] * window.kernel[0] * window.kernel[1];
  std::vector<Slot> slots = {{DNNL_ARG_SRC, x_desc, Slot::input, 0},
                             {DNNL_ARG_DST, y_desc, Slot::output, 0}};
  if (residual != nullptr) {
    slots.push_back({DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1, y_desc, Slot::input, 3});
  }
  return std::make_unique<OnednnOperator>(dnnl::convolution_forward(desc), desc, device.engine,
                                          std::move(constants), std::move(slots), flops);
}

// The mean pool over a score map. oneDNN's pooling vectorises over channels, and there is one.
std::unique_ptr<Operator> make_box_filter(const Device& device, const Shape& x,
                                          const Window& window) {
  kernels::BoxFilterArgs args{};
  args.height = static_cast<int32_t>(x[2]);
  args.width = static_cast<int32_t>(x[3]);
  args.kernel_height = static_cast<int32_t>(window.kernel[0]);
  args.kernel_width = static_cast<int32_t>(window.kernel[1]);
  args.row_end = args.height - args.kernel_height + 1;
  const auto run = device.kernels->box_filter;
  const double sums = static_cast<double>(args.row_end) * args.width;
  return kernel_operator(device, sums * (args.kernel_height + args.kernel_width),
                         args.width * sizeof(float), [run, args](const Binding& binding) {
                           kernels::BoxFilterArgs bound = args;
                           bound.src = static_cast<const float*>(binding.inputs[0]);
                           bound.dst = static_cast<float*>(binding.outputs[0]);
                           bound.scratch = static_cast<float*>(binding.scratch);
                           return [run, bound] { run(bound); };
                         });
}

std::unique_ptr<Operator> make_pool(const OperatorRequest& request, const Device& device,
                                    dnnl::algorithm algorithm) {
  const Node& node = request.node;
  const Shape& x = feature_map(request);
  const Window window = read_window(node, node.attrs.integers("kernel", 2, 1, 1 << 15));
  const Shape y = result_shape(x, x[1], window);
  require(y[2] > 0 && y[3] > 0, node, "the window is larger than the padded input");
  for (int i = 0; i < 2; ++i) {
    require(window.begin[i] < window.kernel[i] && window.end[i] < window.kernel[i], node,
            "padding must be smaller than the window");
  }
  require_result(request, 0, y);
  const std::vector<int64_t> one = {1, 1}, none = {0, 0};
  if (algorithm != dnnl::algorithm::pooling_max && x[1] == 1 && window.strides == one &&
      window.begin == none && window.end == none && request.inputs[0]->dtype == DType::f32 &&
      x[2] <= max_frame_side && x[3] <= max_frame_side) {
    return make_box_filter(device, x, window);
  }
  const auto type = onednn_type(request.inputs[0]->dtype);
  const memory::desc x_desc(x, type, Tag::nhwc), y_desc(y, type, Tag::nhwc);
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const dnnl::pooling_forward::primitive_desc desc(
      device.engine, dnnl::prop_kind::forward_inference, algorithm, x_desc, y_desc, window.strides,
      window.kernel, window.dilations, window.begin, window.end, attr);
  return std::make_unique<OnednnOperator>(
      dnnl::pooling_forward(desc), desc, device.engine, std::vector<Argument>{},
      std::vector<Slot>{{DNNL_ARG_SRC, x_desc, Slot::input, 0},
                        {DNNL_ARG_DST, y_desc, Slot::output, 0}},
      static_cast<double>(element_count(y) * window.kernel[0] * window.kernel[1]));
}

std::unique_ptr<Operator> make_max_pool2d(const OperatorRequest& request, const Device& device) {
  return make_pool(request, device, dnnl::algorithm::pooling_max);
}

std::unique_ptr<Operator> make_avg_pool2d(const OperatorRequest& request, const Device& device) {
  return make_pool(request, device,
                   request.node.attrs.integer("count_include_pad") != 0
                       ? dnnl::algorithm::pooling_avg_include_padding
                       : dnnl::algorithm::pooling_avg_exclude_padding);
}

}  // namespace

std::vector<Op> convolution_ops() {
  return {
      {"conv2d", 2, 4, 1, {OperandType::features}, Op::Result::features, make_conv2d},
      {"max_pool2d", 1, 1, 1, {}, Op::Result::as_first, make_max_pool2d},
      {"avg_pool2d", 1, 1, 1, {}, Op::Result::as_first, make_avg_pool2d},
  };
}

}  // namespace adfast::cpu
