// What linears apply to their sums on the way to y.
#pragma once
#include "elementwise.h"

namespace adfast::kernels::ADFAST_ISA {

// The same as gelu of simd.h, good enough to be rounded to bf16. The error function is Abramowitz
// and Stegun's 7.1.26, to 1.5e-7.
static inline Vec gelu_rough(Vec x) {
  const Vec z = abs(x) * set1(0.707106781f);
  const Vec t = reciprocal(fma(z, set1(0.3275911f), set1(1.0f)));
  Vec p = set1(0.5f * 1.061405429f);
  p = fma(p, t, set1(0.5f * -1.453152027f));
  p = fma(p, t, set1(0.5f * 1.421413741f));
  p = fma(p, t, set1(0.5f * -0.284496736f));
  p = fma(p, t, set1(0.5f * 0.254829592f));
  const Vec tail = p * t * exp2_rough(z * z * set1(-1.44269504f));
  // -infinity times its tail of 0 would be NaN.
  const Vec bounded = max(set1(-20.0f), x);
  return select_less(x, set1(0.0f), bounded * tail, x * (set1(1.0f) - tail));
}

struct Identity {
  static Vec of(Vec v, bool) { return v; }
};
struct Relu {
  static Vec of(Vec v, bool) { return max(set1(0.0f), v); }
};
struct Sigmoid {
  static Vec of(Vec v, bool) { return sigmoid(v); }
};
struct Silu {
  static Vec of(Vec v, bool rough) { return rough ? silu_rough(v) : silu(v); }
};
struct Gelu {
  static Vec of(Vec v, bool rough) { return rough ? gelu_rough(v) : gelu(v); }
};
struct Tanh {
  static Vec of(Vec v, bool) { return tanh(v); }
};

// Calls body with the one of the above that is meant.
template <class Body>
static inline void with_activation(Unary activation, Body&& body) {
  switch (activation) {
    case Unary::relu:
      return body(Relu{});
    case Unary::sigmoid:
      return body(Sigmoid{});
    case Unary::silu:
      return body(Silu{});
    case Unary::gelu:
      return body(Gelu{});
    case Unary::tanh:
      return body(Tanh{});
    default:
      return body(Identity{});
  }
}

// y[at...] from sums with their bias.
template <class Activation, class Lanes>
static inline void store_linear(const LinearArgs& a, int64_t at, Vec v, Lanes lanes) {
  if (a.residual) v = v + load_as(a.residual, a.residual_dtype, at, lanes);
  const bool rough = a.y_dtype != DType::f32;
  store_as(a.y, a.y_dtype, a.y_levels, at, Activation::of(v, rough), lanes);
}

}  // namespace adfast::kernels::ADFAST_ISA
