// Sums, means and maxima over an axis: every result by a block, or, where results are few and the
// axis is long, by several blocks and a second kernel that combines what they found. Partial sums
// are f32 trees over short stretches, and are added up in double where they are many.
#include "device.h"

namespace adfast::kernels::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kColumns = 32, kSlices = kThreads / kColumns;

struct Plan {
  int64_t parts;   // of the axis
  int64_t length;  // of a part
};
Plan plan_of(int64_t rows, int64_t width, int64_t inner) {
  // A part is worth a block, and the second kernel, if each of its threads has a few elements.
  const int64_t per_block = inner == 1 ? 4 * kThreads : 32 * kSlices;
  const int64_t tiles = larger(1, rows * (inner == 1 ? 1 : ceil_div(inner, kColumns)));
  const int64_t wanted = larger(1, 2 * kMultiprocessors / tiles);
  const int64_t parts = larger(1, smaller(wanted, ceil_div(width, per_block)));
  const int64_t length = larger(1, ceil_div(width, parts));
  return {larger(1, ceil_div(width, length)), length};
}

__device__ __forceinline__ float combined(Reduce op, float a, float b) {
  return op == Reduce::max ? max_nan(a, b) : a + b;
}
// A result as the caller wants it, a part's in f32.
struct Results {
  void* data;
  Type type;
  __device__ __forceinline__ void put(int64_t i, float value) const {
    if (type == Type::f16) {
      static_cast<__half*>(data)[i] = narrow<__half>(value);
    } else if (type == Type::bf16) {
      static_cast<__nv_bfloat16*>(data)[i] = narrow<__nv_bfloat16>(value);
    } else {
      static_cast<float*>(data)[i] = value;
    }
  }
};
__device__ __forceinline__ float nothing(Reduce op) {
  return op == Reduce::max ? -infinity() : 0.0f;
}

// inner == 1: a block for each row and part. `out` is [rows][parts].
template <class T>
__global__ void __launch_bounds__(kThreads)
    reduce_row_kernel(ReduceArgs a, int64_t length, int64_t parts, float share, Results out) {
  float* shared = reinterpret_cast<float*>(adfast_shared);
  const int64_t row = blockIdx.x / parts, part = blockIdx.x % parts;
  const T* x = static_cast<const T*>(a.x) + row * a.width;
  const int64_t begin = part * length;
  const int64_t end = begin + length < a.width ? begin + length : a.width;
  constexpr int kPack = 4;
  float total[kPack];
  for (int j = 0; j < kPack; j++) total[j] = nothing(a.op);
  // Whole packs between the first aligned element and the last.
  const int64_t ahead = (kPack - (row * a.width + begin) % kPack) % kPack;
  const int64_t first = begin + ahead < end ? begin + ahead : end;
  const int64_t whole = first + (end - first) / kPack * kPack;
  for (int64_t i = first + threadIdx.x * kPack; i < whole; i += kThreads * kPack) {
    float v[kPack];
    load<kPack>(x + i, v);
#pragma unroll
    for (int j = 0; j < kPack; j++) total[j] = combined(a.op, total[j], v[j]);
  }
  for (int64_t i = begin + threadIdx.x; i < first; i += kThreads) {
    total[0] = combined(a.op, total[0], widen(x[i]));
  }
  for (int64_t i = whole + threadIdx.x; i < end; i += kThreads) {
    total[0] = combined(a.op, total[0], widen(x[i]));
  }
  const float sum =
      combined(a.op, combined(a.op, total[0], total[1]), combined(a.op, total[2], total[3]));
  const float result =
      block_combine(sum, shared, [&](float p, float q) { return combined(a.op, p, q); });
  if (threadIdx.x == 0) out.put(blockIdx.x, result * share);
}

// Many short rows: a warp for each.
template <class T>
__global__ void __launch_bounds__(kThreads)
    reduce_short_kernel(ReduceArgs a, float share, Results out) {
  const int64_t row = int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
  if (row >= a.rows) return;
  const T* x = static_cast<const T*>(a.x) + row * a.width;
  float total = nothing(a.op);
  for (int64_t i = threadIdx.x % 32; i < a.width; i += 32) {
    total = combined(a.op, total, widen(x[i]));
  }
#pragma unroll
  for (int flip = 16; flip > 0; flip /= 2) {
    total = combined(a.op, total, __shfl_xor_sync(kAllLanes, total, flip));
  }
  if (threadIdx.x % 32 == 0) out.put(row, total * share);
}

