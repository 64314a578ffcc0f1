// GTrans (Yan et al., 2023), eq. 12: every pixel attends to the tokens, and eq. 15-17 of the
// result.
//
// A warp takes one or four pixels: their logits eight tokens at a time, the softmax in shared
// memory that only this warp uses, and the combination of the values, each loaded once for all its
// pixels. The score variant never writes the combination: difference, squares and excess are taken
// from the f32 registers, which matters most in half precision, where rounding the mapped features
// would be as large as the differences looked for.
#include "dots.h"
#include "score.h"

namespace adfast::kernels::cuda {

namespace {

constexpr int kThreads = kScoreThreads, kWarps = kScoreWarps;

struct Score {
  float* map;
  float* scratch;
  float half_mean;
};

template <class T, int kPixels, int kPack, bool kScore>
__global__ void __launch_bounds__(kThreads)
    projector_kernel(ProjectorAttentionArgs a, Score score, int padded_tokens) {
  float* shared = reinterpret_cast<float*>(adfast_shared);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // The weights of this warp: [padded_tokens][kPixels].
  float* weight = shared + warp * padded_tokens * kPixels;
  const int64_t begin = (int64_t{blockIdx.x} * kWarps + warp) * kPixels;
  const int tokens = static_cast<int>(a.tokens);
  const T* x = static_cast<const T*>(a.x);
  const T* residual = static_cast<const T*>(a.residual);
  ScoreSums sums;
  if (begin < a.pixels) {  // the whole warp
    const int mine = lane / 8 % kPixels, eighth = lane % 8;
    float most = -infinity();
    for (int first = 0; first < tokens; first += 8) {
      const float dot =
          dots8<kPixels, kPack>(x, begin, a.pixels, a.channels, a.key, first, a.tokens);
      const int token = first + eighth;
      float logit = -infinity();
      if (token < tokens) {
        logit = a.scale * dot + (a.key_bias ? a.scale * a.key_bias[token] : 0.0f);
      }
      most = fmaxf(most, logit);
      if (lane < kPixels * 8) weight[token * kPixels + mine] = logit;
    }
    __syncwarp();
    // As long as all logits are -infinity there is nothing to subtract; a NaN is passed over by the
    // maximum, but not by its own exponential.
    most = lanes_max<8>(most);
    const float shift = most == -infinity() ? 0.0f : most;
    float total = 0;
    for (int t = eighth; t < tokens; t += 8) total += expf(weight[t * kPixels + mine] - shift);
    const float factor = 1.0f / lanes_sum<8>(total);
    __syncwarp();
    if (lane < kPixels * 8) {
      for (int t = eighth; t < tokens; t += 8) {
        weight[t * kPixels + mine] = expf(weight[t * kPixels + mine] - shift) * factor;
      }
    }
    __syncwarp();
    float square[kPixels] = {};
    for (int64_t c = lane * kPack; c < a.channels; c += 32 * kPack) {
      float mapped[kPixels][kPack];
#pragma unroll
      for (int p = 0; p < kPixels; p++) {
        const int64_t pixel = begin + p < a.pixels ? begin + p : a.pixels - 1;
        load<kPack>(residual + pixel * a.channels + c, mapped[p]);
      }
#pragma unroll 8
      for (int t = 0; t < tokens; t++) {
        float v[kPack], w[kPixels];
        load<kPack>(a.value + int64_t{t} * a.channels + c, v);
        load<kPixels>(weight + t * kPixels, w);
#pragma unroll
        for (int p = 0; p < kPixels; p++) {
#pragma unroll
          for (int j = 0; j < kPack; j++) mapped[p][j] += w[p] * v[j];
        }
      }
#pragma unroll
      for (int p = 0; p < kPixels; p++) {
        if (begin + p >= a.pixels) continue;
        const int64_t at = (begin + p) * a.channels + c;
        if (!kScore) {
          store<kPack>(static_cast<T*>(a.out) + at, mapped[p]);
          continue;
        }
        float v[kPack];
        load<kPack>(x + at, v);
#pragma unroll
        for (int j = 0; j < kPack; j++) {
          const float d = v[j] - mapped[p][j];
          square[p] += d * d;
          sums.add(v[j], mapped[p][j], d);
        }
      }
    }
    if (kScore) {
#pragma unroll
      for (int p = 0; p < kPixels; p++) {
        sums.difference += square[p];
        const float total_square = lanes_sum(square[p]);
        if (lane == 0 && begin + p < a.pixels) {
          score.map[begin + p] = total_square * score.half_mean;
        }
      }
    }
  }
  if (kScore) put_sums(sums, shared + kWarps * padded_tokens * kPixels, score.scratch);
}

template <class T, int kPixels, int kPack, bool kScore>
cudaError_t run(const ProjectorAttentionArgs& a, const Score& score, int64_t& blocks,
                cudaStream_t stream) {
  const int padded_tokens = static_cast<int>(ceil_div(a.tokens, 8) * 8);
  const size_t floats = static_cast<size_t>(kWarps) * (padded_tokens * kPixels + 4);
  blocks = ceil_div(a.pixels, kWarps * kPixels);
  return launch(projector_kernel<T, kPixels, kPack, kScore>, blocks_for(blocks, 1), kThreads,
                floats * sizeof(float), stream, a, score, padded_tokens);
}

template <bool kScore>
cudaError_t project(const ProjectorAttentionArgs& a, const Score& score, int64_t& blocks,
                    cudaStream_t stream) {
  const bool vector = a.channels % 4 == 0 && aligned(a.x) && aligned(a.residual) &&
                      aligned(a.key) && aligned(a.value) && aligned(a.out);
  // Several pixels a warp only where the warps still fill the card.
  const bool many = a.pixels >= int64_t{kMultiprocessors} * 16;
  return with_type(a.type, [&](auto type) {
    using T = typename decltype(type)::type;
    if (!vector) return run<T, 1, 1, kScore>(a, score, blocks, stream);
    return many ? run<T, 4, 4, kScore>(a, score, blocks, stream)
                : run<T, 1, 4, kScore>(a, score, blocks, stream);
  });
}

}  // namespace

cudaError_t projector_attention(const ProjectorAttentionArgs& a, cudaStream_t stream) {
  int64_t blocks;
  return project<false>(a, Score{}, blocks, stream);
}

cudaError_t projector_score_map(const ProjectorScoreMapArgs& a, cudaStream_t stream) {
  const int64_t pixels = a.projector.pixels;
  int64_t blocks;
  const Score score = {a.map, a.scratch, static_cast<float>(0.5 / static_cast<double>(pixels))};
  const cudaError_t error = project<true>(a.projector, score, blocks, stream);
  if (error != cudaSuccess) return error;
  return finish_score(a.scratch, blocks, pixels, a.mse, a.cos, stream);
}

}  // namespace adfast::kernels::cuda
