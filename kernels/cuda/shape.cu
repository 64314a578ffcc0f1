// What only moves bytes: every output unit (the largest word that sizes and addresses allow, 2 to
// 16 bytes) finds where it comes from.
#include "device.h"

namespace adfast::kernels::cuda {

namespace {

constexpr int kThreads = 256;

struct Move {
  int64_t from, to;  // in units
};

// out[move(i).to] = in[move(i).from] for count units.
template <class Unit, class Place>
__global__ void __launch_bounds__(kThreads)
    move_kernel(const Unit* in, Unit* out, int64_t count, Place place) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * kThreads) {
    const Move move = place(i);
    out[move.to] = in[move.from];
  }
}

// All sizes in units.
struct Strips {
  int64_t length, in_stride, out_stride;
  __device__ Move operator()(int64_t i) const {
    const Division strip = divide(i, length);
    return {strip.quotient * in_stride + strip.remainder,
            strip.quotient * out_stride + strip.remainder};
  }
};
struct Pixels {
  int64_t length, in_width, width;
  const int32_t *rows, *columns;
  __device__ Move operator()(int64_t i) const {
    const Division pixel = divide(i, length), at = divide(pixel.quotient, width);
    const int64_t from = rows[at.quotient] * in_width + columns[at.remainder];
    return {from * length + pixel.remainder, i};
  }
};
struct Rows {
  int64_t length;
  const int32_t* index;
  __device__ Move operator()(int64_t i) const {
    const Division row = divide(i, length);
    return {index[row.quotient] * length + row.remainder, i};
  }
};
struct Depth {
  int64_t length, width, block;
  __device__ Move operator()(int64_t i) const {
    const Division pixel = divide(i, length), at = divide(pixel.quotient, width * block);
    const Division y = divide(at.quotient, block), x = divide(at.remainder, block);
    const int64_t from =
        ((y.quotient * width + x.quotient) * block + y.remainder) * block + x.remainder;
    return {from * length + pixel.remainder, i};
  }
};

// Calls run(unit) with a value of the largest word that divides every number of `sizes`, addresses
// among them.
template <class Run>
cudaError_t with_unit(int64_t sizes, Run&& run) {
  if (sizes % 16 == 0) return run(uint4{});
  if (sizes % 8 == 0) return run(uint2{});
  if (sizes % 4 == 0) return run(uint32_t{});
  return run(uint16_t{});
}
int64_t address(const void* p) { return static_cast<int64_t>(reinterpret_cast<uintptr_t>(p)); }

template <class Unit, class Place>
cudaError_t move_units(const void* in, void* out, int64_t count, Place place, cudaStream_t stream) {
  return launch(move_kernel<Unit, Place>, blocks_for(count, kThreads), kThreads, 0, stream,
                static_cast<const Unit*>(in), static_cast<Unit*>(out), count, place);
}

template <class Unit>
__global__ void __launch_bounds__(kThreads)
    unfold_kernel(const Unit* in, Unit* out, UnfoldArgs a, int64_t length, int64_t row) {
  const int64_t count = a.out_height * a.out_width * row;
  const int64_t window = a.kernel_height * a.kernel_width * length;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * kThreads) {
    const Division at = divide(i, row);
    Unit value{};
    if (at.remainder < window) {
      const Division pixel = divide(at.quotient, a.out_width), tap = divide(at.remainder, length);
      const Division offset = divide(tap.quotient, a.kernel_width);
      const int64_t y = pixel.quotient * a.stride_y - a.top + offset.quotient * a.dilation_y;
      const int64_t x = pixel.remainder * a.stride_x - a.left + offset.remainder * a.dilation_x;
      if (y >= 0 && y < a.height && x >= 0 && x < a.width) {
        value = in[(y * a.width + x) * length + tap.remainder];
      }
    }
    out[i] = value;
  }
}

}  // namespace

// A word divides all numbers if it divides their bits together.
cudaError_t copy_strips(const CopyStripsArgs& a, cudaStream_t stream) {
  if (a.outer == 0 || a.bytes == 0) return cudaSuccess;
  const int64_t strides = a.outer > 1 ? a.in_stride | a.out_stride : 0;
  return with_unit(address(a.in) | address(a.out) | a.bytes | strides, [&](auto unit) {
    constexpr int64_t kSize = sizeof unit;
    const int64_t length = a.bytes / kSize;
    return move_units<decltype(unit)>(a.in, a.out, a.outer * length,
                                      Strips{length, a.in_stride / kSize, a.out_stride / kSize},
                                      stream);
  });
}

cudaError_t copy_pixels(const CopyPixelsArgs& a, cudaStream_t stream) {
  return with_unit(address(a.in) | address(a.out) | a.bytes, [&](auto unit) {
    const int64_t length = a.bytes / static_cast<int64_t>(sizeof unit);
    return move_units<decltype(unit)>(a.in, a.out, a.height * a.width * length,
                                      Pixels{length, a.in_width, a.width, a.rows, a.columns},
                                      stream);
  });
}

cudaError_t gather_rows(const GatherRowsArgs& a, cudaStream_t stream) {
  return with_unit(address(a.in) | address(a.out) | a.bytes, [&](auto unit) {
    const int64_t length = a.bytes / static_cast<int64_t>(sizeof unit);
    return move_units<decltype(unit)>(a.in, a.out, a.rows * length, Rows{length, a.index}, stream);
  });
}

cudaError_t depth_to_space(const DepthToSpaceArgs& a, cudaStream_t stream) {
  return with_unit(address(a.in) | address(a.out) | a.bytes, [&](auto unit) {
    const int64_t length = a.bytes / static_cast<int64_t>(sizeof unit);
    return move_units<decltype(unit)>(a.in, a.out, a.height * a.width * a.block * a.block * length,
                                      Depth{length, a.width, a.block}, stream);
  });
}

cudaError_t unfold(const UnfoldArgs& a, cudaStream_t stream) {
  return with_unit(address(a.in) | address(a.out) | a.bytes | a.row_bytes, [&](auto unit) {
    using Unit = decltype(unit);
    constexpr int64_t kSize = sizeof unit;
    const int64_t row = a.row_bytes / kSize;
    return launch(unfold_kernel<Unit>, blocks_for(a.out_height * a.out_width * row, kThreads),
                  kThreads, 0, stream, static_cast<const Unit*>(a.in), static_cast<Unit*>(a.out), a,
                  a.bytes / kSize, row);
  });
}

}  // namespace adfast::kernels::cuda
