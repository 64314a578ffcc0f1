// Sixteen floats at a time: AVX-512 F, BW, DQ and VL. bf16 is rounded with integers, as in the
// other tables: the conversion instruction of AVX512_BF16 flushes subnormals and is not everywhere.
#pragma once
#include "simd_256.h"

namespace adfast::kernels::ADFAST_ISA {

using Vec = __m512;
constexpr int64_t kLanes = 16;
constexpr int kColumns = 2;  // vectors of channels that one pass over eight rows keeps in registers
constexpr int kDotPixels = 2;

static inline __mmask16 first_lanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }

static inline Vec set1(float v) { return _mm512_set1_ps(v); }
// The two bf16 of a lane, each as a float.
static inline Vec low_half(Vec v) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(v), 16));
}
static inline Vec high_half(Vec v) { return _mm512_and_ps(v, set1(float_of(0xffff0000))); }
static inline Vec load(const float* p, All = {}) { return _mm512_loadu_ps(p); }
static inline Vec load(const float* p, Some lanes) {
  return _mm512_maskz_loadu_ps(first_lanes(lanes.n), p);
}
static inline Vec from_bf16(__m256i words) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16));
}
static inline Vec load(const Bf16* p, All = {}) {
  return from_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
static inline Vec load(const Bf16* p, Some lanes) {
  return from_bf16(_mm256_maskz_loadu_epi16(first_lanes(lanes.n), p));
}
static inline Vec load(const uint8_t* p, All = {}) {
  __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
}
static inline Vec load(const uint8_t* p, Some lanes) {
  __m128i bytes = _mm_maskz_loadu_epi8(first_lanes(lanes.n), p);
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
}
static inline Vec load(const uint16_t* p, All = {}) {
  __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(words));
}
static inline Vec load(const uint16_t* p, Some lanes) {
  __m256i words = _mm256_maskz_loadu_epi16(first_lanes(lanes.n), p);
  return _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(words));
}
static inline void store(float* p, Vec v, All = {}) { _mm512_storeu_ps(p, v); }
static inline void store(float* p, Vec v, Some lanes) {
  _mm512_mask_storeu_ps(p, first_lanes(lanes.n), v);
}
// A NaN keeps its payload's top bits and becomes quiet: rounding up could carry it into infinity.
static inline __m256i to_bf16(Vec v) {
  __m512i bits = _mm512_castps_si512(v);
  __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  rounded = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}
static inline void store(Bf16* p, Vec v, All = {}) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bf16(v));
}
static inline void store(Bf16* p, Vec v, Some lanes) {
  _mm256_mask_storeu_epi16(p, first_lanes(lanes.n), to_bf16(v));
}
// Rounded to the nearest integer, ties to even, and clipped; a NaN becomes 0.
static inline __m128i to_u8(Vec v) {
  Vec positive = _mm512_max_ps(v, _mm512_setzero_ps());
  return _mm512_cvtusepi32_epi8(_mm512_cvtps_epi32(_mm512_min_ps(positive, set1(255.0f))));
}
static inline void store(uint8_t* p, Vec v, All = {}) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), to_u8(v));
}
static inline void store(uint8_t* p, Vec v, Some lanes) {
  _mm_mask_storeu_epi8(p, first_lanes(lanes.n), to_u8(v));
}

static inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
// b if either is NaN.
static inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
static inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
// Of finite v, to about one unit in the last place: an estimate of 14 bits and a step of Newton's,
// a quarter of the time of a division.
static inline Vec reciprocal(Vec v) {
  const Vec estimate = _mm512_rcp14_ps(v);
  return fma(estimate, fma(set1(0.0f) - v, estimate, set1(1.0f)), estimate);
}
static inline Vec sqrt(Vec v) { return _mm512_sqrt_ps(v); }
static inline Vec abs(Vec v) { return _mm512_abs_ps(v); }
static inline Vec select_less(Vec a, Vec b, Vec yes, Vec no) {
  return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), yes);
}
static inline Vec select_nan(Vec a, Vec yes, Vec no) {
  return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), yes);
}
static inline Vec copy_sign(Vec magnitude, Vec sign) {
  return _mm512_or_ps(abs(magnitude), _mm512_and_ps(set1(-0.0f), sign));
}
static inline Vec round_to_integer(Vec v) {
  return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// p * 2^n for integral n.
static inline Vec scale_by_power(Vec p, Vec n) { return _mm512_scalef_ps(p, n); }
static inline Vec scale_normal(Vec p, Vec n) { return scale_by_power(p, n); }

static inline float sum(Vec v) {
  return sum8(_mm512_castps512_ps256(v) + _mm512_extractf32x8_ps(v, 1));
}
static inline float largest(Vec v) {
  return largest8(_mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1)));
}
// table[index[i]] for indices below kLanes.
static inline Vec lookup(const float* table, const int32_t* index) {
  return _mm512_permutexvar_ps(_mm512_loadu_si512(index), load(table));
}

// Adds neighbours while interleaving: 25 shuffles and sums for eight vectors instead of 64.
static inline Vec halves_added(Vec a, Vec b) {
  return _mm512_unpacklo_ps(a, b) + _mm512_unpackhi_ps(a, b);
}
static inline Vec quarters_added(Vec a, Vec b) {
  return _mm512_shuffle_ps(a, b, 0x44) + _mm512_shuffle_ps(a, b, 0xee);
}
// The sums of eight vectors.
static inline Eight sums_of8(const Vec* v) {
  Vec low = quarters_added(halves_added(v[0], v[1]), halves_added(v[2], v[3]));
  Vec high = quarters_added(halves_added(v[4], v[5]), halves_added(v[6], v[7]));
  Eight a = _mm512_castps512_ps256(low) + _mm512_extractf32x8_ps(low, 1);
  Eight b = _mm512_castps512_ps256(high) + _mm512_extractf32x8_ps(high, 1);
  return _mm256_permute2f128_ps(a, b, 0x20) + _mm256_permute2f128_ps(a, b, 0x31);
}

// out[4 * i + j] = v[j][i]: four rows' vectors, interleaved.
static inline void store_interleaved4(float* out, const Vec* v) {
  Vec low02 = _mm512_unpacklo_ps(v[0], v[2]), high02 = _mm512_unpackhi_ps(v[0], v[2]);
  Vec low13 = _mm512_unpacklo_ps(v[1], v[3]), high13 = _mm512_unpackhi_ps(v[1], v[3]);
  // 128-bit quarter q of r_j holds pixel 4 * q + j.
  Vec r0 = _mm512_unpacklo_ps(low02, low13), r1 = _mm512_unpackhi_ps(low02, low13);
  Vec r2 = _mm512_unpacklo_ps(high02, high13), r3 = _mm512_unpackhi_ps(high02, high13);
  Vec a = _mm512_shuffle_f32x4(r0, r1, 0x44), b = _mm512_shuffle_f32x4(r2, r3, 0x44);
  Vec c = _mm512_shuffle_f32x4(r0, r1, 0xee), d = _mm512_shuffle_f32x4(r2, r3, 0xee);
  // a = r0q0 r0q1 r1q0 r1q1, b the same of r2 and r3; c and d hold quarters 2 and 3.
  store(out, _mm512_shuffle_f32x4(a, b, 0x88));
  store(out + 16, _mm512_shuffle_f32x4(a, b, 0xdd));
  store(out + 32, _mm512_shuffle_f32x4(c, d, 0x88));
  store(out + 48, _mm512_shuffle_f32x4(c, d, 0xdd));
}

}  // namespace adfast::kernels::ADFAST_ISA
