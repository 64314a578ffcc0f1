// Products of pairs in bf16 by AVX512_BF16. Its conversion treats subnormals as zero, as all our
// threads do.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

constexpr bool kFastPairs = true;

static inline Vec add_pair_products(Vec a, Vec b, Vec sum) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}

// low and high, rounded to bf16, in the halves of each lane.
static inline Vec pair(Vec low, Vec high) {
  const __m256i low_words = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(low));
  const __m256i high_words = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(high));
  return _mm512_castsi512_ps(_mm512_or_si512(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(high_words), 16), _mm512_cvtepu16_epi32(low_words)));
}

// 2^x, good enough to be rounded to bf16: the polynomial is the best of degree 3 on [0, 1], its
// error below 2^-13. 0 far below, infinity far above; NaN stays NaN.
static inline Vec exp2_rough(Vec x) {
  const Vec r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  Vec p = set1(0.07802529f);
  p = fma(p, r, set1(0.22606605f));
  p = fma(p, r, set1(0.6958339f));
  p = fma(p, r, set1(0.99992524f));
  return scale_by_power(p, x);  // of which it takes the whole part below
}

// x / (1 + e^-x), to as many digits.
static inline Vec silu_rough(Vec x) {
  return x * _mm512_rcp14_ps(exp2_rough(x * set1(-1.44269504f)) + set1(1.0f));
}

// Stores, rounding to bf16 in the fastest way this set has.
template <class T, class Lanes = All>
static inline void store_fast(T* p, Vec v, Lanes lanes = {}) {
  store(p, v, lanes);
}
static inline void store_fast(Bf16* p, Vec v, All = {}) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)));
}
static inline void store_fast(Bf16* p, Vec v, Some lanes) {
  _mm256_mask_storeu_epi16(p, first_lanes(lanes.n),
                           reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)));
}

}  // namespace adfast::kernels::ADFAST_ISA
