// Depthwise convolutions of 3 x 3 and 5 x 5, strides 1 and 2: what EfficientNet spreads between its
// 1x1 convolutions. There are few products for each value read, so a row of outputs is held in
// registers, every input is loaded (and widened) once for all of them, and the activation is
// applied before they are written.
#pragma once
#include "matvec.h"

namespace adfast::kernels::ADFAST_ISA {

// kOutputs neighbours in a row of y, one vector of channels. x points to the first input that the
// first of them reads in row 0 of the kernel; only rows and columns inside the image are read.
template <int kKernel, int kStride, int kOutputs, class Y, class X, class Lanes>
static inline __attribute__((always_inline)) void depthwise_vector(const DepthwiseArgs& a,
                                                                   const X* x, Inside rows,
                                                                   Inside columns, bool whole,
                                                                   int64_t c, int64_t pixel,
                                                                   Lanes lanes) {
  constexpr int inputs = (kOutputs - 1) * kStride + kKernel;
  const int64_t row = a.width * a.x_pixel;
  Vec sums[kOutputs];
  const Vec bias = a.bias ? load(a.bias + c, lanes) : set1(0.0f);
#pragma GCC unroll 8
  for (int o = 0; o < kOutputs; o++) sums[o] = bias;
  for (int i = rows.begin; i < rows.end; i++) {
    Vec weight[kKernel];
#pragma GCC unroll 5
    for (int k = 0; k < kKernel; k++) {
      weight[k] = load(a.weight + (i * kKernel + k) * a.channels + c, lanes);
    }
    const X* from = x + i * row + c;
#pragma GCC unroll 19
    for (int j = 0; j < inputs; j++) {
      if (!whole && (j < columns.begin || j >= columns.end)) continue;
      const Vec v = load(from + j * a.x_pixel, lanes);
#pragma GCC unroll 8
      for (int o = 0; o < kOutputs; o++) {
        const int k = j - o * kStride;
        if (k >= 0 && k < kKernel) sums[o] = fma(v, weight[k], sums[o]);
      }
    }
  }
  Y* y = static_cast<Y*>(a.y) + pixel * a.channels + c;
#pragma GCC unroll 8
  for (int o = 0; o < kOutputs; o++) {
    store_fast(y + o * a.channels, activated<Y>(a.activation, sums[o]), lanes);
  }
}

template <int kKernel, int kStride, int kOutputs, class X, class Y>
static inline __attribute__((always_inline)) void depthwise_outputs(const DepthwiseArgs& a,
                                                                    int64_t y, int64_t x) {
  constexpr int inputs = (kOutputs - 1) * kStride + kKernel;
  const int64_t top = y * kStride - a.top, left = x * kStride - a.left;
  const Inside rows(top, kKernel, a.height), columns(left, inputs, a.width);
  const bool whole = columns.begin == 0 && columns.end == inputs;
  // The address may lie before the image; what is read does not.
  const X* from = static_cast<const X*>(a.x) + (top * a.width + left) * a.x_pixel;
  const int64_t pixel = y * a.out_width + x;
  over(a.channel_end - a.channel_begin, [&](int64_t i, auto lanes) {
    const int64_t c = a.channel_begin + i;
    // The second call is the first with all columns known to be inside.
    if (whole) {
      depthwise_vector<kKernel, kStride, kOutputs, Y>(a, from, rows, columns, true, c, pixel,
                                                      lanes);
    } else {
      depthwise_vector<kKernel, kStride, kOutputs, Y>(a, from, rows, columns, false, c, pixel,
                                                      lanes);
    }
  });
}

template <int kKernel, int kStride, class X, class Y>
static void depthwise_rows(const DepthwiseArgs& a) {
  constexpr int most = kStride == 1 ? 8 : 4;
  for (int64_t y = a.row_begin; y < a.row_end; y++) {
    int64_t x = 0;
    for (; x + most <= a.out_width; x += most)
      depthwise_outputs<kKernel, kStride, most, X, Y>(a, y, x);
    for (; x + 2 <= a.out_width; x += 2) depthwise_outputs<kKernel, kStride, 2, X, Y>(a, y, x);
    for (; x < a.out_width; x++) depthwise_outputs<kKernel, kStride, 1, X, Y>(a, y, x);
  }
}

template <class X, class Y>
static void depthwise_of(const DepthwiseArgs& a) {
  if (a.kernel == 3) {
    return a.stride == 1 ? depthwise_rows<3, 1, X, Y>(a) : depthwise_rows<3, 2, X, Y>(a);
  }
  a.stride == 1 ? depthwise_rows<5, 1, X, Y>(a) : depthwise_rows<5, 2, X, Y>(a);
}

static void depthwise(const DepthwiseArgs& a) {
  a.dtype == DType::f32 ? depthwise_of<float, float>(a) : depthwise_of<Bf16, Bf16>(a);
}

}  // namespace adfast::kernels::ADFAST_ISA
