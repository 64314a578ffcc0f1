// Eight and four floats in AVX registers, shared by the AVX2 and AVX-512 tables.
#pragma once
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#include "layout.h"

namespace adfast::kernels::ADFAST_ISA {

struct Bf16 {
  uint16_t bits;
};

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

using Eight = __m256;
static inline Eight load8(const float* p) { return _mm256_loadu_ps(p); }
static inline void store8(float* p, Eight e) { _mm256_storeu_ps(p, e); }
static inline Eight set8(float v) { return _mm256_set1_ps(v); }
static inline Eight fma8(Eight a, Eight b, Eight c) { return _mm256_fmadd_ps(a, b, c); }
static inline Eight max8(Eight a, Eight b) { return _mm256_max_ps(a, b); }
static inline float largest8(Eight e) {
  __m128 v = _mm_max_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
  v = _mm_max_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)));
}
static inline float sum8(Eight e) {
  __m128 v = _mm_add_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
  v = _mm_add_ps(v, _mm_movehl_ps(v, v));
  return _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)));
}

using Four = __m128;
static inline Four load4(const float* p) { return _mm_loadu_ps(p); }
struct Order4 {
  int32_t lane[4];
};
static inline Four permute4(Four f, const Order4& o) {
  return _mm_permutevar_ps(f, _mm_loadu_si128(reinterpret_cast<const __m128i*>(o.lane)));
}
static inline void store4(float* p, Four f) { _mm_storeu_ps(p, f); }
static inline Four fma4(float a, Four b, Four c) { return _mm_fmadd_ps(_mm_set1_ps(a), b, c); }
static inline Four fma4(Four a, Four b, Four c) { return _mm_fmadd_ps(a, b, c); }

// Eight floats rounded to the nearest bf16, ties to even. A NaN keeps its payload's top bits and
// becomes quiet: rounding up could carry it into infinity or zero.
static inline __m128i to_bf16x8(__m256 v) {
  __m256i bits = _mm256_castps_si256(v);
  __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  __m256i words = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), 0x08);
  return _mm256_castsi256_si128(packed);
}

}  // namespace adfast::kernels::ADFAST_ISA
