// Layer normalisation over the last axis.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

static void layer_norm(const LayerNormArgs& a) {
  int64_t whole = a.width / kLanes * kLanes;
  for (int64_t r = 0; r < a.rows; r++) {
    const float* x = a.x + r * a.width;
    const float* residual = a.residual ? a.residual + r * a.width : nullptr;
    Vec total = set1(0.0f);
    over(a.width, [&](int64_t i, auto lanes) { total = total + load(x + i, lanes); });
    float mean = sum(total) / static_cast<float>(a.width);
    // Two passes, not E[x^2] - E[x]^2: that form cancels when |mean| >> std.
    Vec shift = set1(mean), squares = set1(0.0f);
    for (int64_t i = 0; i < whole; i += kLanes) {
      Vec d = load(x + i) - shift;
      squares = fma(d, d, squares);
    }
    float variance = sum(squares);
    for (int64_t i = whole; i < a.width; i++) variance += (x[i] - mean) * (x[i] - mean);
    variance /= static_cast<float>(a.width);
    Vec factor = set1(1.0f / __builtin_sqrtf(variance + a.eps));
    over(a.width, [&](int64_t i, auto lanes) {
      Vec y = fma((load(x + i, lanes) - shift) * factor, load(a.gamma + i, lanes),
                  load(a.beta + i, lanes));
      if (residual) y = y + load(residual + i, lanes);
      store_as(a.out, a.out_dtype, a.out_levels, r * a.width + i, y, lanes);
    });
  }
}

}  // namespace adfast::kernels::ADFAST_ISA
