// Functions of one and two operands. They run at the speed of memory, so the element type is a
// (well predicted) branch per vector and not one more copy of the code per combination.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

template <class Lanes>
static inline Vec load_as(const void* p, DType dtype, int64_t i, Lanes lanes) {
  if (dtype == DType::f32) return load(static_cast<const float*>(p) + i, lanes);
  return load(static_cast<const Bf16*>(p) + i, lanes);
}

template <class Lanes>
static inline void store_as(void* p, DType dtype, const Levels& levels, int64_t i, Vec v,
                            Lanes lanes) {
  if (dtype == DType::f32) return store(static_cast<float*>(p) + i, v, lanes);
  if (dtype == DType::bf16) return store_fast(static_cast<Bf16*>(p) + i, v, lanes);
  store(static_cast<uint8_t*>(p) + i, fma(v, set1(levels.factor), set1(levels.zero)), lanes);
}

template <class Function>
static inline void map_unary(const UnaryArgs& a, Function&& f) {
  over(a.count, [&](int64_t i, auto lanes) {
    store_as(a.out, a.out_dtype, a.out_levels, i, f(load_as(a.x, a.x_dtype, i, lanes)), lanes);
  });
}

static void unary(const UnaryArgs& a) {
  switch (a.op) {
    case Unary::identity:
      return map_unary(a, [](Vec v) { return v; });
    case Unary::relu:  // a NaN stays, being the second operand
      return map_unary(a, [](Vec v) { return max(set1(0.0f), v); });
    case Unary::sigmoid:
      return map_unary(a, [](Vec v) { return sigmoid(v); });
    case Unary::silu:
      return map_unary(a, [](Vec v) { return silu(v); });
    case Unary::gelu:
      return map_unary(a, [](Vec v) { return gelu(v); });
    case Unary::tanh:
      return map_unary(a, [](Vec v) { return tanh(v); });
    case Unary::sqrt:
      return map_unary(a, [](Vec v) { return sqrt(v); });
    case Unary::exp:
      return map_unary(a, [](Vec v) { return exp(v); });
    case Unary::abs:
      return map_unary(a, [](Vec v) { return abs(v); });
    case Unary::square:
      return map_unary(a, [](Vec v) { return v * v; });
    case Unary::neg:
      return map_unary(a, [](Vec v) { return set1(-0.0f) - v; });
  }
}

template <class Function>
static inline void map_binary(const BinaryArgs& a, Function&& f) {
  if (a.b_count == 1) {
    Vec b = set1(a.b_dtype == DType::f32
                     ? *static_cast<const float*>(a.b)
                     : float_of(uint32_t{static_cast<const Bf16*>(a.b)->bits} << 16));
    over(a.count, [&](int64_t i, auto lanes) {
      Vec v = load_as(a.a, a.a_dtype, i, lanes);
      store_as(a.out, a.out_dtype, a.out_levels, i, f(v, b), lanes);
    });
    return;
  }
  for (int64_t row = 0; row < a.count; row += a.b_count) {
    over(a.b_count, [&](int64_t i, auto lanes) {
      Vec v = load_as(a.a, a.a_dtype, row + i, lanes), w = load_as(a.b, a.b_dtype, i, lanes);
      store_as(a.out, a.out_dtype, a.out_levels, row + i, f(v, w), lanes);
    });
  }
}

static void binary(const BinaryArgs& a) {
  switch (a.op) {
    case Binary::add:
      return map_binary(a, [](Vec v, Vec w) { return v + w; });
    case Binary::sub:
      return map_binary(a, [](Vec v, Vec w) { return v - w; });
    case Binary::mul:
      return map_binary(a, [](Vec v, Vec w) { return v * w; });
    case Binary::div:
      return map_binary(a, [](Vec v, Vec w) { return v / w; });
    case Binary::max:
      return map_binary(a, [](Vec v, Vec w) { return max_nan(v, w); });
    case Binary::min:
      return map_binary(a, [](Vec v, Vec w) { return min_nan(v, w); });
  }
}

}  // namespace adfast::kernels::ADFAST_ISA
