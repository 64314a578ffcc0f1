// Maxima and means over sliding windows: a thread for a few neighbouring channels of an output
// pixel.
#include "device.h"

namespace adfast::kernels::cuda {

namespace {

constexpr int kThreads = 128;

template <class T, int kPack, bool kMean>
__global__ void __launch_bounds__(kThreads) pool_kernel(PoolArgs a) {
  const int64_t packs = a.channels / kPack;
  const int64_t count = packs * a.out_height * a.out_width;
  const T* x = static_cast<const T*>(a.x);
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * kThreads) {
    const Division pixel = divide(i, packs), at = divide(pixel.quotient, a.out_width);
    const int y0 = static_cast<int>(at.quotient) * a.stride_y - a.top;
    const int x0 = static_cast<int>(at.remainder) * a.stride_x - a.left;
    const int y_begin = max(y0, 0), y_end = min(y0 + a.kernel_height, a.height);
    const int x_begin = max(x0, 0), x_end = min(x0 + a.kernel_width, a.width);
    float result[kPack];
    for (int j = 0; j < kPack; j++) result[j] = kMean ? 0.0f : -infinity();
    for (int y = y_begin; y < y_end; y++) {
      for (int column = x_begin; column < x_end; column++) {
        float v[kPack];
        load<kPack>(x + ((int64_t{y} * a.width + column) * packs + pixel.remainder) * kPack, v);
#pragma unroll
        for (int j = 0; j < kPack; j++) {
          result[j] = kMean ? result[j] + v[j] : max_nan(result[j], v[j]);
        }
      }
    }
    if (kMean) {
      // A window that sticks out of the padding too (the last, if sizes are rounded up) is cut
      // there.
      const int rows = min(y0 + a.kernel_height, a.height + a.bottom) - y0;
      const int columns = min(x0 + a.kernel_width, a.width + a.right) - x0;
      const int divisor =
          a.count_include_pad ? rows * columns : (y_end - y_begin) * (x_end - x_begin);
#pragma unroll
      for (int j = 0; j < kPack; j++) result[j] /= static_cast<float>(divisor);
    }
    store<kPack>(static_cast<T*>(a.out) + i * kPack, result);
  }
}

template <bool kMean>
cudaError_t pool(const PoolArgs& a, cudaStream_t stream) {
  const bool vector = a.channels % 4 == 0 && aligned(a.x) && aligned(a.out);
  const int64_t count = int64_t{a.channels} / (vector ? 4 : 1) * a.out_height * a.out_width;
  return with_type(a.type, [&](auto type) {
    using T = typename decltype(type)::type;
    return launch(vector ? pool_kernel<T, 4, kMean> : pool_kernel<T, 1, kMean>,
                  blocks_for(count, kThreads), kThreads, 0, stream, a);
  });
}

}  // namespace

cudaError_t max_pool(const PoolArgs& a, cudaStream_t stream) { return pool<false>(a, stream); }
cudaError_t avg_pool(const PoolArgs& a, cudaStream_t stream) { return pool<true>(a, stream); }

}  // namespace adfast::kernels::cuda
