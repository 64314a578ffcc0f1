// Products of pairs in bf16 by AVX512_BF16. Its conversion treats subnormals as zero, as all our
// threads do.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

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

static inline void store_operand(float* p, Vec v) { store(p, v); }
static inline void store_operand(Bf16* p, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)));
}

}  // namespace adfast::kernels::ADFAST_ISA
