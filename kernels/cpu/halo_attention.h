// HaloAE's attention within blocks of pixels and a margin around each.
#pragma once
#include "attention.h"

namespace adfast::kernels::ADFAST_ISA {

static inline void fill(float* out, int64_t n, float value) {
  over(n, [&](int64_t i, auto lanes) { store(out + i, set1(value), lanes); });
}

// out[r][i] = q[r] . table[..][first[r] + i] for i below count, kQueryRows rows at once.
static inline void position_terms(const float* q, int64_t dim, const float* table, int64_t length,
                                  const int64_t* first, int64_t count, float* out, int64_t stride) {
  over(count, [&](int64_t i, auto lanes) {
    Vec total[kQueryRows];
    const float* from[kQueryRows];
#pragma GCC unroll 8
    for (int r = 0; r < kQueryRows; r++) {
      total[r] = set1(0.0f);
      from[r] = table + first[r] + i;
    }
    for (int64_t d = 0; d < dim; d++) {
#pragma GCC unroll 8
      for (int r = 0; r < kQueryRows; r++) {
        total[r] = fma(set1(q[r * dim + d]), load(from[r] + d * length, lanes), total[r]);
      }
    }
    for (int r = 0; r < kQueryRows; r++) store(out + r * stride + i, total[r], lanes);
  });
}

// One block and one head of it. The keys inside the map are packed row by row, each row padded to
// whole vectors, transposed; a key that is masked or padding gets a logit of -infinity from the
// terms of its row or column, which the sums of q . k begin with. As in attention.h the softmax is
// taken to the base 2 and divided by its sum at the very end.
template <class T, class Operands>
struct HaloBlock {
  using Operand = typename Operands::Type;

  const HaloAttentionArgs& a;
  const int64_t side = a.block + 2 * a.halo, length = 2 * side - 1;
  const int64_t dim = a.dim / a.heads, value_dim = a.value_dim / a.heads;
  const int64_t depth = words_of(dim, Operands::pairs);
  const int64_t head, top, left;  // of the block's first query
  // The keys inside the map, as offsets from the first one of the square.
  const int64_t row_begin = larger(0, a.halo - top);
  const int64_t row_end = smaller(side, a.height + a.halo - top);
  const int64_t column_begin = larger(0, a.halo - left);
  const int64_t column_end = smaller(side, a.width + a.halo - left);
  const int64_t row = round_up(side, kLanes), row_vecs = row / kLanes;
  const int64_t keys = (row_end - row_begin) * row, columns = round_up(keys, kPanel);
  const int64_t rows = (columns + row - 1) / row, width = round_up(value_dim, kLanes);
  // Scratch.
  float* const key = a.scratch;                   // panels of kPanel keys: [depth][kPanel] words
  float* const value = key + columns * dim;       // [keys, in words][width]
  float* const weight = value + columns * width;  // [kQueryRows][columns]
  float* const across = weight + kQueryRows * columns;  // [kQueryRows][row]
  float* const down = across + kQueryRows * row;        // [kQueryRows][rows]
  float* const queries = down + kQueryRows * rows;      // [block * block, rounded up][dim]
  float* const narrow = queries + round_up(a.block * a.block, kQueryRows) * dim;  // a few, in words

  int64_t pixel(int64_t i) const { return (top + i / a.block) * a.width + left + i % a.block; }

