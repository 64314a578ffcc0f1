// GTrans (Yan et al., 2023), eq. 18-19 and table 7: the layers' maps upsampled, weighted and
// combined in one pass.
#include "resample.h"

namespace adfast::kernels::cuda {

namespace {

constexpr int kThreads = 256;

__device__ float layer_weight(float lambda, float mse, float cosine) {
  const double scaled = static_cast<double>(lambda) * static_cast<double>(cosine);
  const double sum = static_cast<double>(mse) + scaled;
  return sum == 0 ? 0.0f : static_cast<float>(scaled * static_cast<double>(mse) / sum);
}

template <int kMode>
__global__ void __launch_bounds__(kThreads) fuse_maps_kernel(FuseMapsArgs a) {
  // A layer that the mode leaves out is not even read.
  constexpr bool kUsed[3] = {kMode != 1 && kMode != 3, kMode != 1 && kMode != 2, true};
  // Once for a block: double precision is slow on many cards.
  float* weight = reinterpret_cast<float*>(adfast_shared);
  if (threadIdx.x < 3) {
    const int l = threadIdx.x;
    weight[l] = layer_weight(a.lambda[l], *one_of(a.mse, l), *one_of(a.cos, l));
  }
  __syncthreads();
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= int64_t{a.height} * a.width) return;
  const Division at = divide(i, a.width);
  float m[3] = {};
#pragma unroll
  for (int l = 0; l < 3; l++) {
    if (!kUsed[l]) continue;
    const int width = a.map_width[l];
    const Place row = place(static_cast<int>(at.quotient), a.map_height[l], a.height, false);
    const Place column = place(static_cast<int>(at.remainder), width, a.width, false);
    const float* top = a.map[l] + int64_t{row.first} * width;
    const float* bottom = a.map[l] + int64_t{row.next} * width;
    m[l] =
        between(between(top[column.first], top[column.next], column.fraction),
                between(bottom[column.first], bottom[column.next], column.fraction), row.fraction) *
        weight[l];
  }
  float fused = m[2];
  if (kMode == 2) fused = m[0] * m[2];
  if (kMode == 3) fused = m[1] * m[2];
  if (kMode == 4) fused = m[0] + m[1] + m[2];
  if (kMode == 5) fused = m[0] * m[1] * m[2];
  if (kMode == 6) fused = m[0] * m[2] + m[1] * m[2];
  a.out[i] = fused;
}

}  // namespace

cudaError_t fuse_maps(const FuseMapsArgs& a, cudaStream_t stream) {
  const auto run = [&](void (*kernel)(FuseMapsArgs)) {
    return launch(kernel, blocks_for(int64_t{a.height} * a.width, kThreads), kThreads,
                  3 * sizeof(float), stream, a);
  };
  switch (a.mode) {
    case 1:
      return run(fuse_maps_kernel<1>);
    case 2:
      return run(fuse_maps_kernel<2>);
    case 3:
      return run(fuse_maps_kernel<3>);
    case 4:
      return run(fuse_maps_kernel<4>);
    case 5:
      return run(fuse_maps_kernel<5>);
    case 6:
      return run(fuse_maps_kernel<6>);
  }
  return cudaErrorInvalidValue;
}

}  // namespace adfast::kernels::cuda
