// Linears by Strassen's algorithm (V. Strassen, Gaussian elimination is not optimal, Numerische
// Mathematik 13, 1969), once: with rows, depth and width each cut in two, seven products of the
// parts, or of sums of them, make the four parts of the result, where eight would be multiplied
// directly. The sums of weights are taken at load. The rows' two parts are the even and the odd
// rows, so that a few pairs of rows, with all they need, go through the caches together.
#pragma once
#include "linear.h"
#include "operands.h"
#include "panels.h"

namespace adfast::kernels::ADFAST_ISA {

// The left operand of a product: rows `row` words apart.
struct LeftPart {
  const float* data;
  int64_t row;
};

// The left operands of `pairs` rows of x and the `odd` element after each of them, in the order of
// strassen_weight; sums go to the scratch. `next`: from one pair to the next.
template <class Operands>
static void left_parts(const typename Operands::Type* x, int64_t pairs, int64_t next, int64_t odd,
                       int64_t half, float* scratch, LeftPart parts[kStrassenProducts]) {
  using T = typename Operands::Type;
  constexpr int64_t per_word = Operands::pairs ? 2 : 1;
  const int64_t row = strassen_row(half / per_word), plane = pairs * row;
  const T *even_low = x, *even_high = x + half, *odd_low = x + odd, *odd_high = odd_low + half;
  const auto words = [](const T* p) { return reinterpret_cast<const float*>(p); };
  int sums = 0;
  const auto combined = [&](const T* a, const T* b, auto combine) {
    float* to = scratch + sums++ * plane;
    for (int64_t r = 0; r < pairs; r++) {
      T* out = reinterpret_cast<T*>(to + r * row);
      over(half, [&](int64_t i, auto lanes) {
        const Vec first = load(a + r * next + i, lanes), second = load(b + r * next + i, lanes);
        store_fast(out + i, combine(first, second), lanes);
      });
    }
    return LeftPart{to, row};
  };
  const auto plus = [](Vec a, Vec b) { return a + b; };
  const auto minus = [](Vec a, Vec b) { return a - b; };
  parts[0] = combined(even_low, odd_high, plus);
  parts[1] = combined(odd_low, odd_high, plus);
  parts[2] = {words(even_low), next / per_word};
  parts[3] = {words(odd_high), next / per_word};
  parts[4] = combined(even_low, even_high, plus);
  parts[5] = combined(odd_low, even_low, minus);
  parts[6] = combined(even_high, odd_high, minus);
}

// `pairs` rows from `row`, each with its neighbour; the last may have none (then `pairs` is 1).
template <class Operands, class Activation>
static void strassen_rows(const StrassenArgs& s, int64_t row, int64_t pairs) {
  using T = typename Operands::Type;
  const LinearArgs& a = s.linear;
  const int64_t half = a.depth / 2, width = a.width / 2;
  const int64_t depth = words_of(half, Operands::pairs), plane = pairs * kChannelPanel;
  // Of a row without a neighbour, what is computed for that is not stored.
  const bool paired = row + 1 < a.rows;
  LeftPart parts[kStrassenProducts];
  left_parts<Operands>(static_cast<const T*>(a.x) + row * a.depth, pairs, 2 * a.depth,
                       paired ? a.depth : 0, half, s.scratch, parts);
  float* products = s.scratch + strassen_sums(s.block, depth);
  for (int64_t panel = a.panel_begin; panel < a.panel_end; panel++) {
    for (int i = 0; i < kStrassenProducts; i++) {
      const float* weight = static_cast<const float*>(a.weight) +
                            (panel * kStrassenProducts + i) * depth * kChannelPanel;
      multiply_panel<Operands>(pairs, parts[i].data, parts[i].row, weight, depth,
                               products + i * plane);
    }
    const int64_t first = panel * kChannelPanel;
    over(smaller(kChannelPanel, width - first), [&](int64_t c, auto lanes) {
      const int64_t low = first + c, high = width + low;
      const Vec low_bias = a.offset ? load(a.offset + low, lanes) : set1(0.0f);
      const Vec high_bias = a.offset ? load(a.offset + high, lanes) : set1(0.0f);
      for (int64_t r = 0; r < pairs; r++) {
        const int64_t even = (row + 2 * r) * a.width, odd = even + a.width;
        Vec m[kStrassenProducts];
#pragma GCC unroll 7
        for (int i = 0; i < kStrassenProducts; i++)
          m[i] = load(products + i * plane + r * kChannelPanel + c);
        const auto put = [&](int64_t at, Vec v) { store_linear<Activation>(a, at, v, lanes); };
        put(even + low, m[0] + m[3] - m[4] + m[6] + low_bias);
        put(even + high, m[2] + m[4] + high_bias);
        if (!paired) continue;
        put(odd + low, m[1] + m[3] + low_bias);
        put(odd + high, m[0] - m[1] + m[2] + m[5] + high_bias);
      }
    });
  }
}

template <class Operands, class Activation>
static void strassen_of(const StrassenArgs& s) {
  const int64_t end = s.linear.row_end, whole = (end - s.linear.row_begin) / 2;
  for (int64_t pair = 0; pair < whole; pair += s.block) {
    strassen_rows<Operands, Activation>(s, s.linear.row_begin + 2 * pair,
                                        smaller(s.block, whole - pair));
  }
  if ((end - s.linear.row_begin) % 2 != 0) strassen_rows<Operands, Activation>(s, end - 1, 1);
}

static void strassen(const StrassenArgs& s) {
  with_activation(s.linear.activation, [&](auto activation) {
    using Activation = decltype(activation);
    s.linear.x_dtype == DType::bf16 ? strassen_of<Bf16Operands, Activation>(s)
                                    : strassen_of<F32Operands, Activation>(s);
  });
}

}  // namespace adfast::kernels::ADFAST_ISA
