// GTrans, eq. 15-17: the sums that score maps are made of, and how the blocks' sums become two
// numbers.
//
// The cosine distance of nearly equal maps is the interesting one, and 1 - a.b / (|a| |b|) loses
// all its digits there. With d = a - b and e = sum d (a + b) = |a|^2 - |b|^2 the same quantity is
//   (|d|^2 - (|a| - |b|)^2) / (2 |a| |b|),  |a| - |b| = e / (|a| + |b|),
// where nothing cancels but what is truly radial. Sums are taken in f32 within a block, in double
// across blocks.
#pragma once
#include "device.h"

namespace adfast::kernels::cuda {

struct ScoreSums {
  float squares_a = 0;   // |a|^2
  float squares_b = 0;   // |b|^2
  float difference = 0;  // |a - b|^2
  float excess = 0;      // |a|^2 - |b|^2

  // All but the difference, which is summed for each pixel first.
  __device__ __forceinline__ void add(float a, float b, float d) {
    squares_a += a * a;
    squares_b += b * b;
    excess += d * (a + b);
  }
};

constexpr int kScoreThreads = 128, kScoreWarps = kScoreThreads / 32;
// A block scores at least so many pixels and leaves four floats.
constexpr int kScorePixels = kScoreWarps;

// Adds up the block's threads; `shared` holds four floats for each warp.
__device__ __forceinline__ void put_sums(const ScoreSums& sums, float* shared, float* scratch) {
  const float mine[4] = {lanes_sum(sums.squares_a), lanes_sum(sums.squares_b),
                         lanes_sum(sums.difference), lanes_sum(sums.excess)};
  if (threadIdx.x % 32 == 0) store<4>(shared + threadIdx.x / 32 * 4, mine);
  __syncthreads();
  if (threadIdx.x >= 4) return;
  float total = 0;
  for (int w = 0; w < kScoreWarps; w++) total += shared[w * 4 + threadIdx.x];
  scratch[int64_t{blockIdx.x} * 4 + threadIdx.x] = total;
}

// scratch [blocks][4] -> mse and cos.
cudaError_t finish_score(const float* scratch, int64_t blocks, int64_t pixels, float* mse,
                         float* cosine, cudaStream_t stream);

}  // namespace adfast::kernels::cuda
