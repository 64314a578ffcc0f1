// Products of pairs in bf16 for instruction sets that have none: each half of a word widened to a
// float. Slower than f32; it is there so that every set computes the same.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

constexpr bool kFastPairs = false;

// sum + a.low * b.low + a.high * b.high for the two bf16 in each lane of a and of b.
static inline Vec add_pair_products(Vec a, Vec b, Vec sum) {
  return fma(high_half(a), high_half(b), fma(low_half(a), low_half(b), sum));
}

// low and high, rounded to bf16, in the halves of each lane.
static inline Vec pair(Vec low, Vec high) {
  Bf16 lows[kLanes], highs[kLanes];
  float words[kLanes];
  store(lows, low);
  store(highs, high);
  for (int64_t i = 0; i < kLanes; i++) {
    words[i] = float_of(uint32_t{highs[i].bits} << 16 | lows[i].bits);
  }
  return load(words);
}

static inline Vec exp2_negative(Vec x);
// 2^x for x <= 0, good enough to be rounded to bf16.
static inline Vec exp2_rough(Vec x) { return exp2_negative(x); }
static inline Vec silu(Vec x);
// x / (1 + e^-x), likewise.
static inline Vec silu_rough(Vec x) { return silu(x); }

// Stores, rounding to bf16 in the fastest way this set has.
template <class T, class Lanes = All>
static inline void store_fast(T* p, Vec v, Lanes lanes = {}) {
  store(p, v, lanes);
}

}  // namespace adfast::kernels::ADFAST_ISA
