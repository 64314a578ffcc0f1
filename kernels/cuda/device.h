// What the kernels share: element types, vectors of them, functions of one operand, sums of a warp.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <math.h>
#include <string.h>

#include "kernels.h"
#include "launch.h"

namespace adfast::kernels::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kMultiprocessors = 132;  // of an H100: what a launch should keep busy

static constexpr int64_t ceil_div(int64_t n, int64_t by) { return (n + by - 1) / by; }
static constexpr int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static constexpr int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static inline bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

// Blocks of `threads` threads for `count` items, which the kernel strides over.
static inline dim3 blocks_for(int64_t count, int64_t threads) {
  return dim3(static_cast<unsigned>(smaller(ceil_div(count, threads), int64_t{1} << 30)));
}

__device__ __forceinline__ float infinity() { return __builtin_inff(); }

__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ float widen(__half v) { return __half2float(v); }
__device__ __forceinline__ float widen(__nv_bfloat16 v) { return __bfloat162float(v); }

template <class T>
__device__ __forceinline__ T narrow(float v);
template <>
__device__ __forceinline__ float narrow<float>(float v) {
  return v;
}
template <>
__device__ __forceinline__ __half narrow<__half>(float v) {
  return __float2half_rn(v);
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float v) {
  return __float2bfloat16_rn(v);
}

