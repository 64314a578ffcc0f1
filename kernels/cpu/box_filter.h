// Means over a sliding window of one map, rows first: every sum is taken anew, so that a result
// does not depend on what lies beside its window, nor on the range of rows asked for.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

static void box_filter(const BoxFilterArgs& a) {
  const int64_t out_width = a.width - a.kernel_width + 1;
  const Vec share = set1(1.0f / (static_cast<float>(a.kernel_height) * a.kernel_width));
  for (int64_t y = a.row_begin; y < a.row_end; y++) {
    const float* top = a.src + y * a.width;
    over(a.width, [&](int64_t x, auto lanes) {
      Vec total = load(top + x, lanes);
      for (int64_t i = 1; i < a.kernel_height; i++) {
        total = total + load(top + i * a.width + x, lanes);
      }
      store(a.scratch + x, total, lanes);
    });
    over(out_width, [&](int64_t x, auto lanes) {
      Vec total = load(a.scratch + x, lanes);
      for (int64_t i = 1; i < a.kernel_width; i++) total = total + load(a.scratch + x + i, lanes);
      store(a.dst + y * out_width + x, total * share, lanes);
    });
  }
}

}  // namespace adfast::kernels::ADFAST_ISA
