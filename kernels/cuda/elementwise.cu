// Functions of one and two operands, and what follows a product. They run at the speed of memory,
// so the element type is a branch that all threads take alike and not one more copy of the code for
// each combination.
#include "device.h"

namespace adfast::kernels::cuda {

namespace {

constexpr int kPack = 4, kThreads = 256;

// Four neighbours from i on, or the `valid` first of them where the array ends.
template <class T>
__device__ __forceinline__ void get_as(const T* p, int64_t valid, float (&v)[kPack]) {
  if (valid >= kPack) return load<kPack>(p, v);
  for (int j = 0; j < kPack; j++) v[j] = j < valid ? widen(p[j]) : 0.0f;
}
__device__ __forceinline__ void get(const void* p, Type type, int64_t i, int64_t valid,
                                    float (&v)[kPack]) {
  if (type == Type::f32) return get_as(static_cast<const float*>(p) + i, valid, v);
  if (type == Type::f16) return get_as(static_cast<const __half*>(p) + i, valid, v);
  get_as(static_cast<const __nv_bfloat16*>(p) + i, valid, v);
}
__device__ __forceinline__ float get1(const void* p, Type type, int64_t i) {
  if (type == Type::f32) return static_cast<const float*>(p)[i];
  if (type == Type::f16) return widen(static_cast<const __half*>(p)[i]);
  return widen(static_cast<const __nv_bfloat16*>(p)[i]);
}

template <class T>
__device__ __forceinline__ void put_as(T* p, int64_t valid, const float (&v)[kPack]) {
  if (valid >= kPack) return store<kPack>(p, v);
  for (int j = 0; j < kPack; j++) {
    if (j < valid) p[j] = narrow<T>(v[j]);
  }
}
__device__ __forceinline__ void put(void* p, Type type, int64_t i, int64_t valid,
                                    const float (&v)[kPack]) {
  if (type == Type::f32) return put_as(static_cast<float*>(p) + i, valid, v);
  if (type == Type::f16) return put_as(static_cast<__half*>(p) + i, valid, v);
  put_as(static_cast<__nv_bfloat16*>(p) + i, valid, v);
}

__device__ __forceinline__ float apply(Binary op, float a, float b) {
  switch (op) {
    case Binary::add:
      return a + b;
    case Binary::sub:
      return a - b;
    case Binary::mul:
      return a * b;
    case Binary::div:
      return a / b;
    case Binary::max:
      return max_nan(a, b);
    case Binary::min:
      return min_nan(a, b);
  }
  return a;
}

// Calls f(i) for every fourth i below count that is this thread's.
template <class Function>
__device__ __forceinline__ void each_pack(int64_t count, Function&& f) {
  const int64_t step = int64_t{gridDim.x} * kThreads * kPack;
  for (int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * kPack; i < count; i += step) {
    f(i);
  }
}

__global__ void __launch_bounds__(kThreads) unary_kernel(UnaryArgs a) {
  each_pack(a.count, [&](int64_t i) {
    float v[kPack];
    get(a.x, a.x_type, i, a.count - i, v);
#pragma unroll
    for (int j = 0; j < kPack; j++) v[j] = cuda::apply(a.op, v[j]);
    put(a.out, a.out_type, i, a.count - i, v);
  });
}

__global__ void __launch_bounds__(kThreads) binary_kernel(BinaryArgs a) {
  const float scalar = a.b_count == 1 ? get1(a.b, a.b_type, 0) : 0.0f;
  each_pack(a.count, [&](int64_t i) {
    float v[kPack], w[kPack];
    const int64_t valid = a.count - i;
    get(a.a, a.a_type, i, valid, v);
    if (a.b_count == 1) {
      for (int j = 0; j < kPack; j++) w[j] = scalar;
    } else if (a.b_count == a.count) {
      get(a.b, a.b_type, i, valid, w);
    } else if (a.b_count % kPack == 0) {
      get(a.b, a.b_type, divide(i, a.b_count).remainder, kPack, w);
    } else {
      for (int j = 0; j < kPack; j++) {
        w[j] = get1(a.b, a.b_type, divide(i + j, a.b_count).remainder);
      }
    }
#pragma unroll
    for (int j = 0; j < kPack; j++) v[j] = apply(a.op, v[j], w[j]);
    put(a.out, a.out_type, i, valid, v);
  });
}

__global__ void __launch_bounds__(kThreads) epilogue_kernel(EpilogueArgs a) {
  const int64_t count = a.rows * a.width;
  each_pack(count, [&](int64_t i) {
    float v[kPack], w[kPack];
    const int64_t valid = count - i;
    get(a.x, a.x_type, i, valid, v);
    for (int64_t part = 1; part < a.parts; part++) {
      const int64_t at = part * count + i;
      if (count % kPack == 0) {
        get(a.x, a.x_type, at, valid, w);
        for (int j = 0; j < kPack; j++) v[j] += w[j];
      } else {
        for (int j = 0; j < kPack && j < valid; j++) v[j] += get1(a.x, a.x_type, at + j);
      }
    }
    if (a.bias) {
      int64_t column = divide(i, a.width).remainder;
      if (a.width % kPack == 0) {
        load<kPack>(a.bias + column, w);
        for (int j = 0; j < kPack; j++) v[j] += w[j];
      } else {
        for (int j = 0; j < kPack; j++) {
          v[j] += a.bias[column];
          if (++column == a.width) column = 0;
        }
      }
    }
    if (a.residual) {
      get(a.residual, a.residual_type, i, valid, w);
      for (int j = 0; j < kPack; j++) v[j] += w[j];
    }
    if (a.out_type == Type::f32) {
#pragma unroll
      for (int j = 0; j < kPack; j++) v[j] = cuda::apply(a.activation, v[j]);
    } else {
      apply_rough(a.activation, v);
    }
    put(a.out, a.out_type, i, valid, v);
  });
}

__global__ void __launch_bounds__(kThreads) calibrate_map_kernel(CalibrateMapArgs a) {
  each_pack(a.count, [&](int64_t i) {
    float x[kPack], mean[kPack];
    get_as(a.x + i, a.count - i, x);
    get_as(a.mean + i, a.count - i, mean);
#pragma unroll
    for (int j = 0; j < kPack; j++) {
      const float d = x[j] - mean[j];
      x[j] = a.square ? d * d : fabsf(d);
    }
    put_as(a.out + i, a.count - i, x);
  });
}

}  // namespace

cudaError_t unary(const UnaryArgs& a, cudaStream_t stream) {
  return launch(unary_kernel, blocks_for(ceil_div(a.count, kPack), kThreads), kThreads, 0, stream,
                a);
}

cudaError_t binary(const BinaryArgs& a, cudaStream_t stream) {
  return launch(binary_kernel, blocks_for(ceil_div(a.count, kPack), kThreads), kThreads, 0, stream,
                a);
}

cudaError_t epilogue(const EpilogueArgs& a, cudaStream_t stream) {
  return launch(epilogue_kernel, blocks_for(ceil_div(a.rows * a.width, kPack), kThreads), kThreads,
                0, stream, a);
}

cudaError_t calibrate_map(const CalibrateMapArgs& a, cudaStream_t stream) {
  return launch(calibrate_map_kernel, blocks_for(ceil_div(a.count, kPack), kThreads), kThreads, 0,
                stream, a);
}

}  // namespace adfast::kernels::cuda
