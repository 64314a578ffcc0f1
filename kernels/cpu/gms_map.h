// Gradient magnitude similarity of two images, row by row: sums and differences over three rows
// first, from which both components of the gradient follow along the row.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

// sum[i] = the rows above, at and below y; difference[i] = below - above; one pixel of margin
// repeated at both ends.
static inline void gms_rows(const float* image, int64_t y, const GmsMapArgs& a, float* sum,
                            float* difference) {
  const int64_t n = a.width * a.channels;
  const float* here = image + y * n;
  const float* above = y > 0 ? here - n : here;
  const float* below = y + 1 < a.height ? here + n : here;
  float *s = sum + a.channels, *d = difference + a.channels;
  over(n, [&](int64_t i, auto lanes) {
    Vec up = load(above + i, lanes), down = load(below + i, lanes);
    store(s + i, up + load(here + i, lanes) + down, lanes);
    store(d + i, down - up, lanes);
  });
  for (int64_t c = 0; c < a.channels; c++) {
    sum[c] = s[c];
    difference[c] = d[c];
    s[n + c] = s[n - a.channels + c];
    d[n + c] = d[n - a.channels + c];
  }
}

// The squared length of the gradient.
template <class Lanes>
static inline Vec gms_square(const float* sum, const float* difference, int64_t i, int64_t channels,
                             Lanes lanes) {
  const Vec third = set1(1.0f / 3.0f);
  Vec across = (load(sum + i + 2 * channels, lanes) - load(sum + i, lanes)) * third;
  Vec down = (load(difference + i, lanes) + load(difference + i + channels, lanes) +
              load(difference + i + 2 * channels, lanes)) *
             third;
  return fma(across, across, down * down);
}

static void gms_map(const GmsMapArgs& a) {
  const int64_t row = gms_row(a.width, a.channels);
  float *sum_a = a.scratch, *difference_a = sum_a + row, *sum_b = difference_a + row,
        *difference_b = sum_b + row, *unlike = difference_b + row;
  const Vec c = set1(a.c);
  const float share = 1.0f / static_cast<float>(a.channels);
  for (int64_t y = 0; y < a.height; y++) {
    gms_rows(a.a, y, a, sum_a, difference_a);
    gms_rows(a.b, y, a, sum_b, difference_b);
    over(a.width * a.channels, [&](int64_t i, auto lanes) {
      Vec aa = gms_square(sum_a, difference_a, i, a.channels, lanes);
      Vec bb = gms_square(sum_b, difference_b, i, a.channels, lanes);
      Vec d = sqrt(aa) - sqrt(bb);
      store(unlike + i, d * d / (aa + bb + c), lanes);
    });
    for (int64_t x = 0; x < a.width; x++) {
      float total = 0;
      for (int64_t i = 0; i < a.channels; i++) total += unlike[x * a.channels + i];
      a.out[y * a.width + x] = total * share;
    }
  }
}

}  // namespace adfast::kernels::ADFAST_ISA
