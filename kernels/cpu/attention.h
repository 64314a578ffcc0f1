// Multi-head attention over short sequences (tokens, not pixels), and softmax.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

static inline void softmax_row(const float* x, int64_t width, float* out) {
  int64_t whole = width / kLanes * kLanes;
  Vec most = set1(-infinity());
  for (int64_t i = 0; i < whole; i += kLanes) most = max(load(x + i), most);
  float top = largest(most);
  for (int64_t i = whole; i < width; i++) top = x[i] > top ? x[i] : top;
  // The maximum may miss a NaN; the NaN's own exponential, and so the sum, does not.
  Vec shift = set1(top), total = set1(0.0f);
  over(width,
       [&](int64_t i, auto lanes) { store(out + i, exp(load(x + i, lanes) - shift), lanes); });
  over(width, [&](int64_t i, auto lanes) { total = total + load(out + i, lanes); });
  Vec factor = set1(1.0f / sum(total));
  over(width, [&](int64_t i, auto lanes) { store(out + i, load(out + i, lanes) * factor, lanes); });
}

static void softmax(const SoftmaxArgs& a) {
  for (int64_t r = 0; r < a.rows; r++) softmax_row(a.x + r * a.width, a.width, a.out + r * a.width);
}

static void attention(const AttentionArgs& a) {
  int64_t head_dim = a.dim / a.heads, value_dim = a.value_dim / a.heads, width = round_up8(a.keys);
  for (int64_t h = 0; h < a.heads; h++) {
    const float* k = a.k + h * head_dim;
    for (int64_t query = 0; query < a.queries; query++) {
      const float* q = a.q + query * a.dim + h * head_dim;
      for (int64_t first = 0; first < a.keys; first += 8) {
        Eight dots;
        dot8<1>(q, head_dim, Rows8(k, first, a.keys, a.dim), &dots);
        store8(a.scratch + first, fma8(dots, set8(a.scale), set8(0.0f)));
      }
      for (int64_t i = a.keys; i < width; i++) a.scratch[i] = -infinity();
      softmax_rows8(a.scratch, 1, width);
      const float* v = a.v + h * value_dim;
      float* out = a.out + query * a.value_dim + h * value_dim;
      over(value_dim, [&](int64_t c, auto lanes) {
        Vec acc = set1(0.0f);
        for (int64_t i = 0; i < a.keys; i++) {
          acc = fma(set1(a.scratch[i]), load(v + i * a.value_dim + c, lanes), acc);
        }
        store(out + c, acc, lanes);
      });
    }
  }
}

}  // namespace adfast::kernels::ADFAST_ISA
