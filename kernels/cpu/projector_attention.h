// GTrans (Yan et al., 2023), eq. 12: every pixel attends to the tokens, and eq. 15-17 of the
// result.
//
// A tile's logits take one reading of its features for every eight tokens; its combination of
// values holds eight tokens' values in registers. The score variant never writes the combination:
// difference, squares and excess are taken from the f32 registers, which matters most in bf16,
// where rounding the mapped features would be as large as the differences looked for.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

// Softmax weights [pixels][round_up8(tokens)] of a tile.
template <class T>
static inline void projector_weights(const ProjectorAttentionArgs& a, const T* x, int64_t pixels,
                                     float* weights) {
  int64_t width = round_up8(a.tokens);
  for (int64_t first = 0; first < a.tokens; first += 8) {
    float offsets[8];
    for (int64_t i = 0; i < 8; i++) {
      bool real = first + i < a.tokens;
      offsets[i] = !real ? -infinity() : a.key_bias ? a.key_bias[first + i] * a.scale : 0.0f;
    }
    Eight scale = set8(a.scale), offset = load8(offsets);
    each_dot8(x, pixels, a.channels, Rows8(a.key, first, a.tokens, a.channels),
              [&](int64_t p, Eight dots) {
                store8(weights + p * width + first, fma8(dots, scale, offset));
              });
  }
  softmax_rows8(weights, pixels, width);
}

// Calls sink(p, mapped) for the pixels of a tile, where mapped[k] = residual + sum_t weight[p][t]
// value[t] for kVectors vectors of channels from residual and value on.
template <int kVectors, class T, class Lanes, class Sink>
static inline void combine(const ProjectorAttentionArgs& a, const T* residual, const float* value,
                           const float* weights, int64_t pixels, Lanes lanes, Sink&& sink) {
  if (a.tokens <= 8) {
    Rows8 rows(value, 0, a.tokens, a.channels);
    Vec held[8][kVectors];
#pragma GCC unroll 8
    for (int t = 0; t < 8; t++) {
      for (int k = 0; k < kVectors; k++) held[t][k] = load(rows.row[t] + k * kLanes, lanes);
    }
    for (int64_t p = 0; p < pixels; p++) {
      Vec mapped[kVectors];
      for (int k = 0; k < kVectors; k++) {
        mapped[k] = load(residual + p * a.channels + k * kLanes, lanes);
      }
#pragma GCC unroll 8
      for (int t = 0; t < 8; t++) {
        Vec w = set1(weights[p * 8 + t]);
        for (int k = 0; k < kVectors; k++) mapped[k] = fma(w, held[t][k], mapped[k]);
      }
      sink(p, mapped);
    }
    return;
  }
  int64_t width = round_up8(a.tokens);
  for (int64_t p = 0; p < pixels; p++) {
    Vec mapped[kVectors];
    for (int k = 0; k < kVectors; k++) {
      mapped[k] = load(residual + p * a.channels + k * kLanes, lanes);
    }
    for (int64_t t = 0; t < a.tokens; t++) {
      Vec w = set1(weights[p * width + t]);
      for (int k = 0; k < kVectors; k++) {
        mapped[k] = fma(w, load(value + t * a.channels + k * kLanes, lanes), mapped[k]);
      }
    }
    sink(p, mapped);
  }
}

template <int kVectors, class T, class Lanes>
static inline void store_mapped(const ProjectorAttentionArgs& a, int64_t begin, int64_t c,
                                const float* weights, int64_t pixels, Lanes lanes) {
  const T* residual = static_cast<const T*>(a.residual) + begin * a.channels + c;
  T* out = static_cast<T*>(a.out) + begin * a.channels + c;
  combine<kVectors>(a, residual, a.value + c, weights, pixels, lanes,
                    [&](int64_t p, const Vec* mapped) {
                      for (int k = 0; k < kVectors; k++) {
                        store(out + p * a.channels + k * kLanes, mapped[k], lanes);
                      }
                    });
}