// inner > 1: columns lie next to each other, slices of the axis among the warps of a block. `out`
// is [rows][parts][inner].
template <class T>
__global__ void __launch_bounds__(kThreads)
    reduce_columns_kernel(ReduceArgs a, int64_t length, int64_t parts, int64_t tiles, float share,
                          Results out) {
  float* shared = reinterpret_cast<float*>(adfast_shared);  // [kSlices][kColumns]
  const int column = threadIdx.x % kColumns, slice = threadIdx.x / kColumns;
  const int64_t i = blockIdx.x % tiles * kColumns + column;
  const int64_t rest = blockIdx.x / tiles, part = rest % parts, row = rest / parts;
  const int64_t begin = part * length;
  const int64_t end = begin + length < a.width ? begin + length : a.width;
  float total = nothing(a.op);
  if (i < a.inner) {
    const T* x = static_cast<const T*>(a.x) + row * a.width * a.inner + i;
#pragma unroll 8
    for (int64_t w = begin + slice; w < end; w += kSlices) {
      total = combined(a.op, total, widen(x[w * a.inner]));
    }
  }
  shared[threadIdx.x] = total;
  __syncthreads();
  if (slice > 0 || i >= a.inner) return;
  for (int s = 1; s < kSlices; s++) total = combined(a.op, total, shared[s * kColumns + column]);
  out.put((row * parts + part) * a.inner + i, total * share);
}

// partial [rows][parts][inner] -> out [rows][inner].
__global__ void __launch_bounds__(kThreads)
    reduce_parts_kernel(ReduceArgs a, int64_t parts, const float* partial, Results out) {
  const int64_t count = a.rows * a.inner;
  for (int64_t at = int64_t{blockIdx.x} * kThreads + threadIdx.x; at < count;
       at += int64_t{gridDim.x} * kThreads) {
    const Division place = divide(at, a.inner);
    const float* from = partial + place.quotient * parts * a.inner + place.remainder;
    if (a.op == Reduce::max) {
      float most = from[0];
      for (int64_t p = 1; p < parts; p++) most = max_nan(most, from[p * a.inner]);
      out.put(at, most);
      continue;
    }
    double total = 0;
    for (int64_t p = 0; p < parts; p++) total += static_cast<double>(from[p * a.inner]);
    if (a.op == Reduce::mean) total /= static_cast<double>(a.width);
    out.put(at, static_cast<float>(total));
  }
}

}  // namespace

size_t reduce_scratch(int64_t rows, int64_t width, int64_t inner) {
  const Plan plan = plan_of(rows, width, inner);
  return plan.parts > 1 ? static_cast<size_t>(rows * plan.parts * inner) : 0;
}

cudaError_t reduce(const ReduceArgs& a, cudaStream_t stream) {
  const Plan plan = plan_of(a.rows, a.width, a.inner);
  const bool split = plan.parts > 1;
  const Results whole{a.out, a.out_type};
  const Results out = split ? Results{a.scratch, Type::f32} : whole;
  const float share = a.op == Reduce::mean && !split ? 1.0f / static_cast<float>(a.width) : 1.0f;
  const cudaError_t error = with_type(a.type, [&](auto type) {
    using T = typename decltype(type)::type;
    if (a.inner == 1 && a.width <= 1024 && a.rows >= kMultiprocessors) {
      return launch(reduce_short_kernel<T>, blocks_for(a.rows, kThreads / 32), kThreads, 0, stream,
                    a, share, out);
    }
    if (a.inner == 1) {
      return launch(reduce_row_kernel<T>, blocks_for(a.rows * plan.parts, 1), kThreads,
                    kThreads / 32 * sizeof(float), stream, a, plan.length, plan.parts, share, out);
    }
    const int64_t tiles = ceil_div(a.inner, kColumns);
    return launch(reduce_columns_kernel<T>, blocks_for(a.rows * plan.parts * tiles, 1), kThreads,
                  kThreads * sizeof(float), stream, a, plan.length, plan.parts, tiles, share, out);
  });
  if (error != cudaSuccess || !split) return error;
  return launch(reduce_parts_kernel, blocks_for(a.rows * a.inner, kThreads), kThreads, 0, stream, a,
                plan.parts, a.scratch, whole);
}

}  // namespace adfast::kernels::cuda
