// GTrans, eq. 15-17: per-pixel squared distance, its mean, and the cosine distance of two feature
// maps. See score.h.
#include "score.h"

namespace adfast::kernels::cuda {

namespace {

constexpr int kFinishThreads = 128;

// kLanes lanes for a pixel: channels may be few.
template <class T, int kPack, int kLanes>
__global__ void __launch_bounds__(kScoreThreads) score_map_kernel(ScoreMapArgs a, float half_mean) {
  float* shared = reinterpret_cast<float*>(adfast_shared);
  const int lane = threadIdx.x % kLanes;
  const int64_t pixel = int64_t{blockIdx.x} * (kScoreThreads / kLanes) + threadIdx.x / kLanes;
  ScoreSums sums;
  if (pixel < a.pixels) {
    const T* row_a = static_cast<const T*>(a.a) + pixel * a.channels;
    const T* row_b = static_cast<const T*>(a.b) + pixel * a.channels;
#pragma unroll 2
    for (int64_t c = lane * kPack; c < a.channels; c += kLanes * kPack) {
      float va[kPack], vb[kPack];
      load<kPack>(row_a + c, va);
      load<kPack>(row_b + c, vb);
#pragma unroll
      for (int j = 0; j < kPack; j++) {
        const float d = va[j] - vb[j];
        sums.difference += d * d;
        sums.add(va[j], vb[j], d);
      }
    }
  }
  const float square = lanes_sum<kLanes>(sums.difference);
  if (lane == 0 && pixel < a.pixels) a.map[pixel] = square * half_mean;
  put_sums(sums, shared, a.scratch);
}

__global__ void __launch_bounds__(kFinishThreads)
    finish_score_kernel(const float* scratch, int64_t blocks, int64_t pixels, float* mse,
                        float* cosine) {
  double* shared = reinterpret_cast<double*>(adfast_shared);  // [4][kFinishThreads]
  double mine[4] = {};
  for (int64_t b = threadIdx.x; b < blocks; b += kFinishThreads) {
    float v[4];
    load<4>(scratch + b * 4, v);
    for (int i = 0; i < 4; i++) mine[i] += static_cast<double>(v[i]);
  }
  for (int i = 0; i < 4; i++) shared[i * kFinishThreads + threadIdx.x] = mine[i];
  for (int half = kFinishThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) >= half) continue;
    for (int i = 0; i < 4; i++) {
      shared[i * kFinishThreads + threadIdx.x] += shared[i * kFinishThreads + threadIdx.x + half];
    }
  }
  if (threadIdx.x > 0) return;
  const double squares_a = shared[0], squares_b = shared[kFinishThreads];
  const double difference = shared[2 * kFinishThreads], excess = shared[3 * kFinishThreads];
  *mse = static_cast<float>(difference / static_cast<double>(pixels));
  const double norm_a = sqrt(squares_a), norm_b = sqrt(squares_b), product = norm_a * norm_b;
  double distance;
  if (product < 1e-12) {
    distance = 1 - (squares_a + squares_b - difference) / 2 / 1e-12;
  } else {
    const double radial = excess / (norm_a + norm_b);
    distance = (difference - radial * radial) / (2 * product);
    if (distance < 0) distance = 0;  // by rounding only: |a - b| >= ||a| - |b||
  }
  *cosine = static_cast<float>(distance);
}

template <class T, int kPack, int kLanes>
cudaError_t run(const ScoreMapArgs& a, cudaStream_t stream) {
  const float half_mean = static_cast<float>(0.5 / static_cast<double>(a.pixels));
  const int64_t blocks = ceil_div(a.pixels, kScoreThreads / kLanes);
  const cudaError_t error =
      launch(score_map_kernel<T, kPack, kLanes>, blocks_for(blocks, 1), kScoreThreads,
             4 * kScoreWarps * sizeof(float), stream, a, half_mean);
  if (error != cudaSuccess) return error;
  return finish_score(a.scratch, blocks, a.pixels, a.mse, a.cos, stream);
}

}  // namespace

cudaError_t finish_score(const float* scratch, int64_t blocks, int64_t pixels, float* mse,
                         float* cosine, cudaStream_t stream) {
  return launch(finish_score_kernel, dim3(1), kFinishThreads, 4 * kFinishThreads * sizeof(double),
                stream, scratch, blocks, pixels, mse, cosine);
}

size_t score_map_scratch(int64_t pixels, int64_t) {
  return static_cast<size_t>(4 * ceil_div(pixels, kScorePixels));
}

cudaError_t score_map(const ScoreMapArgs& a, cudaStream_t stream) {
  return with_type(a.type, [&](auto type) {
    using T = typename decltype(type)::type;
    const bool vector = a.channels % 4 == 0 && aligned(a.a) && aligned(a.b);
    if (!vector) return run<T, 1, 32>(a, stream);
    return a.channels <= 64 ? run<T, 4, 8>(a, stream) : run<T, 4, 32>(a, stream);
  });
}

}  // namespace adfast::kernels::cuda
