// One float at a time, on any processor: the fallback, and what the vector tables are compared
// with.
#pragma once
#include <stdint.h>
#include <string.h>

#include "layout.h"

namespace adfast::kernels::ADFAST_ISA {

struct Bf16 {
  uint16_t bits;
};

using Vec = float;
constexpr int64_t kLanes = 1;
constexpr int kColumns = 1;  // vectors of channels that one pass over eight rows keeps in registers
constexpr int kDotPixels = 1;

struct All {};  // every lane of a vector
struct Some {   // the first n lanes, 0 < n < kLanes; the others load as zero and are not stored
  int64_t n;
};

static inline uint32_t bits_of(float v) {
  uint32_t bits;
  memcpy(&bits, &v, 4);
  return bits;
}
static inline float float_of(uint32_t bits) {
  float v;
  memcpy(&v, &bits, 4);
  return v;
}

static inline Vec set1(float v) { return v; }
// The two bf16 of a lane, each as a float.
static inline Vec low_half(Vec v) { return float_of(bits_of(v) << 16); }
static inline Vec high_half(Vec v) { return float_of(bits_of(v) & 0xffff0000); }
static inline Vec load(const float* p, All = {}) { return *p; }
static inline Vec load(const Bf16* p, All = {}) { return float_of(uint32_t{p->bits} << 16); }
static inline Vec load(const uint8_t* p, All = {}) { return *p; }
static inline Vec load(const uint16_t* p, All = {}) { return *p; }
static inline void store(float* p, Vec v, All = {}) { *p = v; }
static inline void store(Bf16* p, Vec v, All = {}) {
  uint32_t bits = bits_of(v);
  uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  p->bits = static_cast<uint16_t>(v != v ? (bits >> 16) | 0x40 : rounded);
}
// Rounded to the nearest integer, ties to even, and clipped; a NaN becomes 0.
static inline void store(uint8_t* p, Vec v, All = {}) {
  v = v > 0.0f ? v : 0.0f;
  v = v < 255.0f ? v : 255.0f;
  *p = static_cast<uint8_t>(bits_of(v + 12582912.0f));
}
// A vector holds one lane, so there is never a tail.
template <class T>
static inline Vec load(const T* p, Some) {
  return load(p);
}
template <class T>
static inline void store(T* p, Vec v, Some) {
  store(p, v);
}

// No fused instruction in the baseline, and the library's fmaf is slow there: two roundings.
static inline Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
// Like the vector instructions: b if either is NaN.
static inline Vec max(Vec a, Vec b) { return a > b ? a : b; }
static inline Vec min(Vec a, Vec b) { return a < b ? a : b; }
static inline Vec reciprocal(Vec v) { return 1.0f / v; }
static inline Vec sqrt(Vec v) { return __builtin_sqrtf(v); }
static inline Vec abs(Vec v) { return float_of(bits_of(v) & 0x7fffffff); }
static inline Vec select_less(Vec a, Vec b, Vec yes, Vec no) { return a < b ? yes : no; }
static inline Vec select_nan(Vec a, Vec yes, Vec no) { return a != a ? yes : no; }
static inline Vec copy_sign(Vec magnitude, Vec sign) {
  return float_of((bits_of(magnitude) & 0x7fffffff) | (bits_of(sign) & 0x80000000));
}
// p * 2^n for integral |n| <= 254, in two factors since 2^n alone may be out of range.
static inline Vec scale_by_power(Vec p, Vec n) {
  // Adding 1.5 * 2^23 leaves the integer in the low bits of the sum.
  uint32_t whole = bits_of(n + 12582912.0f) - 0x4b400000;
  uint32_t half = static_cast<uint32_t>(static_cast<int32_t>(whole) >> 1);
  return p * float_of((half + 127) << 23) * float_of((whole - half + 127) << 23);
}
static inline Vec scale_normal(Vec p, Vec n) { return scale_by_power(p, n); }
static inline Vec round_to_integer(Vec v) { return (v + 12582912.0f) - 12582912.0f; }

static inline float sum(Vec v) { return v; }
static inline float largest(Vec v) { return v; }
// table[index[i]] for indices below kLanes.
static inline Vec lookup(const float* table, const int32_t* index) { return table[*index]; }

// Eight floats handled as one, whatever the vector's width.
struct Eight {
  float v[8];
};
static inline Eight load8(const float* p) {
  Eight e;
  memcpy(e.v, p, sizeof e.v);
  return e;
}
static inline void store8(float* p, Eight e) { memcpy(p, e.v, sizeof e.v); }
static inline Eight set8(float v) { return {{v, v, v, v, v, v, v, v}}; }
static inline Eight fma8(Eight a, Eight b, Eight c) {
  for (int i = 0; i < 8; i++) c.v[i] += a.v[i] * b.v[i];
  return c;
}
static inline Eight max8(Eight a, Eight b) {
  for (int i = 0; i < 8; i++) b.v[i] = max(a.v[i], b.v[i]);
  return b;
}
static inline float largest8(Eight e) {
  float m = e.v[0];
  for (int i = 1; i < 8; i++) m = max(m, e.v[i]);
  return m;
}
static inline float sum8(Eight e) {
  return ((e.v[0] + e.v[4]) + (e.v[2] + e.v[6])) + ((e.v[1] + e.v[5]) + (e.v[3] + e.v[7]));
}
// The sums of eight vectors.
static inline Eight sums_of8(const Vec* v) { return load8(v); }

// Four floats: the channels of a pixel and a spare, or one pixel of four rows.
struct Four {
  float v[4];
};
static inline Four load4(const float* p) {
  Four f;
  memcpy(f.v, p, sizeof f.v);
  return f;
}
struct Order4 {
  int32_t lane[4];
};
static inline Four permute4(Four f, const Order4& o) {
  return {{f.v[o.lane[0]], f.v[o.lane[1]], f.v[o.lane[2]], f.v[o.lane[3]]}};
}
static inline void store4(float* p, Four f) { memcpy(p, f.v, sizeof f.v); }
static inline Four fma4(float a, Four b, Four c) {
  for (int i = 0; i < 4; i++) c.v[i] += a * b.v[i];
  return c;
}
static inline Four fma4(Four a, Four b, Four c) {
  for (int i = 0; i < 4; i++) c.v[i] += a.v[i] * b.v[i];
  return c;
}
// out[4 * i + j] = v[j][i]: four rows' vectors, interleaved.
static inline void store_interleaved4(float* out, const Vec* v) {
  memcpy(out, v, 4 * sizeof(float));
}

}  // namespace adfast::kernels::ADFAST_ISA