  void pack() const {
    fill(key, columns * depth, 0.0f);
    fill(value, words_of(keys, Operands::pairs) * width, 0.0f);
    fill(across, kQueryRows * row, -infinity());
    fill(down, kQueryRows * rows, -infinity());
    for (int64_t m = row_begin; m < row_end; m++) {
      for (int64_t n = column_begin; n < column_end; n++) {
        const int64_t from = (top + m - a.halo) * a.width + left + n - a.halo;
        const int64_t to = (m - row_begin) * row + n;
        const T* k = static_cast<const T*>(a.k) + from * a.dim + head * dim;
        const T* v = static_cast<const T*>(a.v) + from * a.value_dim + head * value_dim;
        // The next head lies beside this one and comes next.
        __builtin_prefetch(k + dim);
        __builtin_prefetch(v + value_dim);
        float* packed = key + to / kPanel * kPanel * depth + to % kPanel;
        if constexpr (Operands::pairs) {
          auto* half = reinterpret_cast<Operand*>(packed);
          for (int64_t d = 0; d < dim; d++) half[d / 2 * 2 * kPanel + d % 2] = k[d];
          half = reinterpret_cast<Operand*>(value + to / 2 * width) + to % 2;
          for (int64_t c = 0; c < value_dim; c++) half[2 * c] = v[c];
        } else {
          for (int64_t d = 0; d < dim; d++) packed[d * kPanel] = widened(k[d]);
          over(value_dim, [&](int64_t c, auto lanes) {
            store(value + to * width + c, load(v + c, lanes), lanes);
          });
        }
      }
    }
    const Vec scale = set1(a.scale * 1.44269504f);
    const int64_t count = a.block * a.block;
    for (int64_t i = 0; i < round_up(count, kQueryRows); i++) {
      const T* q = static_cast<const T*>(a.q) + pixel(smaller(i, count - 1)) * a.dim + head * dim;
      __builtin_prefetch(q + dim);
      over(dim, [&](int64_t d, auto lanes) {
        store(queries + i * dim + d, load(q + d, lanes) * scale, lanes);
      });
    }
  }

  // What the logits of kQueryRows queries begin with; the masked places are never written.
  void prepare(int64_t first, const float* query) const {
    int64_t up[kQueryRows], left_of[kQueryRows];
    for (int64_t r = 0; r < kQueryRows; r++) {
      const int64_t i = smaller(first + r, a.block * a.block - 1);
      up[r] = row_begin - i / a.block + side - 1;
      left_of[r] = column_begin - i % a.block + side - 1;
    }
    position_terms(query, dim, a.rows, length, up, row_end - row_begin, down, rows);
    position_terms(query, dim, a.columns, length, left_of, column_end - column_begin,
                   across + column_begin, row);
  }

  // Stores out = sums * factor for `count` queries from `first`.
  template <int kVecs>
  void put(const Vec (*sums)[kVecs], const float* factor, int64_t first, int64_t count,
           int64_t column) const {
    for (int64_t r = 0; r < count; r++) {
      T* out = static_cast<T*>(a.out) + pixel(first + r) * a.value_dim + head * value_dim + column;
      for (int v = 0; v < kVecs; v++) {
        const int64_t left_over = value_dim - column - v * kLanes;
        const Vec y = sums[r][v] * set1(factor[r]);
        if (left_over >= kLanes) {
          store(out + v * kLanes, y);
        } else {
          store(out + v * kLanes, y, Some{left_over});
        }
      }
    }
  }

  template <int kVecs>
  void weigh(const float* factor, int64_t first, int64_t count, int64_t column) const {
    Vec sums[kQueryRows][kVecs];
    for (int r = 0; r < kQueryRows; r++) {
      for (int v = 0; v < kVecs; v++) sums[r][v] = set1(0.0f);
    }
    accumulate<Operands, kVecs>(weight, columns, value + column, width,
                                words_of(keys, Operands::pairs), sums);
    put<kVecs>(sums, factor, first, count, column);
  }

