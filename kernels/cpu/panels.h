// Products of many rows with one panel of a constant matrix, which stays in the first-level cache.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

// Rows multiplied at once; with two vectors of columns they fill the registers.
constexpr int kPanelRows = kLanes == 16 ? 14 : kLanes == 8 ? 6 : 4;

// out[r] = left[r] . right, two vectors of columns of kRows rows and of one panel. Every row is
// summed in the order of depth, whoever its neighbours are.
template <class Operands, int kRows>
static inline __attribute__((always_inline)) void multiply_rows(const float* left, int64_t row,
                                                                const float* low, const float* high,
                                                                int64_t depth, float* out) {
  Vec acc[kRows][2];
#pragma GCC unroll 14
  for (int r = 0; r < kRows; r++) acc[r][0] = acc[r][1] = set1(0.0f);
  for (int64_t i = 0; i < depth; i++, low += kPanelColumns, high += kPanelColumns) {
    const Vec first = load(low), second = load(high);
#pragma GCC unroll 14
    for (int r = 0; r < kRows; r++) {
      const Vec v = set1(left[r * row + i]);
      acc[r][0] = Operands::add_products(v, first, acc[r][0]);
      acc[r][1] = Operands::add_products(v, second, acc[r][1]);
    }
  }
#pragma GCC unroll 14
  for (int r = 0; r < kRows; r++) {
    store(out + r * kChannelPanel, acc[r][0]);
    store(out + r * kChannelPanel + kLanes, acc[r][1]);
  }
}

template <class Operands, int kRows>
static void multiply_some(int64_t rows, const float* left, int64_t row, const float* low,
                          const float* high, int64_t depth, float* out) {
  if constexpr (kRows > 0) {
    if (rows == kRows) return multiply_rows<Operands, kRows>(left, row, low, high, depth, out);
    multiply_some<Operands, kRows - 1>(rows, left, row, low, high, depth, out);
  }
}

// out[r] = left[r] . right for any number of rows and one panel of `depth` words; rows of out are
// kChannelPanel floats.
template <class Operands>
static void multiply_panel(int64_t rows, const float* left, int64_t row, const float* right,
                           int64_t depth, float* out) {
  const auto weight = [&](int64_t column) {
    return right + column / kPanelColumns * depth * kPanelColumns + column % kPanelColumns;
  };
  const int64_t blocks = (rows + kPanelRows - 1) / kPanelRows;
  for (int64_t column = 0; column < kChannelPanel; column += 2 * kLanes) {
    // Of nearly equal size: a small last one would wait for its own sums.
    for (int64_t b = 0; b < blocks; b++) {
      const int64_t begin = rows * b / blocks, end = rows * (b + 1) / blocks;
      multiply_some<Operands, kPanelRows>(end - begin, left + begin * row, row, weight(column),
                                          weight(column + kLanes), depth,
                                          out + begin * kChannelPanel + column);
    }
  }
}

}  // namespace adfast::kernels::ADFAST_ISA
