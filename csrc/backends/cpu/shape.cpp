// Moving elements: concatenation, slices, resizing; and not moving them: pixels as tokens.
#include <cstring>

#include "backends/cpu/backend.h"

namespace adfast::cpu {
namespace {

// Bytes; a copy of fewer is done sooner than threads are woken.
constexpr size_t worth_waking = size_t{1} << 20;

std::unique_ptr<Operator> make_concat(const OperatorRequest& request, const Device& device) {
  struct Piece {
    size_t bytes, offset;
  };
  const Tensor& result = *request.outputs[0];
  const nodes::Strips strips = nodes::concat(request);
  const size_t element = size_of(result.dtype);
  std::vector<Piece> pieces;
  std::vector<std::vector<float>> constants(request.inputs.size());
  for (size_t i = 0; i < request.inputs.size(); ++i) {
    const Tensor& input = *request.inputs[i];
    require(input.dtype == result.dtype, request.node,
            "input " + std::to_string(i) + " must be of the result's type");
    if (input.constant) constants[i] = floats(input);
    pieces.push_back({static_cast<size_t>(strips.pieces[i].inner) * element,
                      static_cast<size_t>(strips.pieces[i].offset) * element});
  }
  const size_t row = static_cast<size_t>(strips.whole) * element;
  const auto bind = [pieces, row, constants, outer = strips.outer](const Binding& binding) {
    std::vector<const void*> inputs(binding.inputs.begin(), binding.inputs.end());
    for (size_t i = 0; i < inputs.size(); ++i) {
      if (!constants[i].empty()) inputs[i] = constants[i].data();
    }
    return [pieces, row, outer, inputs, out = static_cast<std::byte*>(binding.outputs[0])] {
      share_rows(outer, static_cast<int64_t>(row / sizeof(float)), [&](int64_t begin, int64_t end) {
        for (size_t i = 0; i < pieces.size(); ++i) {
          const auto* in = static_cast<const std::byte*>(inputs[i]);
          for (int64_t o = begin; o < end; ++o) {
            std::memcpy(out + o * row + pieces[i].offset, in + o * pieces[i].bytes,
                        pieces[i].bytes);
          }
        }
      });
    };
  };
  return kernel_operator(device, 0, 0, bind);
}

std::unique_ptr<Operator> make_slice(const OperatorRequest& request, const Device& device) {
  const nodes::Strips strips = nodes::slice(request);
  const size_t element = size_of(request.inputs[0]->dtype);
  const size_t row = static_cast<size_t>(strips.whole) * element;
  const size_t offset = static_cast<size_t>(strips.pieces[0].offset) * element;
  const size_t bytes = static_cast<size_t>(strips.pieces[0].inner) * element;
  return kernel_operator(device, 0, 0, [=, outer = strips.outer](const Binding& binding) {
    return [=, in = static_cast<const std::byte*>(binding.inputs[0]),
            out = static_cast<std::byte*>(binding.outputs[0])] {
      share_rows(outer, static_cast<int64_t>(bytes / sizeof(float)),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t o = begin; o < end; ++o) {
                     std::memcpy(out + o * bytes, in + o * row + offset, bytes);
                   }
                 });
    };
  });
}

// Rows of a table by their numbers: every window's tokens.
std::unique_ptr<Operator> make_window_gather(const OperatorRequest& request, const Device& device) {
  const Tensor& x = *request.inputs[0];
  nodes::Gather node = nodes::window_gather(request);
  std::vector<float> table;
  if (x.constant) table = floats(x);
  return kernel_operator(
      device, 0, 0,
      [rows = std::move(node.rows), table, width = node.width](const Binding& binding) {
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
  const nodes::DepthToSpace node = nodes::depth_to_space(request);
  const int64_t height = node.height, width = node.width, block = node.block;
  const size_t run = static_cast<size_t>(block * node.channels) * size_of(request.inputs[0]->dtype);
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

std::unique_ptr<Operator> make_reinterpretation(const OperatorRequest& request,
                                                const Device& device) {
  nodes::reinterpretation(request);
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

std::unique_ptr<Operator> make_resize_bilinear(const OperatorRequest& request,
                                               const Device& device) {
  const nodes::Resize node = nodes::resize_bilinear(request);
  kernels::ResizeBilinearArgs args{};
  args.height = node.height;
  args.width = node.width;
  args.channels = node.channels;
  args.dst_height = args.row_end = node.out_height;
  args.dst_width = node.out_width;
  args.dst_row_stride = static_cast<ptrdiff_t>(node.out_width) * node.channels;
  args.align_corners = node.align_corners;
  const auto run = device.kernels->resize_bilinear;
  return kernel_operator(device, 8.0 * node.out_height * node.out_width * node.channels, 0,
                         [run, args](const Binding& binding) {
                           kernels::ResizeBilinearArgs bound = args;
                           bound.src = static_cast<const float*>(binding.inputs[0]);
                           bound.dst = static_cast<float*>(binding.outputs[0]);
                           return [run, bound] { run(bound); };
                         });
}

// Every pixel of the result is a copy of one of x's: y[i][j] = x[rows[i]][columns[j]].
std::unique_ptr<Operator> copied_pixels(const OperatorRequest& request, const Device& device,
                                        const nodes::Pixels& pixels) {
  const std::vector<int32_t>& columns = pixels.columns;
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
  // clang refuses to capture a structured binding where there is OpenMP.
  return kernel_operator(device, 0, 0, [=, rows = pixels.rows](const Binding& binding) {
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
  return copied_pixels(request, device, nodes::resize_nearest(request));
}

std::unique_ptr<Operator> make_reflection_pad2d(const OperatorRequest& request,
                                                const Device& device) {
  return copied_pixels(request, device, nodes::reflection_pad2d(request));
}

}  // namespace

std::vector<Op> shape_ops() {
  using enum OperandType;
  return {
      {{"concat", 1, 1024, 1, {features}, ResultType::features}, make_concat},
      {{"slice", 1, 1, 1, {}, ResultType::as_first, -1, false, false, true}, make_slice},
      // The bytes of a feature map are its tokens', but for their type.
      {{"tokens", 1, 1, 1, {any}, ResultType::f32}, make_reinterpretation},
      {{"feature_map", 1, 1, 1, {f32}, ResultType::as_first}, make_reinterpretation},
      {{"view", 1, 1, 1, {}, ResultType::as_first, -1, false, false, true}, make_reinterpretation},
      {{"window_gather", 2, 2, 1, {f32, index}, ResultType::f32}, make_window_gather},
      {{"depth_to_space", 1, 1, 1, {}, ResultType::as_first}, make_depth_to_space},
      {{"resize_bilinear", 1, 1, 1, {f32}, ResultType::f32}, make_resize_bilinear},
      {{"resize_nearest", 1, 1, 1, {}, ResultType::as_first}, make_resize_nearest},
      {{"reflection_pad2d", 1, 1, 1, {}, ResultType::as_first}, make_reflection_pad2d},
  };
}

}  // namespace adfast::cpu
