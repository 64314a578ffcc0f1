// Attention of one head, 32 queries against tiles of 64 keys, with an online softmax (Milakov and
// Gimelshein, 2018; Dao et al., 2022): what attention.cu and halo_attention.cu share.
//
// A block of 128 threads, 8 down by 16 across. A thread computes the logits of four queries and
// four keys; a query's sixteen threads are half a warp, so that its maximum takes shuffles only and
// its weights reach the second product through shared memory without a barrier of the block. There
// the thread computes four queries and kColumns columns of the values. Products are plain f32.
//
// Heads wider than kDepth are multiplied in stretches of kDepth, values wider than 16 kColumns by
// several blocks, which then compute the logits again.
#pragma once
#include "device.h"

namespace adfast::kernels::cuda {

constexpr int kTileQueries = 32, kTileKeys = 64, kTileThreads = 128;
constexpr float kLog2E = 1.44269504f;

template <int kDepth, int kColumns>
struct Tile {
  static constexpr int kValueWidth = 16 * kColumns;
  // Rows that 16 threads read four floats of at a time: a stride of 4 modulo 32 banks.
  static constexpr int kStride = kDepth + 4, kWeightStride = kTileKeys + 4;
  static constexpr int kQuery = 0, kKey = kQuery + kTileQueries * kStride;
  static constexpr int kWeight = kKey + kTileKeys * kStride;
  static constexpr int kValue = kWeight + kTileQueries * kWeightStride;
  static constexpr int kFloats = kValue + kTileKeys * kValueWidth;  // of shared memory
};

// to[r][c] = row(first + r)[begin + c] * scale for kRows rows of kWidth floats; zeros beyond
// `count` rows and `width` floats.
template <int kRows, int kWidth, int kStride, class Row>
__device__ __forceinline__ void stage(Row&& row, int first, int count, int begin, int width,
                                      bool vector, float scale, float* to) {
  if (vector) {
    constexpr int kPacks = kWidth / 4;
#pragma unroll 2
    for (int i = threadIdx.x; i < kRows * kPacks; i += kTileThreads) {
      const int r = i / kPacks, c = i % kPacks * 4;
      float v[4] = {0, 0, 0, 0};
      if (first + r < count && begin + c < width) {
        load<4>(row(first + r) + begin + c, v);
#pragma unroll
        for (int j = 0; j < 4; j++) v[j] *= scale;
      }
      store<4>(to + r * kStride + c, v);
    }
    return;
  }
  for (int i = threadIdx.x; i < kRows * kWidth; i += kTileThreads) {
    const int r = i / kWidth, c = i % kWidth;
    const bool real = first + r < count && begin + c < width;
    to[r * kStride + c] = real ? widen(row(first + r)[begin + c]) * scale : 0.0f;
  }
}

// Problem: queries, keys, dim, value_dim (of the head), scale (times log2 e), vector (rows may be
// read four elements at a time), query(i), key(j), value(j), out(i): a row's address, and
// extra(r, j): what is added to the logit of the r-th query of the tile and key j, both inside.
template <class T, int kDepth, int kColumns, class Problem>
__device__ __forceinline__ void attend(const Problem& problem, int first_query, int first_column,
                                       float* shared) {
  using Sizes = Tile<kDepth, kColumns>;
  constexpr int kStride = Sizes::kStride, kWeightStride = Sizes::kWeightStride;
  float *q = shared + Sizes::kQuery, *k = shared + Sizes::kKey;
  float *weight = shared + Sizes::kWeight, *v = shared + Sizes::kValue;
  const int across = threadIdx.x % 16, down = threadIdx.x / 16 * 4;
  const auto query = [&](int i) { return problem.query(i); };
  const auto key = [&](int j) { return problem.key(j); };
  const auto value = [&](int j) { return problem.value(j); };
  const bool whole = problem.dim <= kDepth;
  if (whole) {
    stage<kTileQueries, kDepth, kStride>(query, first_query, problem.queries, 0, problem.dim,
                                         problem.vector, problem.scale, q);
  }
  float most[4], total[4], sum[4][kColumns];
#pragma unroll
  for (int i = 0; i < 4; i++) {
    most[i] = -infinity();
    total[i] = 0;
    for (int c = 0; c < kColumns; c++) sum[i][c] = 0;
  }
  for (int first = 0; first < problem.keys; first += kTileKeys) {
    float logit[4][4] = {};  // of keys first + across + 16 j
    for (int begin = 0; begin < problem.dim; begin += kDepth) {
      __syncthreads();  // whoever read the previous tiles is done
      if (!whole) {
        stage<kTileQueries, kDepth, kStride>(query, first_query, problem.queries, begin,
                                             problem.dim, problem.vector, problem.scale, q);
      }
      stage<kTileKeys, kDepth, kStride>(key, first, problem.keys, begin, problem.dim,
                                        problem.vector, 1.0f, k);
      if (begin == 0) {
        stage<kTileKeys, Sizes::kValueWidth, Sizes::kValueWidth>(
            value, first, problem.keys, first_column, problem.value_dim, problem.vector, 1.0f, v);
      }
      __syncthreads();
      const int depth = min(kDepth, (problem.dim - begin + 3) / 4 * 4);
#pragma unroll 1
      for (int d = 0; d < depth; d += 4) {
        float a[4][4], b[4][4];
#pragma unroll
        for (int i = 0; i < 4; i++) load<4>(q + (down + i) * kStride + d, a[i]);
#pragma unroll
        for (int j = 0; j < 4; j++) load<4>(k + (across + 16 * j) * kStride + d, b[j]);
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
          for (int j = 0; j < 4; j++) {
#pragma unroll
            for (int e = 0; e < 4; e++) logit[i][j] += a[i][e] * b[j][e];
          }
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const bool real = first_query + down + i < problem.queries;
      float top = most[i];
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const int at = first + across + 16 * j;
        if (at >= problem.keys) {
          logit[i][j] = -infinity();
        } else if (real) {
          logit[i][j] += problem.extra(down + i, at);
        }
        top = fmaxf(top, logit[i][j]);
      }
      top = lanes_max<16>(top);
      // As long as all logits are -infinity there is nothing to subtract. A NaN is passed over by
      // the maximum, but not by its own exponential.
      const float shift = top == -infinity() ? 0.0f : top;
      const float factor = exp2f(most[i] - shift);
      most[i] = top;
      total[i] *= factor;
#pragma unroll
      for (int c = 0; c < kColumns; c++) sum[i][c] *= factor;
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const float w = exp2f(logit[i][j] - shift);
        total[i] += w;
        weight[(down + i) * kWeightStride + across + 16 * j] = w;
      }
    }
    __syncwarp();
    const int keys = min(kTileKeys, (problem.keys - first + 3) / 4 * 4);
#pragma unroll 1
    for (int j = 0; j < keys; j += 4) {
      float w[4][4];
#pragma unroll
      for (int i = 0; i < 4; i++) load<4>(weight + (down + i) * kWeightStride + j, w[i]);
#pragma unroll
      for (int e = 0; e < 4; e++) {
        float column[kColumns];
        load<kColumns>(v + (j + e) * Sizes::kValueWidth + across * kColumns, column);
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
          for (int c = 0; c < kColumns; c++) sum[i][c] += w[i][e] * column[c];
        }
      }
    }
  }
  const int column = first_column + across * kColumns;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float factor = 1.0f / lanes_sum<16>(total[i]);
    if (first_query + down + i >= problem.queries) continue;
    T* out = problem.out(first_query + down + i) + column;
#pragma unroll
    for (int c = 0; c < kColumns; c++) sum[i][c] *= factor;
    if (problem.vector && column + kColumns <= problem.value_dim) {
      store<kColumns>(out, sum[i]);
    } else {
      for (int c = 0; c < kColumns; c++) {
        if (column + c < problem.value_dim) out[c] = narrow<T>(sum[i][c]);
      }
    }
  }
}

// Calls run(Tile) with the smallest tile that holds a head, or the largest.
template <class Run>
cudaError_t with_tile(int64_t dim, int64_t value_dim, Run&& run) {
  const int64_t width = larger(dim, value_dim);
  if (width <= 16) return run(Tile<16, 1>{});
  if (width <= 32) return run(Tile<32, 2>{});
  return run(Tile<64, 4>{});
}

}  // namespace adfast::kernels::cuda
