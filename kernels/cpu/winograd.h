// Convolutions of stride 1 by the algorithm of Winograd: tiles of the input and of the kernel are
// taken to the points of an interpolation, multiplied there, one product per point and pair of
// channels, and taken back. All sums are f32; the operands of the products may be rounded to bf16.
// S. Winograd, Arithmetic complexity of computations (1980); A. Lavin and S. Gray, Fast algorithms
// for convolutional neural networks (CVPR 2016).
//
// A tile of 6 x 6 has the points 0, +-sqrt(1/2), +-sqrt(2) and infinity. They keep more digits
// than the usual 0, +-1, +-2, as their powers stay near one, and their products 1/2 and 2 are
// exact.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

constexpr float kNear = 0.70710678118654752f, kFar = 1.41421356237309505f;

// p[i] = the polynomial of the values d at the i-th point, times the products of its distances to
// the others (winograd_weight divides by them).
template <int kSide>
static inline __attribute__((always_inline)) void to_points(const Vec* d, Vec* p) {
  if constexpr (kSide == 4) {
    p[0] = d[2] - d[0];
    p[1] = d[2] + d[1];
    p[2] = d[2] - d[1];
    p[3] = d[3] - d[1];
  } else {
    const Vec far = fma(set1(-2.0f), d[2], d[4]), far_odd = fma(set1(-2.0f), d[1], d[3]);
    const Vec near = fma(set1(-0.5f), d[2], d[4]), near_odd = fma(set1(-0.5f), d[1], d[3]);
    p[0] = fma(set1(-2.5f), d[2], d[0] + d[4]);
    p[1] = fma(set1(kNear), far_odd, far);
    p[2] = fma(set1(-kNear), far_odd, far);
    p[3] = fma(set1(kFar), near_odd, near);
    p[4] = fma(set1(-kFar), near_odd, near);
    p[5] = fma(set1(-2.5f), d[3], d[1] + d[5]);
  }
}

// The first kOutputs coefficients' outputs from the products m at the points.
template <int kSide, int kOutputs>
static inline __attribute__((always_inline)) void from_points(const Vec* m, Vec* y) {
  const Vec even = m[1] + m[2], odd = m[1] - m[2];
  if constexpr (kSide == 4) {
    y[0] = m[0] + even;
    y[1] = odd + m[3];
  } else {
    const Vec even_far = m[3] + m[4], odd_far = m[3] - m[4];
    y[0] = m[0] + (even + even_far);
    const Vec first = fma(set1(kNear), odd, set1(kFar) * odd_far);
    if constexpr (kOutputs == 2) {
      y[1] = first + m[5];
    } else {
      y[1] = first;
      y[2] = fma(set1(0.5f), even, set1(2.0f) * even_far);
      y[3] = fma(set1(0.5f * kNear), odd, fma(set1(2.0f * kFar), odd_far, m[5]));
    }
  }
}

template <int kSide, class T, class Lanes, class Operand>
static inline __attribute__((always_inline)) void transform_vector(const T* x, int64_t row,
                                                                   int64_t pixel, Inside rows,
                                                                   Inside columns, Lanes lanes,
                                                                   Operand* out, int64_t plane) {
  Vec half[kSide][kSide];
#pragma GCC unroll 6
  for (int i = 0; i < kSide; i++) {
    Vec d[kSide];
#pragma GCC unroll 6
    for (int j = 0; j < kSide; j++) {
      const bool inside = i >= rows.begin && i < rows.end && j >= columns.begin && j < columns.end;
      d[j] = inside ? load(x + i * row + j * pixel, lanes) : set1(0.0f);
    }
    to_points<kSide>(d, half[i]);
  }
#pragma GCC unroll 6
  for (int j = 0; j < kSide; j++) {
    Vec d[kSide], p[kSide];
#pragma GCC unroll 6
    for (int i = 0; i < kSide; i++) d[i] = half[i][j];
    to_points<kSide>(d, p);
#pragma GCC unroll 6
    for (int i = 0; i < kSide; i++) store_fast(out + (i * kSide + j) * plane, p[i]);
  }
}

template <int kSide, class T, class Operands>
static void transform_tiles(const WinogradArgs& a) {
  using Operand = typename Operands::Type;
  constexpr int64_t per_word = sizeof(float) / sizeof(Operand);
  const int64_t across = (a.out_width + a.outputs - 1) / a.outputs;
  const int64_t row = winograd_row(words_of(a.channels, Operands::pairs));
  const int64_t plane = winograd_plane(a.block_end - a.block_begin, row) * per_word;
  for (int64_t tile = a.tile_begin; tile < a.tile_end; tile++) {
    const int64_t top = tile / across * a.outputs - a.top;
    const int64_t left = tile % across * a.outputs - a.left;
    const Inside rows(top, kSide, a.height), columns(left, kSide, a.width);
    const bool whole =
        rows.begin == 0 && rows.end == kSide && columns.begin == 0 && columns.end == kSide;
    // Only pixels inside are read; the address may lie before the first of them.
    const T* x = static_cast<const T*>(a.x) + (top * a.width + left) * a.channels;
    // Vectors are stored whole: past the last channel they hold zeros, or what is never read.
    auto* out = reinterpret_cast<Operand*>(a.tiles + (tile - a.block_begin) * row);
    over(a.channels, [&](int64_t c, auto lanes) {
      // The second call is the first with all conditions known.
      if (whole) {
        transform_vector<kSide>(x + c, a.width * a.channels, a.channels, Inside(0, kSide, kSide),
                                Inside(0, kSide, kSide), lanes, out + c, plane);
      } else {
        transform_vector<kSide>(x + c, a.width * a.channels, a.channels, rows, columns, lanes,
                                out + c, plane);
      }
    });
    if (Operands::pairs && kLanes == 1 && a.channels % 2 != 0) {  // the other half of the last word
      for (int p = 0; p < kSide * kSide; p++) {
        store_fast(out + a.channels + p * plane, set1(0.0f));
      }
    }
  }
}

