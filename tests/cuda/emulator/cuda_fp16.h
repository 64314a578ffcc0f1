// Half precision: storage and conversions only.
#pragma once
#include <stdint.h>
#include <string.h>

struct alignas(2) __half {
  uint16_t bits;
};

static inline float __half2float(__half h) {
  const uint32_t sign = static_cast<uint32_t>(h.bits & 0x8000u) << 16;
  const uint32_t exponent = (h.bits >> 10) & 31u, mantissa = h.bits & 0x3ffu;
  float value;
  if (exponent == 31) {
    const uint32_t bits = sign | 0x7f800000u | (mantissa << 13);
    memcpy(&value, &bits, 4);
  } else if (exponent == 0) {
    value = static_cast<float>(mantissa) * 5.9604644775390625e-8f;  // 2^-24
    if (sign) value = -value;
  } else {
    const uint32_t bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
    memcpy(&value, &bits, 4);
  }
  return value;
}

// To nearest, ties to even; beyond the largest half lies infinity.
static inline __half __float2half_rn(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  bits &= 0x7fffffffu;
  if (bits > 0x7f800000u) return {0x7fff};
  if (bits >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // 65520 and more
  if (bits < 0x38800000u) {
    // A multiple of 2^-24: adding 0.5 leaves it, rounded, in the low bits of the sum.
    float magnitude;
    memcpy(&magnitude, &bits, 4);
    magnitude += 0.5f;
    memcpy(&bits, &magnitude, 4);
    return {static_cast<uint16_t>(sign | (bits - 0x3f000000u))};
  }
  const uint32_t rounded = bits + 0xfffu + ((bits >> 13) & 1u);
  return {static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
}
