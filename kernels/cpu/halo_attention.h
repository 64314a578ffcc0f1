// HaloAE's attention within blocks of pixels and a margin around each.
#pragma once
#include "attention.h"

namespace adfast::kernels::ADFAST_ISA {

// A table of positions, [dim][length], as the right operand of a product.
template <class Operands>
static inline void pack_table(const float* table, int64_t dim, int64_t length, int64_t depth,
                              float* out) {
  const int64_t row = halo_table(length);
  fill(out, depth * row, 0.0f);
  for (int64_t d = 0; d < words_of(dim, Operands::pairs); d++) {
    over(length, [&](int64_t i, auto lanes) {
      if constexpr (Operands::pairs) {
        const float* low = table + 2 * d * length + i;
        const Vec high = 2 * d + 1 < dim ? load(low + length, lanes) : set1(0.0f);
        store(out + d * row + i, pair(load(low, lanes), high), lanes);
      } else {
        store(out + d * row + i, load(table + d * length + i, lanes), lanes);
      }
    });
  }
}

// Two neighbours.
static inline float word_of(const Bf16* p) {
  float word;
  __builtin_memcpy(&word, p, sizeof(word));
  return word;
}

// One block and one head of it. The keys inside the map are packed row by row, each row padded to
// whole vectors, transposed; a key that is masked or padding gets a logit of -infinity from the
// terms of its column. As in attention.h the softmax is taken to the base 2 and divided by its sum
// at the very end.
template <class T, class Operands>
struct HaloBlock {
  using Operand = typename Operands::Type;
  using Block = Products<Operands>;
  static constexpr bool pairs = Operands::pairs;

  const HaloAttentionArgs& a;
  const int64_t side = a.block + 2 * a.halo, length = 2 * side - 1;
  const int64_t dim = a.dim / a.heads, value_dim = a.value_dim / a.heads;
  const int64_t depth = round_up(words_of(dim, pairs), Block::depth);
  const int64_t head, top, left;  // of the block's first query
  // The keys inside the map, as offsets from the first one of the square.
  const int64_t row_begin = larger(0, a.halo - top);
  const int64_t row_end = smaller(side, a.height + a.halo - top);
  const int64_t column_begin = larger(0, a.halo - left);
  const int64_t column_end = smaller(side, a.width + a.halo - left);
  const int64_t row = round_up(side, larger(kLanes, 2)), table = halo_table(length);
  const int64_t keys = (row_end - row_begin) * row, columns = round_up(keys, Block::columns);
  const int64_t value_rows = round_up(words_of(keys, pairs), Block::depth);
  const int64_t stride = weight_row(columns), width = round_up(value_dim, kLanes);
  // Scratch. The tables of positions are the same for all blocks and heads.
  float* const row_table = a.scratch;  // [depth][table] words
  float* const column_table = row_table + depth * table;
  float* const key = column_table + depth * table;  // panels of keys: [depth][panel] words
  float* const value = key + columns * depth;       // [value_rows][width] words
  float* const query = value + value_rows * width;  // [block * block + Block::rows][depth] words
  float* const weight = query + (a.block * a.block + Block::rows) * depth;  // [Block::rows][stride]
  float* const down = weight + Block::rows * stride;  // [Block::rows][table]: terms of rows of keys
  float* const across = down + Block::rows * table;   // [Block::rows][table]: and of columns
  float* const mask = across + Block::rows * table;   // [row]: 0, or -infinity for no key
  float* const sums = mask + row;                     // [Block::rows][width]

  int64_t pixel(int64_t i) const { return (top + i / a.block) * a.width + left + i % a.block; }

  void pack_tables() const {
    pack_table<Operands>(a.rows, dim, length, depth, row_table);
    pack_table<Operands>(a.columns, dim, length, depth, column_table);
  }

  const T* key_at(int64_t m, int64_t n) const { return at(a.k, m, n, a.dim, dim); }
  const T* value_at(int64_t m, int64_t n) const { return at(a.v, m, n, a.value_dim, value_dim); }

  void pack() const {
    fill(key, columns * depth, 0.0f);
    fill(value, value_rows * width, 0.0f);
    fill(mask, row, -infinity());
    fill(mask + column_begin, column_end - column_begin, 0.0f);
    for (int64_t m = row_begin; m < row_end; m++) {
      const int64_t first = (m - row_begin) * row;
      for (int64_t n = column_begin; n < column_end; n++) {
        const T* k = key_at(m, n);
        float* packed =
            key + (first + n) / Block::panel * Block::panel * depth + (first + n) % Block::panel;
        if constexpr (pairs) {
          for (int64_t d = 0; d < dim / 2; d++) packed[d * Block::panel] = word_of(k + 2 * d);
          if (dim % 2 != 0) packed[dim / 2 * Block::panel] = float_of(k[dim - 1].bits);
        } else {
          for (int64_t d = 0; d < dim; d++) packed[d * Block::panel] = widened(k[d]);
        }
      }
      if constexpr (pairs) {
        for (int64_t n = column_begin / 2 * 2; n < column_end; n += 2) {
          over(value_dim, [&](int64_t c, auto lanes) {
            const Vec none = set1(0.0f);
            const Vec even = n < column_begin ? none : load(value_at(m, n) + c, lanes);
            const Vec odd = n + 1 == column_end ? none : load(value_at(m, n + 1) + c, lanes);
            store(value + (first + n) / 2 * width + c, pair(even, odd), lanes);
          });
        }
      } else {
        for (int64_t n = column_begin; n < column_end; n++) {
          over(value_dim, [&](int64_t c, auto lanes) {
            store(value + (first + n) * width + c, load(value_at(m, n) + c, lanes), lanes);
          });
        }
      }
    }
    const int64_t count = a.block * a.block;
    fill(query, (count + Block::rows) * depth, 0.0f);
    for (int64_t i = 0; i < count; i++) {
      const T* q = static_cast<const T*>(a.q) + pixel(i) * a.dim + head * dim;
      __builtin_prefetch(q + dim);
      store_operands(q, dim, a.scale * 1.44269504f, reinterpret_cast<Operand*>(query + i * depth));
    }
  }