template <int kSide, int kOutputs, class T>
static void untransform_tile(const WinogradArgs& a, int64_t tile, int64_t panel, int64_t plane) {
  const int64_t across = (a.out_width + kOutputs - 1) / kOutputs;
  const int64_t top = tile / across * kOutputs, left = tile % across * kOutputs;
  const int64_t rows = smaller(kOutputs, a.out_height - top);
  const int64_t columns = smaller(kOutputs, a.out_width - left);
  const int64_t first = panel * kChannelPanel;
  const int64_t channels = smaller(kChannelPanel, a.out_channels - first);
  const int64_t corner = (top * a.out_width + left) * a.out_channels + first;
  const float* products = a.products + (tile - a.block_begin) * kChannelPanel;
  over(channels, [&](int64_t c, auto lanes) {
    Vec half[kSide][kOutputs];
#pragma GCC unroll 6
    for (int i = 0; i < kSide; i++) {
      Vec m[kSide];
#pragma GCC unroll 6
      for (int j = 0; j < kSide; j++) m[j] = load(products + (i * kSide + j) * plane + c);
      from_points<kSide, kOutputs>(m, half[i]);
    }
    const Vec bias = a.bias ? load(a.bias + first + c, lanes) : set1(0.0f);
#pragma GCC unroll 4
    for (int j = 0; j < kOutputs; j++) {
      if (j >= columns) break;
      Vec m[kSide], y[kOutputs];
#pragma GCC unroll 6
      for (int i = 0; i < kSide; i++) m[i] = half[i][j];
      from_points<kSide, kOutputs>(m, y);
#pragma GCC unroll 4
      for (int i = 0; i < kOutputs; i++) {
        if (i >= rows) break;
        const int64_t at = corner + (i * a.out_width + j) * a.out_channels + c;
        Vec v = y[i] + bias;
        if (a.residual) v = v + load(static_cast<const T*>(a.residual) + at, lanes);
        // The second operand wins where either is NaN.
        if (a.relu) v = max(set1(0.0f), v);
        store_as(a.y, a.y_dtype, a.y_levels, at, v, lanes);
      }
    }
  });
}

template <int kSide, int kOutputs, class T, class Operands>
static void multiply_tiles(const WinogradArgs& a) {
  const int64_t depth = words_of(a.channels, Operands::pairs);
  const int64_t count = a.block_end - a.block_begin, row = winograd_row(depth);
  const int64_t left_plane = winograd_plane(count, row);
  const int64_t plane = winograd_plane(count, kChannelPanel);
  for (int64_t panel = a.panel_begin; panel < a.panel_end; panel++) {
    for (int64_t point = 0; point < kSide * kSide; point++) {
      const float* right = static_cast<const float*>(a.weight) +
                           (panel * kSide * kSide + point) * depth * kChannelPanel;
      multiply_panel<Operands>(count, a.tiles + point * left_plane, row, right, depth,
                               a.products + point * plane);
    }
    for (int64_t tile = a.block_begin; tile < a.block_end; tile++) {
      untransform_tile<kSide, kOutputs, T>(a, tile, panel, plane);
    }
  }
}

template <class T, class Operands>
static void transform_of(const WinogradArgs& a) {
  const bool small = a.outputs + a.kernel - 1 == 4;
  small ? transform_tiles<4, T, Operands>(a) : transform_tiles<6, T, Operands>(a);
}

static void winograd_transform(const WinogradArgs& a) {
  if (a.operands == DType::bf16) return transform_of<Bf16, Bf16Operands>(a);
  a.dtype == DType::f32 ? transform_of<float, F32Operands>(a) : transform_of<Bf16, F32Operands>(a);
}

template <class T, class Operands>
static void multiply_of(const WinogradArgs& a) {
  if (a.kernel == 5) return multiply_tiles<6, 2, T, Operands>(a);
  a.outputs == 2 ? multiply_tiles<4, 2, T, Operands>(a) : multiply_tiles<6, 4, T, Operands>(a);
}

static void winograd_multiply(const WinogradArgs& a) {
  if (a.operands == DType::bf16) return multiply_of<Bf16, Bf16Operands>(a);
  a.dtype == DType::f32 ? multiply_of<float, F32Operands>(a) : multiply_of<Bf16, F32Operands>(a);
}

}  // namespace adfast::kernels::ADFAST_ISA
