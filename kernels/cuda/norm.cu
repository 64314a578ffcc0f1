// Layer normalisation and softmax over the last axis.
//
// Rows of up to 1024 elements are held in the registers of one warp, so that memory is read once;
// longer ones are a block's, read again from the cache. The mean and the variance are taken in two
// passes, not as E[x^2] - E[x]^2: that form cancels when |mean| >> std.
#include "device.h"

namespace adfast::kernels::cuda {

namespace {

constexpr int kWideThreads = 256;

// Element j of load i of this lane is (i * 32 + lane) * kPack + j.
template <int kPack, int kLoads>
__device__ __forceinline__ void get_row(const float* x, int64_t width, float empty,
                                        float (&v)[kLoads][kPack]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < kLoads; i++) {
    const int64_t at = (i * 32 + lane) * kPack;
    if (at < width) {
      load<kPack>(x + at, v[i]);
    } else {
      for (int j = 0; j < kPack; j++) v[i][j] = empty;
    }
  }
}

template <class T, int kPack>
__device__ __forceinline__ void put_normalised(const LayerNormArgs& a, int64_t row, int64_t at,
                                               float mean, float factor, float (&v)[kPack]) {
  float gamma[kPack], beta[kPack];
  load<kPack>(a.gamma + at, gamma);
  load<kPack>(a.beta + at, beta);
#pragma unroll
  for (int j = 0; j < kPack; j++) v[j] = (v[j] - mean) * factor * gamma[j] + beta[j];
  if (a.residual) {
    load<kPack>(a.residual + row * a.width + at, gamma);
#pragma unroll
    for (int j = 0; j < kPack; j++) v[j] += gamma[j];
  }
  store<kPack>(static_cast<T*>(a.out) + row * a.width + at, v);
}

template <class T, int kPack, int kLoads>
__global__ void layer_norm_kernel(LayerNormArgs a) {
  const int64_t row = int64_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32;
  if (row >= a.rows) return;  // the whole warp
  const int lane = threadIdx.x % 32;
  float v[kLoads][kPack];
  get_row(a.x + row * a.width, a.width, 0.0f, v);
  float total = 0;
#pragma unroll
  for (int i = 0; i < kLoads; i++) {
    for (int j = 0; j < kPack; j++) total += v[i][j];
  }
  const float mean = lanes_sum(total) / static_cast<float>(a.width);
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kLoads; i++) {
    if ((i * 32 + lane) * kPack >= a.width) continue;
    for (int j = 0; j < kPack; j++) squares += (v[i][j] - mean) * (v[i][j] - mean);
  }
  const float variance = lanes_sum(squares) / static_cast<float>(a.width);
  const float factor = 1.0f / sqrtf(variance + a.eps);
#pragma unroll
  for (int i = 0; i < kLoads; i++) {
    const int64_t at = (i * 32 + lane) * kPack;
    if (at < a.width) put_normalised<T>(a, row, at, mean, factor, v[i]);
  }
}

template <class T, int kPack>
__global__ void __launch_bounds__(kWideThreads) layer_norm_wide_kernel(LayerNormArgs a) {
  float* shared = reinterpret_cast<float*>(adfast_shared);
  const int64_t row = blockIdx.x, first = threadIdx.x * kPack, step = kWideThreads * kPack;
  const float* x = a.x + row * a.width;
  const auto add = [](float p, float q) { return p + q; };
  float v[kPack], total = 0, squares = 0;
  for (int64_t at = first; at < a.width; at += step) {
    load<kPack>(x + at, v);
    for (int j = 0; j < kPack; j++) total += v[j];
  }
  const float mean = block_combine(total, shared, add) / static_cast<float>(a.width);
  for (int64_t at = first; at < a.width; at += step) {
    load<kPack>(x + at, v);
    for (int j = 0; j < kPack; j++) squares += (v[j] - mean) * (v[j] - mean);
  }
  const float variance = block_combine(squares, shared, add) / static_cast<float>(a.width);
  const float factor = 1.0f / sqrtf(variance + a.eps);
  for (int64_t at = first; at < a.width; at += step) {
    load<kPack>(x + at, v);
    put_normalised<T>(a, row, at, mean, factor, v);
  }
}

