// Separable convolution of one f32 map, vertically first; the border mirrors without repeating the
// edge.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

static inline int64_t mirrored(int64_t i, int64_t size) {
  return i < 0 ? -i : i >= size ? 2 * size - 2 - i : i;
}

// Rows y..y + kBlurRows - 1 of the vertical pass, kVectors vectors of columns: each source vector
// is loaded once for all of them. Rows below the map repeat the last one's work and are dropped
// later.
template <int kVectors, class Lanes>
static inline void blur_down(const GaussianBlurArgs& a, int64_t y, int64_t column, float* rows,
                             int64_t row_size, Lanes lanes) {
  int64_t radius = a.taps / 2;
  Vec acc[kBlurRows][kVectors];
  for (int j = 0; j < kBlurRows; j++) {
    for (int k = 0; k < kVectors; k++) acc[j][k] = set1(0.0f);
  }
  // Source row s contributes to output row j with tap s - j.
  auto step = [&](int64_t s, auto&& inside) {
    int64_t from = mirrored(smaller(y + s, a.height - 1 + a.taps - 1) - radius, a.height);
    const float* p = a.src + from * a.width + column;
    Vec v[kVectors];
    for (int k = 0; k < kVectors; k++) v[k] = load(p + k * kLanes, lanes);
    for (int j = 0; j < kBlurRows; j++) {
      if (!inside(s - j)) continue;
      Vec w = set1(a.kernel[s - j]);
      for (int k = 0; k < kVectors; k++) acc[j][k] = fma(w, v[k], acc[j][k]);
    }
  };
  auto checked = [&](int64_t tap) { return tap >= 0 && tap < a.taps; };
  int64_t s = 0;
  for (; s < kBlurRows - 1; s++) step(s, checked);
  for (; s < a.taps; s++) step(s, [](int64_t) { return true; });
  for (; s < a.taps + kBlurRows - 1; s++) step(s, checked);
  for (int j = 0; j < kBlurRows; j++) {
    for (int k = 0; k < kVectors; k++) {
      store(rows + j * row_size + column + k * kLanes, acc[j][k], lanes);
    }
  }
}

template <int kVectors, class Lanes>
static inline void blur_across(const GaussianBlurArgs& a, const float* row, float* out,
                               Lanes lanes) {
  Vec acc[kVectors];
  for (int k = 0; k < kVectors; k++) acc[k] = set1(0.0f);
  for (int64_t t = 0; t < a.taps; t++) {
    Vec w = set1(a.kernel[t]);
    for (int k = 0; k < kVectors; k++) acc[k] = fma(w, load(row + t + k * kLanes), acc[k]);
  }
  for (int k = 0; k < kVectors; k++) store(out + k * kLanes, acc[k], lanes);
}

static void gaussian_blur(const GaussianBlurArgs& a) {
  constexpr int kVectors = 4;
  constexpr int64_t kBlock = kVectors * kLanes;
  int64_t radius = a.taps / 2, row_size = padded_row(a.width, radius);
  over(kBlurRows * row_size,
       [&](int64_t i, auto lanes) { store(a.scratch + i, set1(0.0f), lanes); });
  for (int64_t y = 0; y < a.height; y += kBlurRows) {
    float* rows = a.scratch + radius;
    int64_t c = 0;
    for (; c + kBlock <= a.width; c += kBlock) {
      blur_down<kVectors>(a, y, c, rows, row_size, All{});
    }
    over(a.width - c,
         [&](int64_t i, auto lanes) { blur_down<1>(a, y, c + i, rows, row_size, lanes); });
    for (int64_t j = 0; j < smaller(kBlurRows, a.height - y); j++) {
      float* row = rows + j * row_size;
      for (int64_t i = 1; i <= radius; i++) {
        row[-i] = row[mirrored(-i, a.width)];
        row[a.width - 1 + i] = row[mirrored(a.width - 1 + i, a.width)];
      }
      float* out = a.dst + (y + j) * a.width;
      int64_t x = 0;
      for (; x + kBlock <= a.width; x += kBlock) {
        blur_across<kVectors>(a, row - radius + x, out + x, All{});
      }
      over(a.width - x, [&](int64_t i, auto lanes) {
        blur_across<1>(a, row - radius + x + i, out + x + i, lanes);
      });
    }
  }
}

}  // namespace adfast::kernels::ADFAST_ISA
