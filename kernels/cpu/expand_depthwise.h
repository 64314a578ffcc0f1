// An inverted bottleneck's first half (M. Sandler et al., MobileNetV2, CVPR 2018): a convolution of
// 1x1 makes a map several times as wide, which a depthwise convolution alone reads. Computed apart,
// the wide map goes to memory and back, being larger than the caches. Here one panel of its
// channels is computed for a band of rows, which the second-level cache holds, and read at once;
// the rows that the next band reads too are kept.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

// Of the wide map, computed before bias and activation are applied: they find them in the
// first-level cache.
constexpr int64_t kPixels = 64;

// y = activation(y + bias) for the first `channels` columns of rows of a panel.
template <class T>
static void finish_panel(float* y, int64_t rows, int64_t channels, const float* bias,
                         Unary activation) {
  over(channels, [&](int64_t c, auto lanes) {
    const Vec by = bias ? load(bias + c, lanes) : set1(0.0f);
    for (int64_t r = 0; r < rows; r++) {
      float* at = y + r * kChannelPanel + c;
      store(at, activated<T>(activation, load(at, lanes) + by), lanes);
    }
  });
}

template <int kKernel, int kStride, class T, class Operands>
static void expand_depthwise_panel(const ExpandDepthwiseArgs& a, int64_t panel) {
  DepthwiseArgs d = a.depthwise;
  const int64_t depth = words_of(a.channels, Operands::pairs), row = d.width * kChannelPanel;
  const float* weight = static_cast<const float*>(a.weight) + panel * depth * kChannelPanel;
  d.x_pixel = kChannelPanel;
  d.channel_begin = panel * kChannelPanel;
  d.channel_end = smaller(d.channel_begin + kChannelPanel, d.channels);
  const float* bias = a.bias ? a.bias + d.channel_begin : nullptr;
  // Rows first..known - 1 of the wide map are in the scratch.
  int64_t first = 0, known = 0;
  for (int64_t y = a.depthwise.row_begin; y < a.depthwise.row_end; y += a.band) {
    d.row_begin = y;
    d.row_end = smaller(y + a.band, a.depthwise.row_end);
    const int64_t begin = larger(y * kStride - d.top, 0);
    const int64_t end = smaller((d.row_end - 1) * kStride - d.top + kKernel, d.height);
    if (known > begin) {
      __builtin_memmove(a.scratch, a.scratch + (begin - first) * row,
                        static_cast<size_t>((known - begin) * row) * sizeof(float));
    }
    known = larger(known, begin);
    first = begin;
    while (known < end) {
      const int64_t rows = smaller(larger(kPixels / d.width, 1), end - known);
      float* to = a.scratch + (known - first) * row;
      // In pixels of bf16, two channels are one word.
      const float* from = static_cast<const float*>(a.x) + known * d.width * depth;
      multiply_panel<Operands>(rows * d.width, from, depth, weight, depth, to);
      finish_panel<T>(to, rows * d.width, d.channel_end - d.channel_begin, bias, a.activation);
      known += rows;
    }
    // The address of a whole map's first pixel and channel; only what is in the scratch is read.
    d.x = a.scratch - first * row - d.channel_begin;
    depthwise_rows<kKernel, kStride, float, T>(d);
  }
}

template <class T, class Operands>
static void expand_depthwise_of(const ExpandDepthwiseArgs& a) {
  const DepthwiseArgs& d = a.depthwise;
  for (int64_t panel = a.panel_begin; panel < a.panel_end; panel++) {
    if (d.kernel == 3) {
      d.stride == 1 ? expand_depthwise_panel<3, 1, T, Operands>(a, panel)
                    : expand_depthwise_panel<3, 2, T, Operands>(a, panel);
    } else {
      d.stride == 1 ? expand_depthwise_panel<5, 1, T, Operands>(a, panel)
                    : expand_depthwise_panel<5, 2, T, Operands>(a, panel);
    }
  }
}

static void expand_depthwise(const ExpandDepthwiseArgs& a) {
  if (a.depthwise.dtype == DType::bf16) return expand_depthwise_of<Bf16, Bf16Operands>(a);
  expand_depthwise_of<float, F32Operands>(a);
}

}  // namespace adfast::kernels::ADFAST_ISA
