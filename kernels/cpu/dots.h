// What the attention kernels share: products of pixels with eight rows, and softmaxes.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

// Eight rows of `stride` floats from row `first` of `count`; those past the end repeat the last, so
// that one loop serves every count and the caller drops the surplus.
struct Rows8 {
  const float* row[8];
  Rows8(const float* rows, int64_t first, int64_t count, int64_t stride) {
    for (int64_t i = 0; i < 8; i++) row[i] = rows + smaller(first + i, count - 1) * stride;
  }
};

// out[p] = x[p] . row[0..7] for kPixels pixels: each vector of x feeds eight sums, each vector of a
// row kPixels of them.
template <int kPixels, class T>
static inline void dot8(const T* x, int64_t channels, const Rows8& rows, Eight* out) {
  Vec acc[kPixels][8];
  for (int p = 0; p < kPixels; p++) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) acc[p][i] = set1(0.0f);
  }
  over(channels, [&](int64_t c, auto lanes) {
    Vec v[kPixels];
    for (int p = 0; p < kPixels; p++) v[p] = load(x + p * channels + c, lanes);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
      Vec w = load(rows.row[i] + c, lanes);
      for (int p = 0; p < kPixels; p++) acc[p][i] = fma(w, v[p], acc[p][i]);
    }
  });
  for (int p = 0; p < kPixels; p++) out[p] = sums_of8(acc[p]);
}

// Calls sink(p, x[p] . row[0..7]) for every pixel.
template <class T, class Sink>
static inline void each_dot8(const T* x, int64_t pixels, int64_t channels, const Rows8& rows,
                             Sink&& sink) {
  int64_t p = 0;
  for (; p + kDotPixels <= pixels; p += kDotPixels) {
    Eight out[kDotPixels];
    dot8<kDotPixels>(x + p * channels, channels, rows, out);
    for (int i = 0; i < kDotPixels; i++) sink(p + i, out[i]);
  }
  for (; p < pixels; p++) {
    Eight out;
    dot8<1>(x + p * channels, channels, rows, &out);
    sink(p, out);
  }
}

// Softmax of every row of [rows][width], in place; width is a multiple of 8 (pad with -infinity).
// The exponentials, which cost most, run over all rows at once in full vectors.
static inline void softmax_rows8(float* x, int64_t rows, int64_t width) {
  for (int64_t r = 0; r < rows; r++) {
    float* row = x + r * width;
    Eight m = load8(row);
    for (int64_t i = 8; i < width; i += 8) m = max8(load8(row + i), m);
    Eight shift = set8(-largest8(m));
    for (int64_t i = 0; i < width; i += 8) store8(row + i, fma8(load8(row + i), set8(1.0f), shift));
  }
  over(rows * width, [&](int64_t i, auto lanes) { store(x + i, exp(load(x + i, lanes)), lanes); });
  for (int64_t r = 0; r < rows; r++) {
    float* row = x + r * width;
    Eight total = load8(row);
    for (int64_t i = 8; i < width; i += 8) total = fma8(load8(row + i), set8(1.0f), total);
    Eight factor = set8(1.0f / sum8(total));
    for (int64_t i = 0; i < width; i += 8) {
      store8(row + i, fma8(load8(row + i), factor, set8(0.0f)));
    }
  }
}

}  // namespace adfast::kernels::ADFAST_ISA
