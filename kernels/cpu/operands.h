// What a product's operands are stored as, for kernels that sum along an axis of which one operand
// is broadcast and the other a row of columns. A word is a float, or two neighbours of that axis in
// bf16: sums are f32 in either case. Needs add_pair_products, which isa_*.cpp brings.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

struct F32Operands {
  using Type = float;
  static Vec add_products(Vec a, Vec b, Vec sum) { return fma(a, b, sum); }
};

struct Bf16Operands {
  using Type = Bf16;
  static Vec add_products(Vec a, Vec b, Vec sum) { return add_pair_products(a, b, sum); }
};

}  // namespace adfast::kernels::ADFAST_ISA
