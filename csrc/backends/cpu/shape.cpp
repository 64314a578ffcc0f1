// Moving elements: concatenation, slices, resizing; and not moving them: pixels as tokens.
#include <cstring>

#include "backends/cpu/backend.h"
#include "core/frame.h"

namespace adfast::cpu {
namespace {

// Bytes; a copy of fewer is done sooner than threads are woken.
constexpr size_t worth_waking = size_t{1} << 20;

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

std::unique_ptr<Operator> make_concat(const OperatorRequest& request, const Device& device) {
  struct Piece {
    size_t bytes, offset;
  };
  const Node& node = request.node;
  const Tensor& result = *request.outputs[0];
  const int64_t axis = checked_axis(node, result.shape);
  const Strip whole = strip_of(result.shape, axis);
  const size_t element = size_of(result.dtype);
  Shape sum = result.shape;
  sum[axis] = 0;
  std::vector<Piece> pieces;
  std::vector<std::vector<float>> constants(request.inputs.size());
  for (size_t i = 0; i < request.inputs.size(); ++i) {
    const Tensor* input = request.inputs[i];
    require(input != nullptr && input->dtype == result.dtype, node,
            "input " + std::to_string(i) + " must be of the result's type");
    require(!input->constant || result.shape.size() == 3, node,
            "input " + std::to_string(i) + " is constant: only tokens may be");
    Shape expected = result.shape;
    expected[axis] = input->shape.size() == result.shape.size() ? input->shape[axis] : -1;
    require_shape(request, i, expected);
    if (input->constant) constants[i] = floats(*input);
    const Strip part = strip_of(input->shape, axis);
    pieces.push_back({static_cast<size_t>(part.axis * part.inner) * element,
                      static_cast<size_t>(sum[axis] * whole.inner) * element});
    sum[axis] += input->shape[axis];
  }
  require_result(request, 0, sum);
  const size_t row = static_cast<size_t>(whole.axis * whole.inner) * element;
  const auto bind = [pieces, row, constants, outer = whole.outer](const Binding& binding) {
    std::vector<const void*> inputs(binding.inputs.begin(), binding.inputs.end());
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (!constants[i].empty()) inputs[i] = constants[i].data();
    }
    return [pieces, row, outer, inputs, out = static_cast<std::byte*>(binding.outputs[0])] {
      for (size_t i = 0; i < pieces.size(); ++i) {
        const auto* in = static_cast<const std::byte*>(inputs[i]);
        for (int64_t o = 0; o < outer; ++o) {
          std::memcpy(out + o * row + pieces[i].offset, in + o * pieces[i].bytes, pieces[i].bytes);
        }
      }
    };
  };
  return kernel_operator(device, 0, 0, bind);
}

std::unique_ptr<Operator> make_slice(const OperatorRequest& request, const Device& device) {
  const Node& node = request.node;
  const Tensor& x = *request.inputs[0];
  const int64_t axis = checked_axis(node, x.shape);
  const int64_t start = node.attrs.integer("start"), end = node.attrs.integer("end");
  require(0 <= start && start < end && end <= x.shape[axis], node,
          std::to_string(start) + ":" + std::to_string(end) + " of axis " + std::to_string(axis) +
              " of " + to_string(x.shape));
  Shape y = x.shape;
  y[axis] = end - start;
  require_result(request, 0, y);
  const Strip strip = strip_of(x.shape, axis);
  const size_t element = size_of(x.dtype);
  const size_t row = static_cast<size_t>(strip.axis * strip.inner) * element;
  const size_t offset = static_cast<size_t>(start * strip.inner) * element;
  const size_t bytes = static_cast<size_t>((end - start) * strip.inner) * element;
  return kernel_operator(device, 0, 0, [=, outer = strip.outer](const Binding& binding) {
    return [=, in = static_cast<const std::byte*>(binding.inputs[0]),
            out = static_cast<std::byte*>(binding.outputs[0])] {
      for (int64_t o = 0; o < outer; ++o) {
        std::memcpy(out + o * bytes, in + o * row + offset, bytes);
      }
    };
  });
}

// Rows of a table by their numbers: every window's tokens.
std::unique_ptr<Operator> make_window_gather(const OperatorRequest& request, const Device& device) {
  const Node& node = request.node;
  const Tensor& x = *request.inputs[0];
  const Tensor& index = constant(request, 1);
  require(x.shape.size() == 3 && x.shape[0] == 1 && index.shape.size() == 2, node,
          "expected x [1,M,D] and index [W,t], got " + to_string(x.shape) + " and " +
              to_string(index.shape));
  std::vector<int32_t> rows = integers(index);
  const int64_t count = x.shape[1];
  for (int32_t row : rows) {
    require(row >= 0 && row < count, node,
            "index: expected 0 to " + std::to_string(count - 1) + ", got " + std::to_string(row));
  }
  require_result(request, 0, {index.shape[0], index.shape[1], x.shape[2]});
  std::vector<float> table;
  if (x.constant) table = floats(x);
  return kernel_operator(
      device, 0, 0, [rows = std::move(rows), table, width = x.shape[2]](const Binding& binding) {
        const void* from = table.empty() ? binding.inputs[0] : table.data();
        return [in = static_cast<const float*>(from), out = static_cast<float*>(binding.outputs[0]),
                rows = std::span(rows), width] {
          share_rows(std::ssize(rows), width, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
              std::memcpy(out + i * width, in + rows[i] * width, width * sizeof(float));
            }
          });
        };
      });
}

