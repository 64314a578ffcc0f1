// Products of a few rows with panels of columns, from memory to memory: attention's two.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

constexpr int kPanelVecs = 2 * kColumns;  // vectors of columns next to each other

// The right operand: words `row` apart down its depth, `panel` apart from one panel to the next.
struct Panels {
  const float* data;
  int64_t row, panel;
};

// sums[r] += left[r][0..depth) . right[0..depth)[...], depth in words: kQueryRows rows by kVecs
// vectors, held in registers. Every row is summed alike, in the order of depth.
template <class Operands, int kVecs>
static inline __attribute__((always_inline)) void accumulate(const float* left, int64_t left_stride,
                                                             const float* right,
                                                             int64_t right_stride, int64_t depth,
                                                             Vec (*sums)[kVecs]) {
  Vec acc[kQueryRows][kVecs];
#pragma GCC unroll 8
  for (int r = 0; r < kQueryRows; r++) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; v++) acc[r][v] = sums[r][v];
  }
  for (int64_t i = 0; i < depth; i++) {
    Vec b[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; v++) b[v] = load(right + i * right_stride + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kQueryRows; r++) {
      Vec a = set1(left[r * left_stride + i]);
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; v++) acc[r][v] = Operands::add_products(a, b[v], acc[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kQueryRows; r++) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; v++) sums[r][v] = acc[r][v];
  }
}

// The same from nothing.
template <class Operands, int kVecs>
static inline __attribute__((always_inline)) void product(const float* left, int64_t left_stride,
                                                          const float* right, int64_t right_stride,
                                                          int64_t depth, Vec (*sums)[kVecs]) {
#pragma GCC unroll 8
  for (int r = 0; r < kQueryRows; r++) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; v++) sums[r][v] = set1(0.0f);
  }
  accumulate<Operands, kVecs>(left, left_stride, right, right_stride, depth, sums);
}

// How operands of one kind are multiplied; there is one of these alive while it is used.
template <class Operands>
struct Products {
  static constexpr bool tiles = false;
  static constexpr int64_t rows = kQueryRows;            // of the left operand at once
  static constexpr int64_t panel = kPanelVecs * kLanes;  // columns next to each other
  static constexpr int64_t depth = 1, columns = panel;   // both come in multiples of these

  // out[r] = left[r] . right for `rows` rows; `columns` is a multiple of the vectors' lanes.
  static void multiply(const float* left, int64_t left_stride, Panels right, int64_t depth,
                       int64_t columns, float* out, int64_t out_stride) {
    const float* from = right.data;
    for (int64_t c = 0; c < columns; c += panel, from += right.panel) {
      const int64_t vecs = smaller(kPanelVecs, (columns - c) / kLanes);
      const auto run = vecs == 1   ? multiply_panel<1>
                       : vecs == 2 ? multiply_panel<2>
                       : vecs == 3 ? multiply_panel<3>
                                   : multiply_panel<4>;
      run(left, left_stride, from, right.row, depth, out + c, out_stride);
    }
  }

 private:
  template <int kVecs>
  static void multiply_panel(const float* left, int64_t left_stride, const float* right,
                             int64_t right_stride, int64_t depth, float* out, int64_t stride) {
    Vec sums[kQueryRows][kVecs];
    product<Operands, kVecs>(left, left_stride, right, right_stride, depth, sums);
#pragma GCC unroll 8
    for (int r = 0; r < kQueryRows; r++) {
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; v++) store(out + r * stride + v * kLanes, sums[r][v]);
    }
  }
};

}  // namespace adfast::kernels::ADFAST_ISA
