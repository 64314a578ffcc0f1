// Depthwise convolutions of 3 x 3 and 5 x 5, strides 1 and 2: what EfficientNet spreads between its
// 1x1 convolutions. There are few products for each value read, so a row of outputs is held in
// registers, every input is loaded (and widened) once for all of them, and the activation is
// applied before they are written.
#pragma once
#include "matvec.h"

namespace adfast::kernels::ADFAST_ISA {

// kOutputs neighbours in a row of y, one vector of channels. x points to the first input that the
// first of them reads in row 0 of the kernel; only rows and columns inside the image are read.
template <int kKernel, int kStride, int kOutputs, class T, class Lanes>
static inline __attribute__((always_inline)) void depthwise_vector(const DepthwiseArgs& a,
                                                                   const T* x, Inside rows,
                                                                   Inside columns, bool whole,
                                                                   int64_t c, int64_t pixel,
                                                                   Lanes lanes) {
  constexpr int inputs = (kOutputs - 1) * kStride + kKernel;
  const int64_t row = a.width * a.channels;
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
    const T* from = x + i * row + c;
#pragma GCC unroll 19
    for (int j = 0; j < inputs; j++) {
      if (!whole && (j < columns.begin || j >= columns.end)) continue;
      const Vec v = load(from + j * a.channels, lanes);
#pragma GCC unroll 8
      for (int o = 0; o < kOutputs; o++) {
        const int k = j - o * kStride;
        if (k >= 0 && k < kKernel) sums[o] = fma(v, weight[k], sums[o]);
      }
    }
  }
  T* y = static_cast<T*>(a.y) + pixel * a.channels + c;
#pragma GCC unroll 8
  for (int o = 0; o < kOutputs; o++) {
    store_fast(y + o * a.channels, activated<T>(a.activation, sums[o]), lanes);
  }
}

template <int kKernel, int kStride, int kOutputs, class T>
static inline __attribute__((always_inline)) void depthwise_outputs(const DepthwiseArgs& a,
                                                                    int64_t y, int64_t x) {
  constexpr int inputs = (kOutputs - 1) * kStride + kKernel;
  const int64_t top = y * kStride - a.top, left = x * kStride - a.left;
  const Inside rows(top, kKernel, a.height), columns(left, inputs, a.width);
  const bool whole = columns.begin == 0 && columns.end == inputs;
  // The address may lie before the image; what is read does not.
  const T* from = static_cast<const T*>(a.x) + (top * a.width + left) * a.channels;
  const int64_t pixel = y * a.out_width + x;
  over(a.channels, [&](int64_t c, auto lanes) {
    // The second call is the first with all columns known to be inside.
    if (whole) {
      depthwise_vector<kKernel, kStride, kOutputs>(a, from, rows, columns, true, c, pixel, lanes);
    } else {
      depthwise_vector<kKernel, kStride, kOutputs>(a, from, rows, columns, false, c, pixel, lanes);
    }
  });
}

template <int kKernel, int kStride, class T>
static void depthwise_rows(const DepthwiseArgs& a) {
  constexpr int most = kStride == 1 ? 8 : 4;
  for (int64_t y = a.row_begin; y < a.row_end; y++) {
    int64_t x = 0;
    for (; x + most <= a.out_width; x += most)
      depthwise_outputs<kKernel, kStride, most, T>(a, y, x);
    for (; x + 2 <= a.out_width; x += 2) depthwise_outputs<kKernel, kStride, 2, T>(a, y, x);
    for (; x < a.out_width; x++) depthwise_outputs<kKernel, kStride, 1, T>(a, y, x);
  }
}

template <class T>
static void depthwise_of(const DepthwiseArgs& a) {
  if (a.kernel == 3) return a.stride == 1 ? depthwise_rows<3, 1, T>(a) : depthwise_rows<3, 2, T>(a);
  a.stride == 1 ? depthwise_rows<5, 1, T>(a) : depthwise_rows<5, 2, T>(a);
}

static void depthwise(const DepthwiseArgs& a) {
  a.dtype == DType::f32 ? depthwise_of<float>(a) : depthwise_of<Bf16>(a);
}

}  // namespace adfast::kernels::ADFAST_ISA