// A pixel's channels hold, row by row, the pixels of a block: whole rows of it are copied.
std::unique_ptr<Operator> make_depth_to_space(const OperatorRequest& request,
                                              const Device& device) {
  const Node& node = request.node;
  const Tensor& x = *request.inputs[0];
  const int64_t block = node.attrs.integer("block");
  require(x.shape.size() == 4 && x.shape[0] == 1 && block >= 1 && block <= max_frame_side &&
              x.shape[1] % (block * block) == 0,
          node,
          "input 0: expected [1,C*" + std::to_string(block) + "*" + std::to_string(block) +
              ",H,W], got " + to_string(x.shape));
  const int64_t channels = x.shape[1] / (block * block), height = x.shape[2], width = x.shape[3];
  require_result(request, 0, {1, channels, height * block, width * block});
  const size_t run = static_cast<size_t>(block * channels) * size_of(x.dtype);
  return kernel_operator(device, 0, 0, [=](const Binding& binding) {
    return [=, in = static_cast<const std::byte*>(binding.inputs[0]),
            out = static_cast<std::byte*>(binding.outputs[0])] {
      for (int64_t y = 0; y < height; ++y) {
        for (int64_t row = 0; row < block; ++row) {
          for (int64_t column = 0; column < width; ++column) {
            std::memcpy(out + ((y * block + row) * width + column) * run,
                        in + ((y * width + column) * block + row) * run, run);
          }
        }
      }
    };
  });
}

std::unique_ptr<Operator> copy(const OperatorRequest& request, const Device& device,
                               const Shape& expected) {
  require_result(request, 0, expected);
  const Tensor& x = *request.inputs[0];
  const kernels::UnaryArgs args{kernels::Unary::identity,
                                nullptr,
                                kernel_type(x.dtype),
                                nullptr,
                                kernel_type(request.outputs[0]->dtype),
                                element_count(x.shape)};
  const auto run = device.kernels->unary;
  return kernel_operator(device, 0, 0, [run, args](const Binding& binding) {
    kernels::UnaryArgs bound = args;
    bound.x = binding.inputs[0];
    bound.out = binding.outputs[0];
    return [run, bound] { share_unary(run, bound); };
  });
}