// What moves so many bytes at once.
template <int kBytes>
struct WordOf;
template <>
struct WordOf<2> {
  using type = uint16_t;
};
template <>
struct WordOf<4> {
  using type = uint32_t;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<16> {
  using type = uint4;
};

// N neighbours at once, from or to an address aligned to their size.
template <int N, class T>
__device__ __forceinline__ void load(const T* p, float (&v)[N]) {
  using Word = typename WordOf<N * sizeof(T)>::type;
  const Word word = *reinterpret_cast<const Word*>(p);
  T element[N];
  memcpy(element, &word, sizeof word);
#pragma unroll
  for (int i = 0; i < N; i++) v[i] = widen(element[i]);
}
template <int N, class T>
__device__ __forceinline__ void store(T* p, const float (&v)[N]) {
  using Word = typename WordOf<N * sizeof(T)>::type;
  T element[N];
#pragma unroll
  for (int i = 0; i < N; i++) element[i] = narrow<T>(v[i]);
  Word word;
  memcpy(&word, element, sizeof word);
  *reinterpret_cast<Word*>(p) = word;
}

__device__ __forceinline__ float max_nan(float a, float b) {
  return a != a ? a : (b > a || b != b) ? b : a;
}
__device__ __forceinline__ float min_nan(float a, float b) {
  return a != a ? a : (b < a || b != b) ? b : a;
}

// A NaN stays one through all of them.
__device__ __forceinline__ float apply(Unary op, float v) {
  switch (op) {
    case Unary::identity:
      return v;
    case Unary::relu:
      return 0.0f > v ? 0.0f : v;
    case Unary::sigmoid:
      return 1.0f / (1.0f + expf(-v));
    case Unary::silu:  // -infinity times 0 would be NaN; below -104 the sigmoid is 0 anyway
      return (-110.0f > v ? -110.0f : v) / (1.0f + expf(-v));
    case Unary::gelu: {
      // By the complementary function: 1 + erf(v) cancels in the negative tail. No float below -20
      // has a tail above 0.
      const float bounded = -20.0f > v ? -20.0f : v;
      return bounded * (0.5f * erfcf(-0.707106781f * v));
    }
    case Unary::tanh:
      return tanhf(v);
    case Unary::sqrt:
      return sqrtf(v);
    case Unary::exp:
      return expf(v);
    case Unary::abs:
      return fabsf(v);
    case Unary::square:
      return v * v;
    case Unary::neg:
      return -v;
  }
  return v;
}

// The same, good enough to be rounded to a half precision. The error function is Abramowitz and
// Stegun's 7.1.26, to 1.5e-7.
__device__ __forceinline__ float apply_rough(Unary op, float v) {
  if (op == Unary::sigmoid) return __fdividef(1.0f, 1.0f + __expf(-v));
  // The divisor stays below 2^126, from where on the quick division gives 0, or NaN of infinities.
  if (op == Unary::silu) {
    const float bounded = -80.0f > v ? -80.0f : v;
    return __fdividef(bounded, 1.0f + __expf(-bounded));
  }
  if (op != Unary::gelu) return apply(op, v);
  const float z = fabsf(v) * 0.707106781f;
  const float t = __fdividef(1.0f, fmaf(z, 0.3275911f, 1.0f));
  float p = 0.5f * 1.061405429f;
  p = fmaf(p, t, 0.5f * -1.453152027f);
  p = fmaf(p, t, 0.5f * 1.421413741f);
  p = fmaf(p, t, 0.5f * -0.284496736f);
  p = fmaf(p, t, 0.5f * 0.254829592f);
  const float tail = p * t * __expf(-z * z);
  // -infinity times its tail of 0 would be NaN.
  const float bounded = -20.0f > v ? -20.0f : v;
  return v < 0.0f ? bounded * tail : v * (1.0f - tail);
}

// Of several at once; the choice is made once.
template <int N>
__device__ __forceinline__ void apply_rough(Unary op, float (&v)[N]) {
  if (op == Unary::identity) return;
  if (op == Unary::gelu) {
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = apply_rough(Unary::gelu, v[i]);
  } else {
#pragma unroll
    for (int i = 0; i < N; i++) v[i] = apply_rough(op, v[i]);
  }
}

// Quotient and remainder of non-negative numbers; 64 bits cost several times 32.
struct Division {
  int64_t quotient, remainder;
};
__device__ __forceinline__ Division divide(int64_t n, int64_t by) {
  if (((n | by) >> 32) == 0) {
    const uint32_t quotient = static_cast<uint32_t>(n) / static_cast<uint32_t>(by);
    return {quotient, static_cast<uint32_t>(n) - quotient * static_cast<uint32_t>(by)};
  }
  return {n / by, n % by};
}

// Over groups of kLanes lanes, a power of two; every lane gets the result.
template <int kLanes = 32>
__device__ __forceinline__ float lanes_sum(float v) {
#pragma unroll
  for (int flip = kLanes / 2; flip > 0; flip /= 2) v += __shfl_xor_sync(kAllLanes, v, flip);
  return v;
}
template <int kLanes = 32>
__device__ __forceinline__ float lanes_max(float v) {  // a NaN is passed over
#pragma unroll
  for (int flip = kLanes / 2; flip > 0; flip /= 2)
    v = fmaxf(v, __shfl_xor_sync(kAllLanes, v, flip));
  return v;
}

// Sums of N vectors over the warp, N = 8 or 32: lane l gets the sum of v[l % N]. Each step halves
// the vectors that a lane still holds, N - 1 exchanges and not 5 N.
template <int kHalf, int N>
__device__ __forceinline__ void fold(float (&v)[N]) {
  const bool upper = threadIdx.x & kHalf;
#pragma unroll
  for (int i = 0; i < kHalf; i++) {
    const float sent = upper ? v[i] : v[i + kHalf], kept = upper ? v[i + kHalf] : v[i];
    v[i] = kept + __shfl_xor_sync(kAllLanes, sent, kHalf);
  }
  if constexpr (kHalf > 1) fold<kHalf / 2>(v);
}
template <int N>
__device__ __forceinline__ float warp_sums(float (&v)[N]) {
  fold<N / 2>(v);
  float total = v[0];
#pragma unroll
  for (int flip = N; flip < 32; flip *= 2) total += __shfl_xor_sync(kAllLanes, total, flip);
  return total;
}

// Over a block of whole warps; `shared` holds one float for each warp. Every thread gets the
// result.
template <class Combine>
__device__ __forceinline__ float block_combine(float v, float* shared, Combine&& combine) {
#pragma unroll
  for (int flip = 16; flip > 0; flip /= 2) v = combine(v, __shfl_xor_sync(kAllLanes, v, flip));
  __syncthreads();  // whoever used `shared` before is done
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
  __syncthreads();
  v = shared[0];
  for (unsigned i = 1; i < blockDim.x / 32; i++) v = combine(v, shared[i]);
  return v;
}

// The i-th of three arguments. An index that is not a constant would move the kernel's arguments to
// local memory.
template <class T>
__device__ __forceinline__ T one_of(const T (&v)[3], int i) {
  return i == 0 ? v[0] : i == 1 ? v[1] : v[2];
}

template <class T>
struct Tag {
  using type = T;
};
// Calls run(Tag<T>) with the element type.
template <class Run>
cudaError_t with_type(Type type, Run&& run) {
  switch (type) {
    case Type::f32:
      return run(Tag<float>{});
    case Type::f16:
      return run(Tag<__half>{});
    case Type::bf16:
      return run(Tag<__nv_bfloat16>{});
    case Type::u8:
      break;
  }
  return cudaErrorInvalidValue;
}

}  // namespace adfast::kernels::cuda
