// What a product's operands are stored as, for kernels that sum along an axis of which one operand
// is broadcast and the other a row of columns. A word is a float, or two neighbours of that axis in
// bf16: sums are f32 in either case. Needs add_pair_products and exp2_rough, which isa_*.cpp
// brings.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

struct F32Operands {
  using Type = float;
  static constexpr bool pairs = false;
  static Vec add_products(Vec a, Vec b, Vec sum) { return fma(a, b, sum); }
  static Vec exp2(Vec x) { return exp2_negative(x); }
};

struct Bf16Operands {
  using Type = Bf16;
  static constexpr bool pairs = true;
  static Vec add_products(Vec a, Vec b, Vec sum) { return add_pair_products(a, b, sum); }
  static Vec exp2(Vec x) { return exp2_rough(x); }
};

// Operands from n floats (or bf16), times a factor; vectors are stored whole, zeros past the n-th.
template <class T, class Operand>
static inline void store_operands(const T* from, int64_t n, float factor, Operand* to) {
  const Vec by = set1(factor);
  over(n, [&](int64_t i, auto lanes) { store_fast(to + i, load(from + i, lanes) * by); });
  if (kLanes == 1 && sizeof(Operand) == 2 && n % 2 != 0) store_fast(to + n, set1(0.0f));
}

}  // namespace adfast::kernels::ADFAST_ISA
