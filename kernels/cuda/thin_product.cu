// A few rows times a matrix: a warp for each column of the result and a handful of rows, which
// reads the column's weights once. Neither tiles nor tensor cores: the work is fetching the weight,
// and every multiprocessor fetches some.
#include "device.h"

namespace adfast::kernels::cuda {

namespace {

constexpr int kThreads = 128, kWarps = kThreads / 32;

__device__ __forceinline__ void put(const ThinProductArgs& a, int64_t row, int64_t i, float v) {
  if (a.bias) v += a.bias[i];
  const int64_t at = row * a.width + i;
  if (a.out_type == Type::f32) {
    if (a.residual) v += static_cast<const float*>(a.residual)[at];
    static_cast<float*>(a.out)[at] = apply(a.activation, v);
  } else if (a.out_type == Type::f16) {
    if (a.residual) v += widen(static_cast<const __half*>(a.residual)[at]);
    static_cast<__half*>(a.out)[at] = narrow<__half>(apply_rough(a.activation, v));
  } else {
    if (a.residual) v += widen(static_cast<const __nv_bfloat16*>(a.residual)[at]);
    static_cast<__nv_bfloat16*>(a.out)[at] = narrow<__nv_bfloat16>(apply_rough(a.activation, v));
  }
}

template <class T, int kRows, int kPack>
__global__ void __launch_bounds__(kThreads) thin_product_kernel(ThinProductArgs a) {
  const int64_t i = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (i >= a.width) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t first = int64_t{blockIdx.y} * kRows;
  const T* weight = static_cast<const T*>(a.weight) + i * a.depth;
  const T* x = static_cast<const T*>(a.x) + first * a.depth;
  float total[kRows] = {};
  for (int64_t k = int64_t{lane} * kPack; k < a.depth; k += 32 * kPack) {
    float w[kPack];
    load<kPack>(weight + k, w);
#pragma unroll
    for (int r = 0; r < kRows; r++) {
      if (first + r >= a.rows) break;
      float v[kPack];
      load<kPack>(x + r * a.depth + k, v);
#pragma unroll
      for (int j = 0; j < kPack; j++) total[r] = fmaf(v[j], w[j], total[r]);
    }
  }
  if constexpr (kRows == 1) {
    const float sum = lanes_sum(total[0]);
    if (lane == 0) put(a, first, i, sum);
  } else {
    const float sum = warp_sums(total);
    if (lane < kRows && first + lane < a.rows) put(a, first + lane, i, sum);
  }
}

template <class T, int kRows>
cudaError_t start(const ThinProductArgs& a, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(ceil_div(a.width, kWarps)),
                  static_cast<unsigned>(ceil_div(a.rows, kRows)));
  return a.depth % 4 == 0 ? launch(thin_product_kernel<T, kRows, 4>, grid, kThreads, 0, stream, a)
                          : launch(thin_product_kernel<T, kRows, 1>, grid, kThreads, 0, stream, a);
}

}  // namespace

cudaError_t thin_product(const ThinProductArgs& a, cudaStream_t stream) {
  return with_type(a.type, [&](auto type) {
    using T = typename decltype(type)::type;
    return a.rows == 1 ? start<T, 1>(a, stream) : start<T, 8>(a, stream);
  });
}

}  // namespace adfast::kernels::cuda
