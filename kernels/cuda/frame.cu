// A frame's way in: resampled down its columns first, then along the rows, and normalised.
//
// A block computes a stretch of one output row. It sums the source rows for a chunk of source
// columns at a time into shared memory (values of neighbouring threads lie side by side, whatever
// the number of channels), from which its outputs take the taps that fall into the chunk. So any
// axis works, however far it shrinks or stretches.
#include "device.h"

namespace adfast::kernels::cuda {

namespace {

constexpr int kColumns = 64, kThreads = 3 * kColumns;
constexpr int kChunk = 1536;  // values of a source row at a time

template <class T, class Value>
__global__ void __launch_bounds__(kThreads) frame_kernel(FrameArgs a) {
  float* sums = reinterpret_cast<float*>(adfast_shared);  // [kChunk]
  int* span = reinterpret_cast<int*>(sums + kChunk);      // first and last source column, of a warp
  const int y = blockIdx.y, x = blockIdx.x * kColumns + threadIdx.x / 3, c = threadIdx.x % 3;
  const bool real = x < a.x.size;
  const int first = real ? a.x.first[x] : 0;
  int begin = real ? first : a.src_width, end = real ? first + a.x.taps : 0;
#pragma unroll
  for (int flip = 16; flip > 0; flip /= 2) {
    begin = min(begin, __shfl_xor_sync(kAllLanes, begin, flip));
    end = max(end, __shfl_xor_sync(kAllLanes, end, flip));
  }
  if (threadIdx.x % 32 == 0) {
    span[threadIdx.x / 32] = begin;
    span[kThreads / 32 + threadIdx.x / 32] = end;
  }
  __syncthreads();
  for (int i = 0; i < kThreads / 32; i++) {
    begin = min(begin, span[i]);
    end = max(end, span[kThreads / 32 + i]);
  }
  const int channels = a.src_channels, columns = kChunk / channels;
  const int64_t row_values = int64_t{a.src_width} * channels;
  const Value* top = static_cast<const Value*>(a.src) + a.y.first[y] * row_values;
  const float* down = a.y.weight + int64_t{y} * a.y.taps;
  const float* across = a.x.weight + int64_t{real ? x : 0} * a.x.taps;
  const int channel = one_of(a.channel, c);
  float total = 0;
  for (int from = begin; from < end; from += columns) {
    const int to = min(from + columns, end), count = (to - from) * channels;
    for (int i = threadIdx.x; i < count; i += kThreads) {
      const Value* p = top + int64_t{from} * channels + i;
      float sum = 0;
#pragma unroll 4
      for (int t = 0; t < a.y.taps; t++) sum += down[t] * static_cast<float>(p[t * row_values]);
      sums[i] = sum;
    }
    __syncthreads();
    if (real) {
      const int t_end = min(a.x.taps, to - first);
      for (int t = max(0, from - first); t < t_end; t++) {
        total += across[t] * sums[(first + t - from) * channels + channel];
      }
    }
    __syncthreads();
  }
  if (!real) return;
  const float v = total * one_of(a.scale, c) + one_of(a.bias, c);
  static_cast<T*>(a.dst)[(int64_t{y} * a.x.size + x) * 3 + c] = narrow<T>(v);
}

}  // namespace

cudaError_t frame_to_tensor(const FrameArgs& a, cudaStream_t stream) {
  return with_type(a.type, [&](auto type) {
    using T = typename decltype(type)::type;
    const dim3 grid(static_cast<unsigned>(ceil_div(a.x.size, kColumns)),
                    static_cast<unsigned>(a.y.size));
    const auto kernel = a.value_bytes == 2 ? frame_kernel<T, uint16_t> : frame_kernel<T, uint8_t>;
    return launch(kernel, grid, kThreads, kChunk * sizeof(float) + 2 * kThreads / 32 * sizeof(int),
                  stream, a);
  });
}

}  // namespace adfast::kernels::cuda