  void attend(int64_t first, int64_t count) const {
    const float* query = queries + first * dim;
    prepare(first, query);
    if constexpr (Operands::pairs) {
      for (int64_t r = 0; r < kQueryRows; r++) {
        store_operands(query + r * dim, dim, 1.0f, reinterpret_cast<Operand*>(narrow + r * depth));
      }
      query = narrow;
    }
    Vec most[kQueryRows];
    for (int r = 0; r < kQueryRows; r++) most[r] = set1(-infinity());
    int64_t m = 0, part = 0;  // row, and vector in it, of the panel's first vector
    for (int64_t i = 0; i < columns; i += kPanel) {
      int64_t row_of[kTileVecs], part_of[kTileVecs];
      for (int v = 0; v < kTileVecs; v++) {
        row_of[v] = m;
        part_of[v] = part * kLanes;
        if (++part == row_vecs) part = 0, m++;
      }
      Vec sums[kQueryRows][kTileVecs];
#pragma GCC unroll 8
      for (int r = 0; r < kQueryRows; r++) {
#pragma GCC unroll 4
        for (int v = 0; v < kTileVecs; v++) {
          sums[r][v] = load(across + r * row + part_of[v]) + set1(down[r * rows + row_of[v]]);
        }
      }
      accumulate<Operands, kTileVecs>(query, depth, key + i * depth, kPanel, depth, sums);
#pragma GCC unroll 8
      for (int r = 0; r < kQueryRows; r++) {
#pragma GCC unroll 4
        for (int v = 0; v < kTileVecs; v++) {
          store(weight + r * columns + i + v * kLanes, sums[r][v]);
          most[r] = max(sums[r][v], most[r]);
        }
      }
    }
    float factor[kQueryRows];
    for (int r = 0; r < kQueryRows; r++) {
      float* weights = weight + r * columns;
      const Vec shift = set1(largest(most[r]));
      Vec total = set1(0.0f);
      for (int64_t i = 0; i < keys; i += kLanes) {
        const Vec w = exp2_negative(load(weights + i) - shift);
        total = total + w;
        store_fast(reinterpret_cast<Operand*>(weights) + i, w);  // never past what was read
      }
      if (Operands::pairs && keys % 2 != 0) {
        store_fast(reinterpret_cast<Operand*>(weights) + keys, set1(0.0f));
      }
      factor[r] = 1.0f / sum(total);
    }
    for (int64_t c = 0; c < width; c += kPanel) {
      const int64_t vecs = smaller(kTileVecs, (width - c) / kLanes);
      if (vecs == 1) weigh<1>(factor, first, count, c);
      if (vecs == 2) weigh<2>(factor, first, count, c);
      if constexpr (kTileVecs > 2) {
        if (vecs == 3) weigh<3>(factor, first, count, c);
        if (vecs == 4) weigh<4>(factor, first, count, c);
      }
    }
  }

  // Every query reads the mean of all values, or zeros; a value that is not a number stays one.
  void average() const {
    const bool all_inside = (row_end - row_begin) * (column_end - column_begin) == side * side;
    const float factor = all_inside ? 1.0f / static_cast<float>(side * side) : 0.0f;
    for (int64_t c = 0; c < width; c += kLanes) {
      Vec total[1][1] = {{set1(0.0f)}};
      for (int64_t i = 0; i < keys; i++) total[0][0] = total[0][0] + load(value + i * width + c);
      for (int64_t i = 0; i < a.block * a.block; i++) put<1>(total, &factor, i, 1, c);
    }
  }

  void run() const {
    pack();
    if (a.legacy_mask) return average();
    const int64_t count = a.block * a.block;
    for (int64_t i = 0; i < count; i += kQueryRows) attend(i, smaller(kQueryRows, count - i));
  }
};

static void halo_attention(const HaloAttentionArgs& a) {
  for (int64_t task = a.task_begin; task < a.task_end; task++) {
    const int64_t head = task % a.heads, block = task / a.heads, across = a.width / a.block;
    const int64_t top = block / across * a.block, left = block % across * a.block;
    if (a.dtype == DType::f32) {
      HaloBlock<float, F32Operands>{.a = a, .head = head, .top = top, .left = left}.run();
    } else if (a.operands == DType::f32 || a.legacy_mask) {
      HaloBlock<Bf16, F32Operands>{.a = a, .head = head, .top = top, .left = left}.run();
    } else {
      HaloBlock<Bf16, Bf16Operands>{.a = a, .head = head, .top = top, .left = left}.run();
    }
  }
}

}  // namespace adfast::kernels::ADFAST_ISA
