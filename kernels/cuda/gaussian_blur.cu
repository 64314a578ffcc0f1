// Separable convolution of one f32 map, vertically first; the border mirrors without repeating the
// edge.
#include "device.h"

namespace adfast::kernels::cuda {

namespace {

constexpr int kThreads = 128;
constexpr int kRows = 4;  // outputs of a thread below each other: a source row serves all four

__device__ __forceinline__ int mirrored(int i, int size) {
  return i < 0 ? -i : i >= size ? 2 * size - 2 - i : i;
}

__global__ void __launch_bounds__(kThreads) blur_down_kernel(GaussianBlurArgs a) {
  float* kernel = reinterpret_cast<float*>(adfast_shared);  // [taps]
  for (int t = threadIdx.x; t < a.taps; t += kThreads) kernel[t] = a.kernel[t];
  __syncthreads();
  const int x = blockIdx.x * kThreads + threadIdx.x, y = blockIdx.y * kRows;
  if (x >= a.width) return;
  const int radius = a.taps / 2;
  float sum[kRows] = {};
  // Source row s contributes to output row j with tap s - j. Rows below the map are not stored.
#pragma unroll 4
  for (int s = 0; s < a.taps + kRows - 1; s++) {
    const int row = min(y + s, a.height - 1 + a.taps - 1) - radius;
    const float v = a.src[int64_t{mirrored(row, a.height)} * a.width + x];
#pragma unroll
    for (int j = 0; j < kRows; j++) {
      if (s >= j && s - j < a.taps) sum[j] += kernel[s - j] * v;
    }
  }
#pragma unroll
  for (int j = 0; j < kRows; j++) {
    if (y + j < a.height) a.scratch[int64_t{y + j} * a.width + x] = sum[j];
  }
}

__global__ void __launch_bounds__(kThreads) blur_across_kernel(GaussianBlurArgs a) {
  float* kernel = reinterpret_cast<float*>(adfast_shared);  // [taps]
  float* row = kernel + a.taps;                             // [kThreads + taps - 1]
  const int begin = blockIdx.x * kThreads, radius = a.taps / 2;
  const float* from = a.scratch + int64_t{blockIdx.y} * a.width;
  for (int t = threadIdx.x; t < a.taps; t += kThreads) kernel[t] = a.kernel[t];
  for (int i = threadIdx.x; i < kThreads + a.taps - 1; i += kThreads) {
    const int x = begin + i - radius;
    if (x < a.width + radius) row[i] = from[mirrored(x, a.width)];
  }
  __syncthreads();
  const int x = begin + threadIdx.x;
  if (x >= a.width) return;
  float sum = 0;
#pragma unroll 4
  for (int t = 0; t < a.taps; t++) sum += kernel[t] * row[threadIdx.x + t];
  a.dst[int64_t{blockIdx.y} * a.width + x] = sum;
}

}  // namespace

cudaError_t gaussian_blur(const GaussianBlurArgs& a, cudaStream_t stream) {
  const unsigned across = static_cast<unsigned>(ceil_div(a.width, kThreads));
  const size_t taps = static_cast<size_t>(a.taps);
  const cudaError_t error =
      launch(blur_down_kernel, dim3(across, static_cast<unsigned>(ceil_div(a.height, kRows))),
             kThreads, taps * sizeof(float), stream, a);
  if (error != cudaSuccess) return error;
  return launch(blur_across_kernel, dim3(across, static_cast<unsigned>(a.height)), kThreads,
                (2 * taps + kThreads - 1) * sizeof(float), stream, a);
}

}  // namespace adfast::kernels::cuda
