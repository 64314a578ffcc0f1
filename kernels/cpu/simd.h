// What every kernel builds on, written once over the vectors of simd_scalar.h, simd_avx2.h or
// simd_avx512.h. All of it lives in the instruction set's own namespace: no symbol of one set can
// stand in for another's.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

// Calls body(i, lanes) for every vector of a row of n elements; the last may be partial.
template <class Body>
static inline __attribute__((always_inline)) void over(int64_t n, Body&& body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, All{});
  if (i < n) body(i, Some{n - i});
}

static inline void fill(float* out, int64_t n, float value) {
  over(n, [&](int64_t i, auto lanes) { store(out + i, set1(value), lanes); });
}

// NaN if either is NaN.
static inline Vec max_nan(Vec a, Vec b) { return select_nan(a, a, max(a, b)); }
static inline Vec min_nan(Vec a, Vec b) { return select_nan(a, a, min(a, b)); }

static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static inline float widened(float v) { return v; }
static inline float widened(Bf16 v) { return float_of(uint32_t{v.bits} << 16); }
static inline float infinity() { return __builtin_inff(); }

// Which rows or columns of a window lie inside the input.
struct Inside {
  int begin, end;
  Inside(int64_t first, int64_t side, int64_t length)
      : begin(static_cast<int>(first < 0 ? smaller(-first, side) : 0)),
        end(static_cast<int>(smaller(side, larger(length - first, 0)))) {}
};

// e^x to about one unit in the last place: x = n ln 2 + r, |r| <= ln(2) / 2, e^r by the polynomial
// of S. Moshier's Cephes (expf). 0 below -104, infinity above 89; NaN stays NaN, being the second
// operand.
static inline Vec exp(Vec x) {
  x = min(set1(89.0f), max(set1(-104.0f), x));
  Vec n = round_to_integer(x * set1(1.44269504f));
  Vec r = fma(n, set1(-0.693359375f), x);  // ln 2 in two parts: the first product is exact
  r = fma(n, set1(2.12194440e-4f), r);
  Vec p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = fma(p, r * r, r) + set1(1.0f);
  return scale_by_power(p, n);
}

// 2^x to about one unit in the last place, for |x| <= 0.5: the best polynomial of degree 5.
static inline Vec exp2_fraction(Vec x) {
  Vec p = set1(0.00132764707f);
  p = fma(p, x, set1(0.00967554132f));
  p = fma(p, x, set1(0.0555071328f));
  p = fma(p, x, set1(0.240221197f));
  p = fma(p, x, set1(0.693146967f));
  return fma(p, x, set1(1.00000007f));
}

// 2^x likewise, for x <= 0; below -126 it stays at 2^-126. NaN stays NaN, being the second operand.
static inline Vec exp2_negative(Vec x) {
  x = max(set1(-126.0f), x);
  const Vec n = round_to_integer(x);
  return scale_normal(exp2_fraction(x - n), n);
}

// The same for one float.
static inline float exp1(float x) {
  float lanes[kLanes];
  store(lanes, exp(set1(x)));
  return lanes[0];
}

// x / (1 + e^-x), to about one unit in the last place, and to a few in the tail below -4; below
// -87 it stays at -1e-36.
static inline Vec silu(Vec x) {
  x = max(set1(-87.0f), x);
  const Vec y = min(set1(87.0f), x), n = round_to_integer(y * set1(1.44269504f));
  const Vec p = exp2_fraction(fma(y, set1(-1.44269504f), n));
  return x * reciprocal(scale_normal(p, set1(0.0f) - n) + set1(1.0f));
}

static inline Vec sigmoid(Vec x) { return set1(1.0f) / (set1(1.0f) + exp(set1(0.0f) - x)); }

// From the exponential, except near zero, where that cancels: there the polynomial of Cephes
// (tanhf).
static inline Vec tanh(Vec x) {
  Vec a = abs(x);
  Vec far = set1(1.0f) - set1(2.0f) / (exp(a + a) + set1(1.0f));
  Vec z = x * x;
  Vec p = set1(-5.70498872745e-3f);
  p = fma(p, z, set1(2.06390887954e-2f));
  p = fma(p, z, set1(-5.37397155531e-2f));
  p = fma(p, z, set1(1.33314422036e-1f));
  p = fma(p, z, set1(-3.33332819422e-1f));
  Vec near = fma(p * z, a, a);
  return copy_sign(select_less(a, set1(0.625f), near, far), x);
}

// x times the normal distribution function, from the complementary error function of Numerical
// Recipes (erfcc): its relative error stays below 1.2e-7, so the small negative tail keeps its
// digits.
static inline Vec gelu(Vec x) {
  Vec z = abs(x) * set1(0.707106781f);
  Vec t = set1(1.0f) / fma(z, set1(0.5f), set1(1.0f));
  Vec p = set1(0.17087277f);
  p = fma(p, t, set1(-0.82215223f));
  p = fma(p, t, set1(1.48851587f));
  p = fma(p, t, set1(-1.13520398f));
  p = fma(p, t, set1(0.27886807f));
  p = fma(p, t, set1(-0.18628806f));
  p = fma(p, t, set1(0.09678418f));
  p = fma(p, t, set1(0.37409196f));
  p = fma(p, t, set1(1.00002368f));
  p = fma(p, t, set1(-1.26551223f));
  Vec tail = set1(0.5f) * t * exp(p - z * z);
  // -infinity times its tail of 0 would be NaN; no float below -20 has a tail above 0 either.
  Vec bounded = max(set1(-20.0f), x);
  return select_less(x, set1(0.0f), bounded * tail, x * (set1(1.0f) - tail));
}

}  // namespace adfast::kernels::ADFAST_ISA
