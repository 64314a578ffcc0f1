// GTrans (Yan et al., 2023), eq. 1 and 3: tokens as spatially attended averages of a feature map.
//
// The pixels are split over the blocks. Each takes the softmax over its own (the logits of eight
// groups by the warp, then the weighted sums, for which the features come from the cache again) and
// leaves maximum, sum and weighted features in scratch; a second kernel brings the blocks' parts to
// a common maximum and adds them up, always in the same order.
#include "dots.h"

namespace adfast::kernels::cuda {

namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kMergeColumns = 32, kMergeSlices = 8;

struct Split {
  int64_t blocks, pixels;  // pixels of a block
};
Split split_of(int64_t pixels) {
  // At least as many pixels as make the warps busy, so that the parts stay few; at most as many as
  // have room for their weights.
  const int64_t each = smaller(256, larger(8, ceil_div(ceil_div(pixels, kMultiprocessors), 8) * 8));
  return {ceil_div(pixels, each), each};
}

// Threads that share the channels of a pixel in the weighted sums, and how many pixels are summed
// next to each other.
struct Lanes {
  int packs, slices;
};
__host__ __device__ inline Lanes lanes_of(int64_t channels, int pack) {
  const int64_t packs = channels / pack;
  const int wide = packs < kThreads ? static_cast<int>(packs) : kThreads;
  return {wide, kThreads / wide};
}

// Scratch: [blocks][groups] maxima, [blocks][groups] sums, [blocks][groups][channels] features.
template <class T, int kPixels, int kPack>
__global__ void __launch_bounds__(kThreads)
    token_part_kernel(TokenAttentionArgs a, int64_t block_pixels) {
  float* weight = reinterpret_cast<float*>(adfast_shared);  // [block_pixels][8]
  float* partial = weight + block_pixels * 8;               // [slices][8][packs * kPack]
  const T* x = static_cast<const T*>(a.x);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t begin = blockIdx.x * block_pixels;
  const int64_t end = begin + block_pixels < a.pixels ? begin + block_pixels : a.pixels;
  const int count = static_cast<int>(end - begin);
  float* maxima = a.scratch + blockIdx.x * a.groups;
  float* sums = a.scratch + (int64_t{gridDim.x} + blockIdx.x) * a.groups;
  float* features =
      a.scratch + 2 * int64_t{gridDim.x} * a.groups + int64_t{blockIdx.x} * a.groups * a.channels;
  const Lanes lanes = lanes_of(a.channels, kPack);
  const int pack = threadIdx.x % lanes.packs, slice = threadIdx.x / lanes.packs;
  const int stretch = lanes.packs * kPack;  // channels that the threads cover at once
  for (int64_t group = 0; group < a.groups; group += 8) {
    const int groups = a.groups - group < 8 ? static_cast<int>(a.groups - group) : 8;
    for (int p = warp * kPixels; p < count; p += kWarps * kPixels) {
      const float dot =
          dots8<kPixels, kPack>(x, begin + p, end, a.channels, a.weight, group, a.groups);
      const int mine = p + lane / 8, g = lane % 8;
      if (lane < kPixels * 8 && mine < count) {
        const int64_t row = group + g < a.groups ? group + g : a.groups - 1;
        weight[mine * 8 + g] = a.scale * dot + (a.bias ? a.scale * a.bias[row] : 0.0f);
      }
    }
    __syncthreads();
    // The softmax of group g by warp g. As long as all logits are -infinity there is nothing to
    // subtract; a NaN is passed over by the maximum, but not by its own exponential.
    float most = -infinity(), total = 0;
    for (int p = lane; p < count; p += 32) most = fmaxf(most, weight[p * 8 + warp]);
    most = lanes_max(most);
    const float shift = most == -infinity() ? 0.0f : most;
    for (int p = lane; p < count; p += 32) {
      total += weight[p * 8 + warp] = expf(weight[p * 8 + warp] - shift);
    }
    total = lanes_sum(total);
    if (lane == 0 && warp < groups) {
      maxima[group + warp] = most;
      sums[group + warp] = total;
    }
    __syncthreads();
    for (int64_t base = 0; base < a.channels; base += stretch) {
      const int64_t c = base + pack * kPack;
      if (slice < lanes.slices && c < a.channels) {
        float sum[8][kPack] = {};
#pragma unroll 2
        for (int p = slice; p < count; p += lanes.slices) {
          float v[kPack], low[4], high[4];
          load<kPack>(x + (begin + p) * a.channels + c, v);
          load<4>(weight + p * 8, low);
          load<4>(weight + p * 8 + 4, high);
#pragma unroll
          for (int g = 0; g < 4; g++) {
#pragma unroll
            for (int j = 0; j < kPack; j++) {
              sum[g][j] += low[g] * v[j];
              sum[g + 4][j] += high[g] * v[j];
            }
          }
        }
#pragma unroll
        for (int g = 0; g < 8; g++) {
          store<kPack>(partial + (slice * 8 + g) * stretch + pack * kPack, sum[g]);
        }
      }
      __syncthreads();
      for (int i = threadIdx.x; i < groups * stretch; i += kThreads) {
        const int g = i / stretch, at = i % stretch;
        if (base + at >= a.channels) continue;
        float sum = 0;
        for (int s = 0; s < lanes.slices; s++) sum += partial[(s * 8 + g) * stretch + at];
        features[(group + g) * a.channels + base + at] = sum;
      }
      __syncthreads();  // `partial`, and `weight` after the last stretch, are written again
    }
  }
}

// A block for each group and 32 channels.
__global__ void __launch_bounds__(kThreads)
    token_merge_kernel(TokenAttentionArgs a, int64_t blocks) {
  float* factor = reinterpret_cast<float*>(adfast_shared);  // [blocks]
  float* shared = factor + blocks;                          // [kMergeSlices][kMergeColumns]
  const int64_t group = blockIdx.y;
  const float* maxima = a.scratch + group;
  const float* sums = a.scratch + blocks * a.groups + group;
  const float* features = a.scratch + 2 * blocks * a.groups + group * a.channels;
  float most = -infinity(), total = 0;
  for (int64_t b = threadIdx.x; b < blocks; b += kThreads) most = fmaxf(most, maxima[b * a.groups]);
  most = block_combine(most, shared, [](float p, float q) { return fmaxf(p, q); });
  const float shift = most == -infinity() ? 0.0f : most;
  for (int64_t b = threadIdx.x; b < blocks; b += kThreads) {
    factor[b] = expf(maxima[b * a.groups] - shift);
    total += factor[b] * sums[b * a.groups];
  }
  total = block_combine(total, shared, [](float p, float q) { return p + q; });
  const int column = threadIdx.x % kMergeColumns, slice = threadIdx.x / kMergeColumns;
  const int64_t c = int64_t{blockIdx.x} * kMergeColumns + column;
  float sum = 0;
  if (c < a.channels) {
#pragma unroll 4
    for (int64_t b = slice; b < blocks; b += kMergeSlices) {
      sum += factor[b] * features[b * a.groups * a.channels + c];
    }
  }
  __syncthreads();
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (slice > 0 || c >= a.channels) return;
  for (int s = 1; s < kMergeSlices; s++) sum += shared[s * kMergeColumns + column];
  a.out[group * a.channels + c] = sum / total;
}

template <class T, int kPixels, int kPack>
cudaError_t run(const TokenAttentionArgs& a, const Split& split, cudaStream_t stream) {
  const Lanes lanes = lanes_of(a.channels, kPack);
  const size_t floats = static_cast<size_t>(split.pixels * 8) +
                        static_cast<size_t>(lanes.slices) * 8 * lanes.packs * kPack;
  return launch(token_part_kernel<T, kPixels, kPack>, blocks_for(split.blocks, 1), kThreads,
                floats * sizeof(float), stream, a, split.pixels);
}

}  // namespace

size_t token_attention_scratch(int64_t pixels, int64_t channels, int64_t groups) {
  return static_cast<size_t>(split_of(pixels).blocks * groups * (channels + 2));
}

cudaError_t token_attention(const TokenAttentionArgs& a, cudaStream_t stream) {
  const Split split = split_of(a.pixels);
  const bool vector = a.channels % 4 == 0 && aligned(a.x) && aligned(a.weight);
  const cudaError_t error = with_type(a.type, [&](auto type) {
    using T = typename decltype(type)::type;
    if (!vector) return run<T, 1, 1>(a, split, stream);
    return split.pixels >= 4 * kWarps ? run<T, 4, 4>(a, split, stream)
                                      : run<T, 1, 4>(a, split, stream);
  });
  if (error != cudaSuccess) return error;
  const dim3 grid(static_cast<unsigned>(ceil_div(a.channels, kMergeColumns)),
                  static_cast<unsigned>(a.groups));
  const size_t floats = static_cast<size_t>(split.blocks) + kMergeSlices * kMergeColumns;
  return launch(token_merge_kernel, grid, kThreads, floats * sizeof(float), stream, a,
                split.blocks);
}

}  // namespace adfast::kernels::cuda
