// Moving elements: the frame's way in, concatenation, slices, resizing; and not moving them: pixels
// as tokens.
#include "backends/cuda/backend.h"

namespace adfast::cuda {
namespace {

namespace kernels = adfast::kernels::cuda;

// The frame differs from call to call, so this step is not part of the recorded graph.
std::unique_ptr<Operator> make_frame(const OperatorRequest& request, Device& device) {
  const nodes::Frame node = nodes::frame(request);
  const auto type = kernel_type(request.outputs[0]->dtype);
  return kernel_operator(0, 0, [node, type, &device](const Binding& binding) {
    return [node, type, &frame = device.lane->frame, stream = device.lane->stream,
            dst = binding.outputs[0]] {
      kernels::FrameArgs args = frame;
      for (size_t c = 0; c < 3; ++c) {
        args.scale[c] = node.scale[c] * frame.scale[c];
        args.bias[c] = node.bias[c];
      }
      args.dst = dst;
      args.type = type;
      check(kernels::frame_to_tensor(args, stream), "frame");
    };
  });
}

std::unique_ptr<Operator> make_concat(const OperatorRequest& request, Device& device) {
  const nodes::Strips strips = nodes::concat(request);
  const DType type = request.outputs[0]->dtype;
  const auto element = static_cast<int64_t>(size_of(type));
  std::vector<Shared> constants(request.inputs.size());
  for (size_t i = 0; i < constants.size(); ++i) {
    const Tensor& input = *request.inputs[i];
    nodes::require(input.dtype == type, request.node,
                   "input " + std::to_string(i) + " must be of the result's type");
    if (input.constant) constants[i] = shared_floats(input);
  }
  return kernel_operator(0, 0, [strips, constants, element, &device](const Binding& binding) {
    std::vector<kernels::CopyStripsArgs> copies;
    for (size_t i = 0; i < constants.size(); ++i) {
      const auto& piece = strips.pieces[i];
      copies.push_back({constants[i] != nullptr ? constants[i]->data() : binding.inputs[i],
                        static_cast<std::byte*>(binding.outputs[0]) + piece.offset * element,
                        strips.outer, piece.inner * element, piece.inner * element,
                        strips.whole * element});
    }
    return [copies, stream = device.lane->stream] {
      for (const auto& copy : copies) check(kernels::copy_strips(copy, stream), "concat");
    };
  });
}

std::unique_ptr<Operator> make_slice(const OperatorRequest& request, Device& device) {
  const nodes::Strips strips = nodes::slice(request);
  const auto element = static_cast<int64_t>(size_of(request.inputs[0]->dtype));
  const auto piece = strips.pieces[0];
  return kernel_operator(0, 0, [=, &device](const Binding& binding) {
    const kernels::CopyStripsArgs bound{
        static_cast<const std::byte*>(binding.inputs[0]) + piece.offset * element,
        binding.outputs[0],
        strips.outer,
        piece.inner * element,
        strips.whole * element,
        piece.inner * element};
    return launch(kernels::copy_strips, bound, device, "slice");
  });
}

std::unique_ptr<Operator> make_window_gather(const OperatorRequest& request, Device& device) {
  const nodes::Gather node = nodes::window_gather(request);
  const Tensor& x = *request.inputs[0];
  const Shared table = x.constant ? shared_floats(x) : nullptr;
  const Shared index = shared(uploaded(std::span<const int32_t>(node.rows)));
  const auto rows = static_cast<int64_t>(node.rows.size());
  const int64_t bytes = node.width * static_cast<int64_t>(size_of(request.outputs[0]->dtype));
  return kernel_operator(0, 0, [=, &device](const Binding& binding) {
    const kernels::GatherRowsArgs bound{table != nullptr ? table->data() : binding.inputs[0],
                                        binding.outputs[0], rows, bytes,
                                        index->as<const int32_t>()};
    return launch(kernels::gather_rows, bound, device, "window_gather");
  });
}

std::unique_ptr<Operator> make_depth_to_space(const OperatorRequest& request, Device& device) {
  const nodes::DepthToSpace node = nodes::depth_to_space(request);
  const int64_t bytes = node.channels * static_cast<int64_t>(size_of(request.inputs[0]->dtype));
  return kernel_operator(0, 0, [=, &device](const Binding& binding) {
    const kernels::DepthToSpaceArgs bound{binding.inputs[0], binding.outputs[0], node.height,
                                          node.width,        node.block,         bytes};
    return launch(kernels::depth_to_space, bound, device, "depth_to_space");
  });
}

std::unique_ptr<Operator> make_reinterpretation(const OperatorRequest& request, Device& device) {
  nodes::reinterpretation(request);
  kernels::UnaryArgs args{};
  args.op = kernels::Unary::identity;
  args.x_type = kernel_type(request.inputs[0]->dtype);
  args.out_type = kernel_type(request.outputs[0]->dtype);
  args.count = element_count(request.inputs[0]->shape);
  return kernel_operator(0, 0, [args, &device](const Binding& binding) {
    kernels::UnaryArgs bound = args;
    bound.x = binding.inputs[0];
    bound.out = binding.outputs[0];
    return launch(kernels::unary, bound, device, "reinterpretation");
  });
}

std::unique_ptr<Operator> make_resize_bilinear(const OperatorRequest& request, Device& device) {
  const nodes::Resize node = nodes::resize_bilinear(request);
  kernels::ResizeBilinearArgs args{};
  args.height = node.height;
  args.width = node.width;
  args.channels = node.channels;
  args.dst_height = node.out_height;
  args.dst_width = node.out_width;
  args.dst_row_stride = static_cast<int64_t>(node.out_width) * node.channels;
  args.align_corners = node.align_corners;
  return kernel_operator(8.0 * node.out_height * node.out_width * node.channels, 0,
                         [args, &device](const Binding& binding) {
                           kernels::ResizeBilinearArgs bound = args;
                           bound.src = static_cast<const float*>(binding.inputs[0]);
                           bound.dst = static_cast<float*>(binding.outputs[0]);
                           return launch(kernels::resize_bilinear, bound, device,
                                         "resize_bilinear");
                         });
}

std::unique_ptr<Operator> copied_pixels(const OperatorRequest& request, Device& device,
                                        const nodes::Pixels& pixels) {
  const Tensor& x = *request.inputs[0];
  const Shared rows = shared(uploaded(std::span<const int32_t>(pixels.rows)));
  const Shared columns = shared(uploaded(std::span<const int32_t>(pixels.columns)));
  kernels::CopyPixelsArgs args{};
  args.in_width = x.shape[3];
  args.height = static_cast<int64_t>(pixels.rows.size());
  args.width = static_cast<int64_t>(pixels.columns.size());
  args.bytes = x.shape[1] * static_cast<int64_t>(size_of(x.dtype));
  return kernel_operator(0, 0, [args, rows, columns, &device](const Binding& binding) {
    kernels::CopyPixelsArgs bound = args;
    bound.in = binding.inputs[0];
    bound.out = binding.outputs[0];
    bound.rows = rows->as<const int32_t>();
    bound.columns = columns->as<const int32_t>();
    return launch(kernels::copy_pixels, bound, device, "copy_pixels");
  });
}

std::unique_ptr<Operator> make_resize_nearest(const OperatorRequest& request, Device& device) {
  return copied_pixels(request, device, nodes::resize_nearest(request));
}

std::unique_ptr<Operator> make_reflection_pad2d(const OperatorRequest& request, Device& device) {
  return copied_pixels(request, device, nodes::reflection_pad2d(request));
}

}  // namespace

std::vector<Op> shape_ops() {
  using enum OperandType;
  return {
      // An image that more than convolutions read, as a difference of images does, keeps its
      // digits.
      {{"frame", 0, 0, 1, {}, ResultType::as_read}, make_frame},
      {{"concat", 1, 1024, 1, {features}, ResultType::features}, make_concat},
      {{"slice", 1, 1, 1, {}, ResultType::as_first, -1, false, false, true}, make_slice},
      {{"tokens", 1, 1, 1, {any}, ResultType::as_read}, make_reinterpretation},
      {{"feature_map", 1, 1, 1, {any}, ResultType::as_read}, make_reinterpretation},
      {{"view", 1, 1, 1, {}, ResultType::as_first, -1, false, false, true}, make_reinterpretation},
      {{"window_gather", 2, 2, 1, {f32, index}, ResultType::f32}, make_window_gather},
      {{"depth_to_space", 1, 1, 1, {}, ResultType::as_first}, make_depth_to_space},
      {{"resize_bilinear", 1, 1, 1, {f32}, ResultType::f32}, make_resize_bilinear},
      {{"resize_nearest", 1, 1, 1, {}, ResultType::as_first}, make_resize_nearest},
      {{"reflection_pad2d", 1, 1, 1, {}, ResultType::as_first}, make_reflection_pad2d},
  };
}

}  // namespace adfast::cuda
