// Multi-head attention over up to a few thousand tokens, and softmax.
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

// One head: its keys and values are packed once, contiguous and padded, and stay in the L2 cache
// while a few queries after the other read them; those queries' weights stay in the L1 cache. The
// softmax is taken to the base 2 (the queries are scaled by log2 e) and divided by its sum at the
// very end.
template <class Operands>
static void attention_head(const AttentionArgs& a, int64_t head) {
  using Operand = typename Operands::Type;
  using Block = Products<Operands>;
  constexpr int64_t kRows = Block::rows, kPanel = Block::panel;
  const int64_t dim = a.dim / a.heads, value_dim = a.value_dim / a.heads;
  const int64_t columns = round_up(a.keys, Block::columns), width = round_up(value_dim, kLanes);
  const int64_t depth = round_up(words_of(dim, Operands::pairs), Block::depth);
  const int64_t value_rows = round_up(words_of(a.keys, Operands::pairs), Block::depth);
  const int64_t stride = weight_row(columns);
  float* keys = a.scratch;                       // panels of kPanel keys: [depth][kPanel] words
  float* values = keys + columns * depth;        // [keys, in words][width]
  float* queries = values + value_rows * width;  // [kRows][depth] words
  float* weights = queries + kRows * depth;      // [kRows][stride]
  float* sums = weights + kRows * stride;        // [kRows][width]
  if (Block::depth > 1) {
    // What no operand is written to counts as zero.
    fill(queries, kRows * depth, 0.0f);
    fill(values + words_of(a.keys, Operands::pairs) * width,
         (value_rows - words_of(a.keys, Operands::pairs)) * width, 0.0f);
  }
  for (int64_t i = 0; i < columns; i++) {
    float* to = keys + i / kPanel * kPanel * depth + i % kPanel;
    const float* from = a.k + smaller(i, a.keys - 1) * a.dim + head * dim;
    if constexpr (Operands::pairs) {
      store_operands(from, dim, 1.0f, reinterpret_cast<Operand*>(queries));
      from = queries;
    }
    for (int64_t d = 0; d < depth; d++) to[d * kPanel] = from[d];
  }
  for (int64_t i = 0; i < words_of(a.keys, Operands::pairs); i++) {
    if constexpr (Operands::pairs) {
      const float* even = a.v + 2 * i * a.value_dim + head * value_dim;
      const float* odd = even + (2 * i + 1 < a.keys ? a.value_dim : 0);  // the last weighs nothing
      over(value_dim, [&](int64_t c, auto lanes) {
        store(values + i * width + c, pair(load(even + c, lanes), load(odd + c, lanes)));
      });
    } else {
      const float* from = a.v + i * a.value_dim + head * value_dim;
      over(value_dim,
           [&](int64_t c, auto lanes) { store(values + i * width + c, load(from + c, lanes)); });
    }
  }
  const float scale = a.scale * 1.44269504f;
  for (int64_t first = a.query_begin; first < a.query_end; first += kRows) {
    const int64_t rows = smaller(kRows, a.query_end - first);
    for (int64_t r = 0; r < kRows; r++) {
      const float* from = a.q + (first + smaller(r, rows - 1)) * a.dim + head * dim;
      store_operands(from, dim, scale, reinterpret_cast<Operand*>(queries + r * depth));
    }
    Block::multiply(queries, depth, {keys, kPanel, kPanel * depth}, depth, columns, weights,
                    stride);
    Vec most[kRows];
    for (int64_t r = 0; r < rows; r++) {
      float* row = weights + r * stride;
      // Keys beyond the last repeat it: they do not change the maximum.
      most[r] = load(row);
      for (int64_t i = kLanes; i < columns; i += kLanes) most[r] = max(load(row + i), most[r]);
      for (int64_t i = a.keys; i < columns; i++) row[i] = -infinity();
    }
    float factor[kRows];
    for (int64_t r = 0; r < rows; r++) {
      float* row = weights + r * stride;
      const Vec top = set1(largest(most[r]));
      Vec total = set1(0.0f);
      for (int64_t i = 0; i < columns; i += kLanes) {
        Vec weight = Operands::exp2(load(row + i) - top);
        total = total + weight;
        store_fast(reinterpret_cast<Operand*>(row) + i, weight);  // never past what was read
      }
      factor[r] = 1.0f / sum(total);
    }
    Block::multiply(weights, stride, {values, width, kPanel}, value_rows, width, sums, width);
    for (int64_t r = 0; r < rows; r++) {
      float* out = a.out + (first + r) * a.value_dim + head * value_dim;
      const Vec by = set1(factor[r]);
      over(value_dim,
           [&](int64_t c, auto lanes) { store(out + c, load(sums + r * width + c) * by, lanes); });
    }
  }
}

template <class Operands>
static void attention_heads(const AttentionArgs& a) {
  [[maybe_unused]] const Products<Operands> ready{};
  for (int64_t head = a.head_begin; head < a.head_end; head++) attention_head<Operands>(a, head);
}

static void attention(const AttentionArgs& a) {
  a.operands == DType::f32 ? attention_heads<F32Operands>(a) : attention_heads<Bf16Operands>(a);
}

}  // namespace adfast::kernels::ADFAST_ISA