std::unique_ptr<Operator> make_tokens(const OperatorRequest& request, const Device& device) {
  const Shape& x = request.inputs[0]->shape;
  require(x.size() == 4 && x[0] == 1, request.node,
          "input 0: expected [1,C,H,W], got " + to_string(x));
  return copy(request, device, {1, x[2] * x[3], x[1]});
}

std::unique_ptr<Operator> make_feature_map(const OperatorRequest& request, const Device& device) {
  const Node& node = request.node;
  const Shape& x = request.inputs[0]->shape;
  const int64_t height = node.attrs.integer("height"), width = node.attrs.integer("width");
  require(x.size() == 3 && x[0] == 1 && height >= 1 && width >= 1 && height <= x[1] &&
              width <= x[1] && x[1] == height * width,
          node,
          "input 0: expected [1," + std::to_string(height) + "*" + std::to_string(width) +
              ",C], got " + to_string(x));
  return copy(request, device, {1, x[2], height, width});
}

std::unique_ptr<Operator> make_view(const OperatorRequest& request, const Device& device) {
  const Shape& x = request.inputs[0]->shape;
  const Shape& y = request.outputs[0]->shape;
  require(x.size() != 4 && y.size() != 4 && element_count(x) == element_count(y) &&
              request.node.attrs.integers("shape") == y,
          request.node, "cannot read " + to_string(x) + " as " + to_string(y));
  return copy(request, device, y);
}

std::unique_ptr<Operator> make_resize_bilinear(const OperatorRequest& request,
                                               const Device& device) {
  const Node& node = request.node;
  const Shape& x = request.inputs[0]->shape;
  const int64_t height = node.attrs.integer("height"), width = node.attrs.integer("width");
  require(x.size() == 4 && height >= 1 && width >= 1 && height <= max_frame_side &&
              width <= max_frame_side && x[2] <= max_frame_side && x[3] <= max_frame_side,
          node,
          "input " + to_string(x) + " to " + std::to_string(height) + "x" + std::to_string(width));
  require_result(request, 0, {1, x[1], height, width});
  kernels::ResizeBilinearArgs args{};
  args.height = static_cast<int32_t>(x[2]);
  args.width = static_cast<int32_t>(x[3]);
  args.channels = static_cast<int32_t>(x[1]);
  args.dst_height = args.row_end = static_cast<int32_t>(height);
  args.dst_width = static_cast<int32_t>(width);
  args.dst_row_stride = width * x[1];
  args.align_corners = node.attrs.integer("align_corners") != 0;
  const auto run = device.kernels->resize_bilinear;
  return kernel_operator(device, 8.0 * height * width * x[1], 0,
                         [run, args](const Binding& binding) {
                           kernels::ResizeBilinearArgs bound = args;
                           bound.src = static_cast<const float*>(binding.inputs[0]);
                           bound.dst = static_cast<float*>(binding.outputs[0]);
                           return [run, bound] { run(bound); };
                         });
}

// Every pixel of the result is a copy of one of x's: y[i][j] = x[rows[i]][columns[j]].
std::unique_ptr<Operator> copied_pixels(const OperatorRequest& request, const Device& device,
                                        const std::vector<int64_t>& rows,
                                        const std::vector<int64_t>& columns) {
  struct Run {
    size_t out, in, bytes;
  };
  const Tensor& x = *request.inputs[0];
  const size_t pixel = static_cast<size_t>(x.shape[1]) * size_of(x.dtype);
  // Neighbours that stay neighbours are copied together.
  std::vector<Run> runs;
  for (size_t j = 0; j < columns.size(); ++j) {
    const size_t from = static_cast<size_t>(columns[j]) * pixel;
    if (runs.empty() || runs.back().in + runs.back().bytes != from) {
      runs.push_back({j * pixel, from, pixel});
    } else {
      runs.back().bytes += pixel;
    }
  }
  const size_t in_row = static_cast<size_t>(x.shape[3]) * pixel, out_row = columns.size() * pixel;
  return kernel_operator(device, 0, 0, [=](const Binding& binding) {
    return [=, in = static_cast<const std::byte*>(binding.inputs[0]),
            out = static_cast<std::byte*>(binding.outputs[0])] {
      const auto height = static_cast<int64_t>(rows.size());
#pragma omp parallel for schedule(static) if (static_cast<size_t>(height) * out_row >= worth_waking)
      for (int64_t i = 0; i < height; ++i) {
        const std::byte* from = in + static_cast<size_t>(rows[i]) * in_row;
        std::byte* to = out + static_cast<size_t>(i) * out_row;
        for (const Run& run : runs) std::memcpy(to + run.out, from + run.in, run.bytes);
      }
    };
  });
}

