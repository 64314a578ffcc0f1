// Elements of f32, f16 and bf16 as floats, for the libraries that are stood in for.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace emulated {

enum class Type { f32, f16, bf16 };

inline float get(const void* data, int64_t i, Type type) {
  if (type == Type::f16) return __half2float(static_cast<const __half*>(data)[i]);
  if (type == Type::bf16) return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[i]);
  return static_cast<const float*>(data)[i];
}

inline void put(void* data, int64_t i, Type type, float value) {
  if (type == Type::f16) {
    static_cast<__half*>(data)[i] = __float2half_rn(value);
  } else if (type == Type::bf16) {
    static_cast<__nv_bfloat16*>(data)[i] = __float2bfloat16_rn(value);
  } else {
    static_cast<float*>(data)[i] = value;
  }
}

}  // namespace emulated