template <int kPack, int kLoads>
__global__ void softmax_kernel(SoftmaxArgs a) {
  const int64_t row = int64_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32;
  if (row >= a.rows) return;
  const int lane = threadIdx.x % 32;
  float v[kLoads][kPack];
  get_row(a.x + row * a.width, a.width, -infinity(), v);
  // The maximum passes over a NaN; the NaN's own exponential, and so the sum, does not.
  float most = -infinity(), total = 0;
#pragma unroll
  for (int i = 0; i < kLoads; i++) {
    for (int j = 0; j < kPack; j++) most = fmaxf(most, v[i][j]);
  }
  most = lanes_max(most);
#pragma unroll
  for (int i = 0; i < kLoads; i++) {
    if ((i * 32 + lane) * kPack >= a.width) continue;
    for (int j = 0; j < kPack; j++) total += v[i][j] = expf(v[i][j] - most);
  }
  const float factor = 1.0f / lanes_sum(total);
#pragma unroll
  for (int i = 0; i < kLoads; i++) {
    const int64_t at = (i * 32 + lane) * kPack;
    if (at >= a.width) continue;
    for (int j = 0; j < kPack; j++) v[i][j] *= factor;
    store<kPack>(a.out + row * a.width + at, v[i]);
  }
}

__global__ void __launch_bounds__(kWideThreads) softmax_wide_kernel(SoftmaxArgs a) {
  float* shared = reinterpret_cast<float*>(adfast_shared);
  const float* x = a.x + int64_t{blockIdx.x} * a.width;
  float* out = a.out + int64_t{blockIdx.x} * a.width;
  float most = -infinity(), total = 0;
  for (int64_t i = threadIdx.x; i < a.width; i += kWideThreads) most = fmaxf(most, x[i]);
  most = block_combine(most, shared, [](float p, float q) { return fmaxf(p, q); });
  for (int64_t i = threadIdx.x; i < a.width; i += kWideThreads) total += out[i] = expf(x[i] - most);
  const float factor = 1.0f / block_combine(total, shared, [](float p, float q) { return p + q; });
  for (int64_t i = threadIdx.x; i < a.width; i += kWideThreads) out[i] *= factor;
}

// Few rows are spread over many small blocks.
unsigned rows_per_block(int64_t rows) {
  return rows >= 8 * kMultiprocessors ? 4 : rows >= 4 * kMultiprocessors ? 2 : 1;
}

// Calls run(pack, loads) with the constants that hold a row of `width` in a warp's registers.
template <int N>
struct Constant {
  static constexpr int value = N;
};
template <class Run>
cudaError_t with_row(int64_t width, bool vector, Run&& run) {
  if (vector) {
    if (width <= 128) return run(Constant<4>{}, Constant<1>{});
    if (width <= 256) return run(Constant<4>{}, Constant<2>{});
    if (width <= 512) return run(Constant<4>{}, Constant<4>{});
    return run(Constant<4>{}, Constant<8>{});
  }
  if (width <= 256) return run(Constant<1>{}, Constant<8>{});
  return run(Constant<1>{}, Constant<32>{});
}

constexpr int64_t kWarpRow = 1024;

}  // namespace

cudaError_t layer_norm(const LayerNormArgs& a, cudaStream_t stream) {
  const bool vector = a.width % 4 == 0 && aligned(a.x) && aligned(a.gamma) && aligned(a.beta) &&
                      aligned(a.residual) && aligned(a.out);
  return with_type(a.out_type, [&](auto type) {
    using T = typename decltype(type)::type;
    if (a.width > kWarpRow) {
      return launch(vector ? layer_norm_wide_kernel<T, 4> : layer_norm_wide_kernel<T, 1>,
                    blocks_for(a.rows, 1), kWideThreads, kWideThreads / 32 * sizeof(float), stream,
                    a);
    }
    const unsigned warps = rows_per_block(a.rows);
    return with_row(a.width, vector, [&](auto pack, auto loads) {
      constexpr int kPack = decltype(pack)::value, kLoads = decltype(loads)::value;
      return launch(layer_norm_kernel<T, kPack, kLoads>, blocks_for(a.rows, warps), warps * 32, 0,
                    stream, a);
    });
  });
}

cudaError_t softmax(const SoftmaxArgs& a, cudaStream_t stream) {
  if (a.width > kWarpRow) {
    return launch(softmax_wide_kernel, blocks_for(a.rows, 1), kWideThreads,
                  kWideThreads / 32 * sizeof(float), stream, a);
  }
  const bool vector = a.width % 4 == 0 && aligned(a.x) && aligned(a.out);
  const unsigned warps = rows_per_block(a.rows);
  return with_row(a.width, vector, [&](auto pack, auto loads) {
    constexpr int kPack = decltype(pack)::value, kLoads = decltype(loads)::value;
    return launch(softmax_kernel<kPack, kLoads>, blocks_for(a.rows, warps), warps * 32, 0, stream,
                  a);
  });
}

}  // namespace adfast::kernels::cuda
