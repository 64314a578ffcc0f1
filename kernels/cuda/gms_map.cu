// Gradient magnitude similarity of two images (Xue et al., 2014; RIAD and InTra eq. 11): a thread
// for each pixel. The nine neighbours come from the cache, where those of the next pixels are too.
#include "device.h"

namespace adfast::kernels::cuda {

namespace {

constexpr int kThreads = 128;

// The squared length of the gradient, from the addresses of three rows' channel and the distances
// of the columns to the left and right.
__device__ __forceinline__ float gradient_square(const float* above, const float* here,
                                                 const float* below, int64_t left, int64_t right) {
  const float a0 = above[left], a1 = above[0], a2 = above[right];
  const float b0 = below[left], b1 = below[0], b2 = below[right];
  const float across = ((a2 + here[right] + b2) - (a0 + here[left] + b0)) * (1.0f / 3.0f);
  const float down = ((b0 - a0) + (b1 - a1) + (b2 - a2)) * (1.0f / 3.0f);
  return across * across + down * down;
}

__global__ void __launch_bounds__(kThreads) gms_map_kernel(GmsMapArgs a) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= a.height * a.width) return;
  const Division at = divide(i, a.width);
  const int64_t y = at.quotient, x = at.remainder, line = a.width * a.channels;
  const int64_t here = i * a.channels;
  const int64_t above = y > 0 ? here - line : here, below = y + 1 < a.height ? here + line : here;
  const int64_t left = x > 0 ? -a.channels : 0, right = x + 1 < a.width ? a.channels : 0;
  float total = 0;
  for (int64_t c = 0; c < a.channels; c++) {
    const float *p = a.a + c, *q = a.b + c;
    const float aa = gradient_square(p + above, p + here, p + below, left, right);
    const float bb = gradient_square(q + above, q + here, q + below, left, right);
    const float d = sqrtf(aa) - sqrtf(bb);
    total += d * d / (aa + bb + a.c);
  }
  a.out[i] = total * (1.0f / static_cast<float>(a.channels));
}

}  // namespace

cudaError_t gms_map(const GmsMapArgs& a, cudaStream_t stream) {
  return launch(gms_map_kernel, blocks_for(a.height * a.width, kThreads), kThreads, 0, stream, a);
}

}  // namespace adfast::kernels::cuda