template <class T>
static void projector_attention_of(const ProjectorAttentionArgs& a) {
  const T* x = static_cast<const T*>(a.x);
  int64_t tile = tile_pixels(a.channels, sizeof(T));
  constexpr int64_t kBlock = kColumns * kLanes;
  for (int64_t begin = 0; begin < a.pixels; begin += tile) {
    int64_t pixels = smaller(tile, a.pixels - begin);
    projector_weights(a, x + begin * a.channels, pixels, a.scratch);
    int64_t c = 0;
    for (; c + kBlock <= a.channels; c += kBlock) {
      store_mapped<kColumns, T>(a, begin, c, a.scratch, pixels, All{});
    }
    over(a.channels - c, [&](int64_t i, auto lanes) {
      store_mapped<1, T>(a, begin, c + i, a.scratch, pixels, lanes);
    });
  }
}

static void projector_attention(const ProjectorAttentionArgs& a) {
  a.dtype == DType::f32 ? projector_attention_of<float>(a) : projector_attention_of<Bf16>(a);
}

// Adds |x - mapped|^2 of each pixel to squares [pixels][kLanes], and the block's sums to the
// tile's.
template <int kVectors, class T, class Lanes>
static inline void score_mapped(const ProjectorAttentionArgs& a, int64_t begin, int64_t c,
                                const float* weights, int64_t pixels, Lanes lanes, float* squares,
                                TileSums& tile) {
  const T* x = static_cast<const T*>(a.x) + begin * a.channels + c;
  const T* residual = static_cast<const T*>(a.residual) + begin * a.channels + c;
  TileSums block = tile;  // in registers: the stores to `squares` might alias the tile's
  combine<kVectors>(a, residual, a.value + c, weights, pixels, lanes,
                    [&](int64_t p, const Vec* mapped) {
                      Vec square = load(squares + p * kLanes);
                      for (int k = 0; k < kVectors; k++) {
                        Vec v = load(x + p * a.channels + k * kLanes, lanes);
                        Vec d = v - mapped[k];
                        square = fma(d, d, square);
                        block.add(v, mapped[k], d);
                      }
                      store(squares + p * kLanes, square);
                    });
  tile = block;
}

template <class T>
static void projector_score_map_of(const ProjectorScoreMapArgs& args) {
  const ProjectorAttentionArgs& a = args.projector;
  const T* x = static_cast<const T*>(a.x);
  int64_t tile = tile_pixels(a.channels, sizeof(T));
  constexpr int64_t kBlock = kColumns * kLanes;
  float* weights = a.scratch;
  float* squares = a.scratch + kMaxTile * round_up8(a.tokens);
  float half_mean = static_cast<float>(0.5 / static_cast<double>(a.pixels));
  ScoreSums sums;
  for (int64_t begin = 0; begin < a.pixels; begin += tile) {
    int64_t pixels = smaller(tile, a.pixels - begin);
    projector_weights(a, x + begin * a.channels, pixels, weights);
    over(round_up8(pixels) * kLanes,
         [&](int64_t i, auto lanes) { store(squares + i, set1(0.0f), lanes); });
    TileSums sums_of_tile;
    int64_t c = 0;
    for (; c + kBlock <= a.channels; c += kBlock) {
      score_mapped<kColumns, T>(a, begin, c, weights, pixels, All{}, squares, sums_of_tile);
    }
    over(a.channels - c, [&](int64_t i, auto lanes) {
      score_mapped<1, T>(a, begin, c + i, weights, pixels, lanes, squares, sums_of_tile);
    });
    for (int64_t p = 0; p < pixels; p += kRows8) {
      Vec rows[kRows8];
#pragma GCC unroll 8
      for (int64_t i = 0; i < kRows8; i++) rows[i] = load(squares + (p + i) * kLanes);
      write_map8(rows, smaller(kRows8, pixels - p), half_mean, args.map + begin + p, sums);
    }
    sums_of_tile.add_to(sums);
  }
  write_score(sums, a.pixels, args.mse, args.cos);
}

static void projector_score_map(const ProjectorScoreMapArgs& a) {
  a.projector.dtype == DType::f32 ? projector_score_map_of<float>(a)
                                  : projector_score_map_of<Bf16>(a);
}

}  // namespace adfast::kernels::ADFAST_ISA
