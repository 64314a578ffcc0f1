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

constexpr int kTileVecs = 2 * kColumns;  // vectors of keys, or of values, next to each other
constexpr int64_t kPanel = kTileVecs * kLanes;

// sums[r] += left[r][0..depth) . right[0..depth)[...], depth in words: kQueryRows rows by kVecs
// vectors, held in registers. Every row is summed alike, in the order of depth.
template <class Operands, int kVecs>
static inline __attribute__((always_inline)) void accumulate(const float* left, int64_t left_stride,
                                                             const float* right,
                                                             int64_t right_stride, int64_t depth,
                                                             Vec (*sums)[kVecs]) {
  Vec acc[kQueryRows][kVecs];
#pragma GCC unroll 8
  for (int r = 0; r < kQueryRows; r++) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; v++) acc[r][v] = sums[r][v];
  }
  for (int64_t i = 0; i < depth; i++) {
    Vec b[kVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; v++) b[v] = load(right + i * right_stride + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kQueryRows; r++) {
      Vec a = set1(left[r * left_stride + i]);
#pragma GCC unroll 4
      for (int v = 0; v < kVecs; v++) acc[r][v] = Operands::add_products(a, b[v], acc[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kQueryRows; r++) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; v++) sums[r][v] = acc[r][v];
  }
}

// The same from nothing.
template <class Operands, int kVecs>
static inline __attribute__((always_inline)) void product(const float* left, int64_t left_stride,
                                                          const float* right, int64_t right_stride,
                                                          int64_t depth, Vec (*sums)[kVecs]) {
#pragma GCC unroll 8
  for (int r = 0; r < kQueryRows; r++) {
#pragma GCC unroll 4
    for (int v = 0; v < kVecs; v++) sums[r][v] = set1(0.0f);
  }
  accumulate<Operands, kVecs>(left, left_stride, right, right_stride, depth, sums);
}

// out[r] = weights[r] . values * factor[r] for kVecs vectors of the values' columns, the last one
// of `tail` floats; rows beyond `rows` are dropped.
template <class Operands, int kVecs>
static inline void weigh(const float* weights, int64_t columns, const float* values, int64_t width,
                         int64_t keys, const float* factor, int64_t rows, int64_t tail, float* out,
                         int64_t stride) {
  Vec sums[kQueryRows][kVecs];
  product<Operands, kVecs>(weights, columns, values, width, words_of(keys, Operands::pairs), sums);
  for (int64_t r = 0; r < rows; r++) {
    Vec by = set1(factor[r]);
    for (int v = 0; v + 1 < kVecs; v++) store(out + r * stride + v * kLanes, sums[r][v] * by);
    float* last = out + r * stride + (kVecs - 1) * kLanes;
    if (tail == kLanes) {
      store(last, sums[r][kVecs - 1] * by);
    } else {
      store(last, sums[r][kVecs - 1] * by, Some{tail});
    }
  }
}

// One head: its keys and values are packed once, contiguous and padded, and stay in the L2 cache
// while six queries after the other read them; six queries' weights stay in the L1 cache. The
// softmax is taken to the base 2 (the queries are scaled by log2 e) and divided by its sum at the
// very end.
template <class Operands>
static void attention_head(const AttentionArgs& a, int64_t head) {
  const int64_t dim = a.dim / a.heads, value_dim = a.value_dim / a.heads;
  const int64_t columns = round_up(a.keys, kPanel), width = round_up(value_dim, kLanes);
  using Operand = typename Operands::Type;
  const int64_t depth = words_of(dim, Operands::pairs);
  float* keys = a.scratch;  // panels of kPanel keys: [depth][kPanel] words
  float* values = keys + round_up(a.keys, kMaxPanel) * dim;           // [keys, in words][width]
  float* queries = values + a.keys * round_up(value_dim, kMaxLanes);  // [kQueryRows][depth] words
  float* weights = queries + kQueryRows * dim;                        // [kQueryRows][columns]
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
  for (int64_t first = a.query_begin; first < a.query_end; first += kQueryRows) {
    const int64_t rows = smaller(kQueryRows, a.query_end - first);
    for (int64_t r = 0; r < kQueryRows; r++) {
      const float* from = a.q + (first + smaller(r, rows - 1)) * a.dim + head * dim;
      store_operands(from, dim, scale, reinterpret_cast<Operand*>(queries + r * depth));
    }
    for (int64_t i = 0; i < columns; i += kPanel) {
      Vec sums[kQueryRows][kTileVecs];
      product<Operands, kTileVecs>(queries, depth, keys + i * depth, kPanel, depth, sums);
      for (int r = 0; r < kQueryRows; r++) {
        for (int v = 0; v < kTileVecs; v++) {
          store(weights + r * columns + i + v * kLanes, sums[r][v]);
        }
      }
    }
    float factor[kQueryRows];
    for (int64_t r = 0; r < kQueryRows; r++) {
      float* row = weights + r * columns;
      // Keys beyond the last repeat it: they do not change the maximum.
      Vec most = load(row);
      for (int64_t i = kLanes; i < columns; i += kLanes) most = max(load(row + i), most);
      for (int64_t i = a.keys; i < columns; i++) row[i] = -infinity();
      Vec top = set1(largest(most)), total = set1(0.0f);
      for (int64_t i = 0; i < columns; i += kLanes) {
        Vec weight = exp2_negative(load(row + i) - top);
        total = total + weight;
        store_fast(reinterpret_cast<Operand*>(row) + i, weight);  // never past what was read
      }
      factor[r] = 1.0f / sum(total);
    }
    for (int64_t c = 0; c < width; c += kPanel) {
      float* out = a.out + first * a.value_dim + head * value_dim + c;
      const int64_t vecs = smaller(kTileVecs, (width - c) / kLanes);
      const int64_t tail = smaller(kLanes, value_dim - c - (vecs - 1) * kLanes);
      const auto run = vecs == 1   ? weigh<Operands, 1>
                       : vecs == 2 ? weigh<Operands, 2>
                       : vecs == 3 ? weigh<Operands, 3>
                                   : weigh<Operands, 4>;
      run(weights, columns, values + c, width, a.keys, factor, rows, tail, out, a.value_dim);
    }
  }
}

static void attention(const AttentionArgs& a) {
  const auto run =
      a.operands == DType::f32 ? attention_head<F32Operands> : attention_head<Bf16Operands>;
  for (int64_t head = a.head_begin; head < a.head_end; head++) run(a, head);
}

}  // namespace adfast::kernels::ADFAST_ISA