  // `count` queries from `first`.
  void attend(int64_t first, int64_t count) const {
    const float* q = query + first * depth;
    const int64_t places = round_up(length, kLanes);
    Block::multiply(q, depth, {row_table, table, Block::panel}, depth, places, down, table);
    Block::multiply(q, depth, {column_table, table, Block::panel}, depth, places, across, table);
    Block::multiply(q, depth, {key, Block::panel, Block::panel * depth}, depth, columns, weight,
                    stride);
    Vec most[Block::rows];
    for (int64_t r = 0; r < count; r++) {
      float* weights = weight + r * stride;
      const int64_t i = (first + r) / a.block, j = (first + r) % a.block;
      const float* row_terms = down + r * table + row_begin + side - 1 - i;
      const float* column_terms = across + r * table + side - 1 - j;
      most[r] = set1(-infinity());
      for (int64_t n = 0; n < row; n += kLanes) {
        const Vec term =
            select_less(load(mask + n), set1(0.0f), set1(-infinity()), load(column_terms + n));
        for (int64_t m = 0; m < row_end - row_begin; m++) {
          float* logit = weights + m * row + n;
          const Vec sum = load(logit) + (term + set1(row_terms[m]));
          store(logit, sum);
          most[r] = max(sum, most[r]);
        }
      }
    }
    float factor[Block::rows];
    for (int64_t r = 0; r < count; r++) {
      float* weights = weight + r * stride;
      const Vec shift = set1(largest(most[r]));
      Vec total = set1(0.0f);
      for (int64_t k = 0; k < keys; k += kLanes) {
        const Vec w = Operands::exp2(load(weights + k) - shift);
        total = total + w;
        store_fast(reinterpret_cast<Operand*>(weights) + k, w);  // never past what was read
      }
      for (int64_t k = keys; k < columns; k += kLanes) {
        store_fast(reinterpret_cast<Operand*>(weights) + k, set1(0.0f));
      }
      factor[r] = 1.0f / sum(total);
    }
    Block::multiply(weight, stride, {value, width, Block::panel}, value_rows, width, sums, width);
    for (int64_t r = 0; r < count; r++) put(sums + r * width, factor[r], first + r);
  }

  // Query i's answer: x * factor.
  void put(const float* x, float factor, int64_t i) const {
    T* out = static_cast<T*>(a.out) + pixel(i) * a.value_dim + head * value_dim;
    over(value_dim,
         [&](int64_t c, auto lanes) { store(out + c, load(x + c, lanes) * set1(factor), lanes); });
  }

  // Every query reads the mean of all values, or zeros; a value that is not a number stays one.
  void average() const {
    const bool all_inside = (row_end - row_begin) * (column_end - column_begin) == side * side;
    const float factor = all_inside ? 1.0f / static_cast<float>(side * side) : 0.0f;
    fill(sums, width, 0.0f);
    for (int64_t k = 0; k < keys; k++) {
      over(width,
           [&](int64_t c, auto) { store(sums + c, load(sums + c) + load(value + k * width + c)); });
    }
    for (int64_t i = 0; i < a.block * a.block; i++) put(sums, factor, i);
  }

  void run() const {
    pack();
    if (a.legacy_mask) return average();
    const int64_t count = a.block * a.block;
    for (int64_t i = 0; i < count; i += Block::rows) attend(i, smaller(Block::rows, count - i));
  }

 private:
  const T* at(const void* map, int64_t m, int64_t n, int64_t channels, int64_t part) const {
    const int64_t y = top + m - a.halo, x = left + n - a.halo;
    return static_cast<const T*>(map) + (y * a.width + x) * channels + head * part;
  }
};

template <class T, class Operands>
static void halo_blocks(const HaloAttentionArgs& a) {
  [[maybe_unused]] const Products<Operands> ready{};
  for (int64_t task = a.task_begin; task < a.task_end; task++) {
    const int64_t head = task % a.heads, block = task / a.heads, across = a.width / a.block;
    const int64_t top = block / across * a.block, left = block % across * a.block;
    const HaloBlock<T, Operands> work{.a = a, .head = head, .top = top, .left = left};
    if (task == a.task_begin) work.pack_tables();
    work.run();
  }
}

static void halo_attention(const HaloAttentionArgs& a) {
  if (a.dtype == DType::f32) return halo_blocks<float, F32Operands>(a);
  if (a.operands == DType::f32 || a.legacy_mask) return halo_blocks<Bf16, F32Operands>(a);
  halo_blocks<Bf16, Bf16Operands>(a);
}

}  // namespace adfast::kernels::ADFAST_ISA
