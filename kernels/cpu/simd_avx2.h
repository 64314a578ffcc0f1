// Eight floats at a time: AVX2 and FMA.
#pragma once
#include "simd_256.h"

namespace adfast::kernels::ADFAST_ISA {

using Vec = __m256;
constexpr int64_t kLanes = 8;
constexpr int kColumns = 1;  // vectors of channels that one pass over eight rows keeps in registers
constexpr int kDotPixels = 1;

static inline __m256i first_lanes(int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline Vec set1(float v) { return _mm256_set1_ps(v); }
// The two bf16 of a lane, each as a float.
static inline Vec low_half(Vec v) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(v), 16));
}
static inline Vec high_half(Vec v) { return _mm256_and_ps(v, set1(float_of(0xffff0000))); }
static inline Vec load(const float* p, All = {}) { return _mm256_loadu_ps(p); }
static inline Vec load(const float* p, Some lanes) {
  return _mm256_maskload_ps(p, first_lanes(lanes.n));
}
static inline Vec from_bf16(__m128i words) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(words), 16));
}
static inline Vec load(const Bf16* p, All = {}) {
  return from_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
static inline Vec load(const Bf16* p, Some lanes) {
  alignas(16) Bf16 words[8] = {};
  for (int64_t i = 0; i < lanes.n; i++) words[i] = p[i];
  return load(words);
}
static inline Vec load(const uint8_t* p, All = {}) {
  __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
}
static inline Vec load(const uint8_t* p, Some lanes) {
  uint8_t bytes[8] = {};
  for (int64_t i = 0; i < lanes.n; i++) bytes[i] = p[i];
  return load(bytes);
}
static inline Vec load(const uint16_t* p, All = {}) {
  __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(words));
}
static inline Vec load(const uint16_t* p, Some lanes) {
  uint16_t words[8] = {};
  for (int64_t i = 0; i < lanes.n; i++) words[i] = p[i];
  return load(words);
}
static inline void store(float* p, Vec v, All = {}) { _mm256_storeu_ps(p, v); }
static inline void store(float* p, Vec v, Some lanes) {
  _mm256_maskstore_ps(p, first_lanes(lanes.n), v);
}
static inline void store(Bf16* p, Vec v, All = {}) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_bf16x8(v));
}
static inline void store(Bf16* p, Vec v, Some lanes) {
  alignas(16) Bf16 words[8];
  store(words, v);
  for (int64_t i = 0; i < lanes.n; i++) p[i] = words[i];
}
// Rounded to the nearest integer, ties to even, and clipped; a NaN becomes 0.
static inline void store(uint8_t* p, Vec v, All = {}) {
  Vec clipped = _mm256_min_ps(_mm256_max_ps(v, _mm256_setzero_ps()), set1(255.0f));
  __m256i words = _mm256_cvtps_epi32(clipped);
  words = _mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), 0x08);
  __m128i bytes = _mm256_castsi256_si128(words);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(bytes, bytes));
}
static inline void store(uint8_t* p, Vec v, Some lanes) {
  uint8_t bytes[8];
  store(bytes, v);
  for (int64_t i = 0; i < lanes.n; i++) p[i] = bytes[i];
}

static inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
// b if either is NaN.
static inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
static inline Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
static inline Vec reciprocal(Vec v) { return set1(1.0f) / v; }
static inline Vec sqrt(Vec v) { return _mm256_sqrt_ps(v); }
static inline Vec abs(Vec v) { return _mm256_andnot_ps(set1(-0.0f), v); }
static inline Vec select_less(Vec a, Vec b, Vec yes, Vec no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
static inline Vec select_nan(Vec a, Vec yes, Vec no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
}
static inline Vec copy_sign(Vec magnitude, Vec sign) {
  return _mm256_or_ps(abs(magnitude), _mm256_and_ps(set1(-0.0f), sign));
}
static inline Vec round_to_integer(Vec v) {
  return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// p * 2^n for integral |n| <= 254, in two factors since 2^n alone may be out of range.
static inline Vec scale_by_power(Vec p, Vec n) {
  __m256i whole = _mm256_cvtps_epi32(n);
  __m256i half = _mm256_srai_epi32(whole, 1);
  __m256i rest = _mm256_sub_epi32(whole, half);
  __m256i one = _mm256_set1_epi32(127);
  __m256i a = _mm256_slli_epi32(_mm256_add_epi32(half, one), 23);
  __m256i b = _mm256_slli_epi32(_mm256_add_epi32(rest, one), 23);
  return p * _mm256_castsi256_ps(a) * _mm256_castsi256_ps(b);
}
// The same where p, at least 1/2, and the result are normal numbers, or p is NaN.
static inline Vec scale_normal(Vec p, Vec n) {
  return _mm256_castsi256_ps(
      _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
}

static inline float sum(Vec v) { return sum8(v); }
static inline float largest(Vec v) { return largest8(v); }
// table[index[i]] for indices below kLanes.
static inline Vec lookup(const float* table, const int32_t* index) {
  return _mm256_permutevar8x32_ps(load(table),
                                  _mm256_loadu_si256(reinterpret_cast<const __m256i*>(index)));
}

// Adds neighbours while interleaving: 24 shuffles and sums for eight vectors instead of 48.
static inline Vec halves_added(Vec a, Vec b) {
  return _mm256_unpacklo_ps(a, b) + _mm256_unpackhi_ps(a, b);
}
static inline Vec quarters_added(Vec a, Vec b) {
  return _mm256_shuffle_ps(a, b, 0x44) + _mm256_shuffle_ps(a, b, 0xee);
}
// The sums of eight vectors.
static inline Eight sums_of8(const Vec* v) {
  Vec low = quarters_added(halves_added(v[0], v[1]), halves_added(v[2], v[3]));
  Vec high = quarters_added(halves_added(v[4], v[5]), halves_added(v[6], v[7]));
  return _mm256_permute2f128_ps(low, high, 0x20) + _mm256_permute2f128_ps(low, high, 0x31);
}

// out[4 * i + j] = v[j][i]: four rows' vectors, interleaved.
static inline void store_interleaved4(float* out, const Vec* v) {
  Vec low02 = _mm256_unpacklo_ps(v[0], v[2]), high02 = _mm256_unpackhi_ps(v[0], v[2]);
  Vec low13 = _mm256_unpacklo_ps(v[1], v[3]), high13 = _mm256_unpackhi_ps(v[1], v[3]);
  Vec r0 = _mm256_unpacklo_ps(low02, low13), r1 = _mm256_unpackhi_ps(low02, low13);
  Vec r2 = _mm256_unpacklo_ps(high02, high13), r3 = _mm256_unpackhi_ps(high02, high13);
  store(out, _mm256_permute2f128_ps(r0, r1, 0x20));
  store(out + 8, _mm256_permute2f128_ps(r2, r3, 0x20));
  store(out + 16, _mm256_permute2f128_ps(r0, r1, 0x31));
  store(out + 24, _mm256_permute2f128_ps(r2, r3, 0x31));
}

}  // namespace adfast::kernels::ADFAST_ISA
