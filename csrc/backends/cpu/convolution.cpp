// Convolutions and pooling by oneDNN, channels-last, with bias, residual and activation fused.
#include <array>

#include "backends/cpu/depthwise.h"
#include "backends/cpu/linear_tiles.h"
#include "backends/cpu/matvec.h"
#include "backends/cpu/onednn.h"
#include "backends/cpu/strassen.h"
#include "backends/cpu/winograd.h"
#include "core/frame.h"

namespace adfast::cpu {
namespace {

using dnnl::memory;
using Tag = memory::format_tag;

std::vector<int64_t> list(const std::array<int64_t, 2>& pair) { return {pair[0], pair[1]}; }

// oneDNN counts dilations from 0.
std::vector<int64_t> gaps(const nodes::Window& window) {
  return {window.dilations[0] - 1, window.dilations[1] - 1};
}

// A convolution of 1x1 by our own kernels: without zeros around it, a linear whose rows are pixels.
std::unique_ptr<Operator> make_pointwise(const OperatorRequest& request, const Device& device,
                                         const nodes::Convolution& node) {
  if (auto own = make_matvec(request, device, node)) return own;
  constexpr std::array<int64_t, 2> none = {0, 0};
  if (node.x[0] != 1 || node.window.begin != none || node.window.end != none) return nullptr;
  const nodes::Linear linear{node.x[2] * node.x[3], node.x[1], node.y[1],
                             node.weight,           node.bias, node.residual,
                             node.activation};
  if (auto own = make_linear_tiles(request, device, linear)) return own;
  return make_strassen(request, device, linear);
}

std::unique_ptr<Operator> make_conv2d(const OperatorRequest& request, const Device& device) {
  const nodes::Convolution node = nodes::convolution(request);
  const nodes::Window& window = node.window;
  const Tensor& weight = *node.weight;
  const Tensor *bias = node.bias, *residual = node.residual;
  const Shape &x = node.x, &y = node.y;
  const int64_t groups = node.groups, out_channels = y[1];
  if (groups == 1 && window.dense()) {
    auto fast = make_winograd(request, device, node);
    if (!fast && window.kernel == std::array<int64_t, 2>{1, 1})
      fast = make_pointwise(request, device, node);
    if (fast) return fast;
  }
  if (auto own = make_depthwise(request, device, node)) return own;
  if (must_widen(request)) return widened(request, device, make_conv2d);

  memory::dims weight_dims = weight.shape;
  if (groups > 1) {
    weight_dims = {groups, out_channels / groups, weight.shape[1], weight.shape[2],
                   weight.shape[3]};
  }
  const auto s8 = memory::data_type::s8;
  const bool int8 = is_int8(request);
  const auto type = onednn_type(device.features);
  const memory::desc x_desc(x, onednn_type(request.inputs[0]->dtype), Tag::nhwc);
  const memory::desc y_desc(y, onednn_type(request.outputs[0]->dtype), Tag::nhwc);
  const memory::desc residual_desc(y, type, Tag::nhwc);
  const memory::desc any_weight(weight_dims, int8 ? s8 : type, Tag::any);
  memory::desc bias_desc;
  if (bias != nullptr) {
    bias_desc = memory::desc({out_channels}, memory::data_type::f32, Tag::x);
  }
  dnnl::primitive_attr attr = fused_attributes(node.activation, residual != nullptr, residual_desc);
  if (int8) set_levels(&attr, request, groups > 1 ? 3 : 1);
  const dnnl::convolution_forward::primitive_desc desc(
      device.engine, dnnl::prop_kind::forward_inference, dnnl::algorithm::convolution_direct,
      x_desc, any_weight, bias_desc, y_desc, list(window.strides), gaps(window), list(window.begin),
      list(window.end), attr);

  const memory::desc plain(weight_dims, int8 ? s8 : memory::data_type::f32,
                           groups > 1 ? Tag::goihw : Tag::oihw);
  std::vector<Argument> constants;
  if (int8) {
    constants = int8_arguments(device, request, plain, desc.weights_desc());
  } else {
    constants = {{DNNL_ARG_WEIGHTS, packed(device.engine, weight, plain, desc.weights_desc())}};
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
  return std::make_unique<OnednnOperator>(dnnl::convolution_forward(desc), desc, device.engine,
                                          std::move(constants), std::move(slots), node.flops);
}

// The mean pool over a score map. oneDNN's pooling vectorises over channels, and there is one.
std::unique_ptr<Operator> make_box_filter(const Device& device, const Shape& x,
                                          const nodes::Window& window) {
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

template <dnnl::algorithm algorithm>
std::unique_ptr<Operator> make_pool(const OperatorRequest& request, const Device& device) {
  const nodes::Pool node = nodes::pool(request);
  const nodes::Window& window = node.window;
  const Shape &x = node.x, &y = node.y;
  constexpr std::array<int64_t, 2> none = {0, 0};
  if (algorithm != dnnl::algorithm::pooling_max && x[1] == 1 && window.dense() &&
      window.begin == none && window.end == none && request.inputs[0]->dtype == DType::f32 &&
      x[2] <= max_frame_side && x[3] <= max_frame_side) {
    return make_box_filter(device, x, window);
  }
  if (must_widen(request)) return widened(request, device, make_pool<algorithm>);
  const auto type = onednn_type(request.inputs[0]->dtype);
  const memory::desc x_desc(x, type, Tag::nhwc), y_desc(y, type, Tag::nhwc);
  dnnl::primitive_attr attr;
  attr.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const dnnl::pooling_forward::primitive_desc desc(
      device.engine, dnnl::prop_kind::forward_inference, algorithm, x_desc, y_desc,
      list(window.strides), list(window.kernel), gaps(window), list(window.begin), list(window.end),
      attr);
  return std::make_unique<OnednnOperator>(
      dnnl::pooling_forward(desc), desc, device.engine, std::vector<Argument>{},
      std::vector<Slot>{{DNNL_ARG_SRC, x_desc, Slot::input, 0},
                        {DNNL_ARG_DST, y_desc, Slot::output, 0}},
      static_cast<double>(element_count(y) * window.kernel[0] * window.kernel[1]));
}

std::unique_ptr<Operator> make_avg_pool2d(const OperatorRequest& request, const Device& device) {
  return request.node.attrs.integer("count_include_pad") != 0
             ? make_pool<dnnl::algorithm::pooling_avg_include_padding>(request, device)
             : make_pool<dnnl::algorithm::pooling_avg_exclude_padding>(request, device);
}

}  // namespace

std::vector<Op> convolution_ops() {
  return {
      {{"conv2d", 2, 4, 1, {OperandType::features}, ResultType::features}, make_conv2d},
      {{"max_pool2d", 1, 1, 1, {}, ResultType::as_first}, make_pool<dnnl::algorithm::pooling_max>},
      {{"avg_pool2d", 1, 1, 1, {}, ResultType::as_first}, make_avg_pool2d},
  };
}

}  // namespace adfast::cpu
