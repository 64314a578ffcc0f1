// GTrans (Yan et al., 2023), eq. 1 and 3: tokens as spatially attended averages of a feature map.
//
// The softmax over all pixels is taken tile by tile (Milakov and Gimelshein, 2018): each tile's
// logits raise the running maximum, and what was summed before is scaled down by e^(old - new). So
// the map is read from memory once, and a second time from cache.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

// The running softmax of eight groups.
struct TokenState {
  float largest[8];
  float total[8];
  float factor[8];  // by which this tile scales what came before
};

// Turns one tile's logits [pixels][8] into weights e^(logit - largest) and updates the state.
static inline void tile_weights(float* logits, int64_t pixels, TokenState& state) {
  // Vectors hold two pixels' logits, one pixel's, or an eighth of one's.
  constexpr int64_t kParts = kLanes >= 8 ? 1 : 8 / kLanes;
  constexpr int64_t kStep = kParts * kLanes;
  if (pixels * 8 % kStep != 0) store8(logits + pixels * 8, set8(-infinity()));  // weighs nothing
  int64_t count = (pixels * 8 + kStep - 1) / kStep * kStep;
  Eight m = load8(state.largest);
  for (int64_t p = 0; p < pixels; p++) m = max8(load8(logits + p * 8), m);
  float pattern[kMaxLanes], old[8];
  store8(old, load8(state.largest));
  store8(pattern, m);
  store8(pattern + 8, m);
  store8(state.largest, m);
  over(8, [&](int64_t i, auto lanes) {
    store(state.factor + i, exp(load(old + i, lanes) - load(pattern + i, lanes)), lanes);
  });
  Vec shift[kParts], sums[kParts];
  for (int64_t j = 0; j < kParts; j++) {
    shift[j] = load(pattern + j * kLanes);
    sums[j] = set1(0.0f);
  }
  for (int64_t i = 0; i < count; i += kStep) {
    for (int64_t j = 0; j < kParts; j++) {
      Vec w = exp(load(logits + i + j * kLanes) - shift[j]);
      store(logits + i + j * kLanes, w);
      sums[j] = sums[j] + w;
    }
  }
  float lanes[kMaxLanes] = {};
  for (int64_t j = 0; j < kParts; j++) store(lanes + j * kLanes, sums[j]);
  Eight total = fma8(load8(state.total), load8(state.factor), load8(lanes));
  store8(state.total, fma8(load8(lanes + 8), set8(1.0f), total));
}

// out[g] = out[g] * factor[g] + sum_p weight[p][g] * x[p] over a tile, for `groups` <= 8 of the
// groups and kVectors vectors of channels from x and out on.
template <int kVectors, class T, class Lanes>
static inline void add_weighted(const T* x, int64_t pixels, int64_t channels, const float* weight,
                                const float* factor, int64_t groups, float* out, Lanes lanes) {
  Vec acc[8][kVectors];
#pragma GCC unroll 8
  for (int g = 0; g < 8; g++) {
    for (int k = 0; k < kVectors; k++) acc[g][k] = set1(0.0f);
  }
  for (int64_t p = 0; p < pixels; p++) {
    Vec v[kVectors];
    for (int k = 0; k < kVectors; k++) v[k] = load(x + p * channels + k * kLanes, lanes);
#pragma GCC unroll 8
    for (int g = 0; g < 8; g++) {
      Vec w = set1(weight[p * 8 + g]);
      for (int k = 0; k < kVectors; k++) acc[g][k] = fma(w, v[k], acc[g][k]);
    }
  }
#pragma GCC unroll 8
  for (int g = 0; g < 8; g++) {
    if (g >= groups) break;
    Vec f = set1(factor[g]);
    for (int k = 0; k < kVectors; k++) {
      float* o = out + g * channels + k * kLanes;
      store(o, fma(load(o, lanes), f, acc[g][k]), lanes);
    }
  }
}

template <class T>
static void token_attention_of(const TokenAttentionArgs& a) {
  const T* x = static_cast<const T*>(a.x);
  int64_t tile = tile_pixels(a.channels, sizeof(T));
  TokenState* states = reinterpret_cast<TokenState*>(a.scratch);
  int64_t blocks = round_up8(a.groups) / 8;
  float* logits = a.scratch + blocks * static_cast<int64_t>(sizeof(TokenState) / sizeof(float));
  for (int64_t b = 0; b < blocks; b++) {
    store8(states[b].largest, set8(-infinity()));
    store8(states[b].total, set8(0.0f));
  }
  over(a.groups * a.channels, [&](int64_t i, auto lanes) { store(a.out + i, set1(0.0f), lanes); });
  for (int64_t begin = 0; begin < a.pixels; begin += tile) {
    int64_t pixels = smaller(tile, a.pixels - begin);
    const T* part = x + begin * a.channels;
    for (int64_t b = 0; b < blocks; b++) {
      float bias[8];
      for (int64_t i = 0; i < 8; i++) {
        bias[i] = a.bias ? a.bias[smaller(b * 8 + i, a.groups - 1)] * a.scale : 0.0f;
      }
      Eight scale = set8(a.scale), offset = load8(bias);
      each_dot8(part, pixels, a.channels, Rows8(a.weight, b * 8, a.groups, a.channels),
                [&](int64_t p, Eight dots) { store8(logits + p * 8, fma8(dots, scale, offset)); });
      tile_weights(logits, pixels, states[b]);
      int64_t groups = smaller(8, a.groups - b * 8);
      float* out = a.out + b * 8 * a.channels;
      const float* factor = states[b].factor;
      constexpr int64_t kBlock = kColumns * kLanes;
      int64_t c = 0;
      for (; c + kBlock <= a.channels; c += kBlock) {
        add_weighted<kColumns>(part + c, pixels, a.channels, logits, factor, groups, out + c,
                               All{});
      }
      over(a.channels - c, [&](int64_t i, auto lanes) {
        add_weighted<1>(part + c + i, pixels, a.channels, logits, factor, groups, out + c + i,
                        lanes);
      });
    }
  }
  for (int64_t g = 0; g < a.groups; g++) {
    Vec f = set1(1.0f / states[g / 8].total[g % 8]);
    float* out = a.out + g * a.channels;
    over(a.channels,
         [&](int64_t c, auto lanes) { store(out + c, load(out + c, lanes) * f, lanes); });
  }
}

static void token_attention(const TokenAttentionArgs& a) {
  a.dtype == DType::f32 ? token_attention_of<float>(a) : token_attention_of<Bf16>(a);
}

}  // namespace adfast::kernels::ADFAST_ISA