std::unique_ptr<Operator> make_resize_nearest(const OperatorRequest& request,
                                              const Device& device) {
  const Node& node = request.node;
  const Shape& x = request.inputs[0]->shape;
  const int64_t height = node.attrs.integer("height"), width = node.attrs.integer("width");
  require(x.size() == 4 && x[0] == 1 && height >= 1 && width >= 1 && height <= max_frame_side &&
              width <= max_frame_side && x[2] <= max_frame_side && x[3] <= max_frame_side,
          node,
          "input " + to_string(x) + " to " + std::to_string(height) + "x" + std::to_string(width));
  require_result(request, 0, {1, x[1], height, width});
  const auto places = [](int64_t size, int64_t out) {
    std::vector<int64_t> from(static_cast<size_t>(out));
    for (int64_t i = 0; i < out; ++i) from[i] = i * size / out;
    return from;
  };
  return copied_pixels(request, device, places(x[2], height), places(x[3], width));
}

std::unique_ptr<Operator> make_reflection_pad2d(const OperatorRequest& request,
                                                const Device& device) {
  const Node& node = request.node;
  const Shape& x = request.inputs[0]->shape;
  const auto pads = node.attrs.integers("pads", 4, 0, max_frame_side);
  require(x.size() == 4 && x[0] == 1 && std::max(pads[0], pads[2]) < x[2] &&
              std::max(pads[1], pads[3]) < x[3],
          node,
          "pads: expected each smaller than the side it mirrors, got " + to_string(pads) +
              " around " + to_string(x));
  require_result(request, 0, {1, x[1], x[2] + pads[0] + pads[2], x[3] + pads[1] + pads[3]});
  const auto places = [](int64_t size, int64_t before, int64_t after) {
    std::vector<int64_t> from;
    for (int64_t i = -before; i < size + after; ++i) {
      from.push_back(i < 0 ? -i : i < size ? i : 2 * (size - 1) - i);
    }
    return from;
  };
  return copied_pixels(request, device, places(x[2], pads[0], pads[2]),
                       places(x[3], pads[1], pads[3]));
}

}  // namespace

std::vector<Op> shape_ops() {
  using enum OperandType;
  return {
      {"concat", 1, 1024, 1, {features}, Op::Result::features, make_concat},
      {"slice", 1, 1, 1, {}, Op::Result::as_first, make_slice},
      // The bytes of a feature map are its tokens', but for their type.
      {"tokens", 1, 1, 1, {any}, Op::Result::f32, make_tokens},
      {"feature_map", 1, 1, 1, {f32}, Op::Result::as_first, make_feature_map},
      {"view", 1, 1, 1, {}, Op::Result::as_first, make_view},
      {"window_gather", 2, 2, 1, {f32, index}, Op::Result::f32, make_window_gather},
      {"depth_to_space", 1, 1, 1, {}, Op::Result::as_first, make_depth_to_space},
      {"resize_bilinear", 1, 1, 1, {f32}, Op::Result::f32, make_resize_bilinear},
      {"resize_nearest", 1, 1, 1, {}, Op::Result::as_first, make_resize_nearest},
      {"reflection_pad2d", 1, 1, 1, {}, Op::Result::as_first, make_reflection_pad2d},
  };
}

}  // namespace adfast::cpu
