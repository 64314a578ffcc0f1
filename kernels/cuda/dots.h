// What GTrans's attention kernels share: products of pixels with eight rows.
#pragma once
#include "device.h"

namespace adfast::kernels::cuda {

// One warp: x[p] . row[t] for kPixels pixels, 1 or 4, and eight rows. Lane l gets pixel first_pixel
// + l / 8 % kPixels and row first_row + l % 8; those past the end repeat the last one and are the
// caller's to drop. Each load of x feeds eight sums, each load of a row kPixels of them.
template <int kPixels, int kPack, class T>
__device__ __forceinline__ float dots8(const T* x, int64_t first_pixel, int64_t pixels,
                                       int64_t channels, const float* rows, int64_t first_row,
                                       int64_t row_count) {
  float sum[kPixels * 8];
#pragma unroll
  for (int i = 0; i < kPixels * 8; i++) sum[i] = 0;
  const T* pixel[kPixels];
#pragma unroll
  for (int p = 0; p < kPixels; p++) {
    const int64_t at = first_pixel + p < pixels ? first_pixel + p : pixels - 1;
    pixel[p] = x + at * channels;
  }
  for (int64_t c = threadIdx.x % 32 * kPack; c < channels; c += 32 * kPack) {
    float v[kPixels][kPack];
#pragma unroll
    for (int p = 0; p < kPixels; p++) load<kPack>(pixel[p] + c, v[p]);
#pragma unroll
    for (int t = 0; t < 8; t++) {
      const int64_t row = first_row + t < row_count ? first_row + t : row_count - 1;
      float w[kPack];
      load<kPack>(rows + row * channels + c, w);
#pragma unroll
      for (int p = 0; p < kPixels; p++) {
#pragma unroll
        for (int j = 0; j < kPack; j++) sum[p * 8 + t] += v[p][j] * w[j];
      }
    }
  }
  return warp_sums(sum);
}

}  // namespace adfast::kernels::cuda
