// Multi-head attention over windows of tokens.
#include "attention_tile.h"

namespace adfast::kernels::cuda {

namespace {

template <class T>
struct Head {
  const T *q, *k, *v;
  T* o;
  int queries, keys, dim, value_dim;
  int64_t stride, value_stride;  // of a token
  float scale;
  bool vector;
  __device__ const T* query(int i) const { return q + i * stride; }
  __device__ const T* key(int j) const { return k + j * stride; }
  __device__ const T* value(int j) const { return v + j * value_stride; }
  __device__ T* out(int i) const { return o + i * value_stride; }
  __device__ float extra(int, int) const { return 0.0f; }
};

template <class T, int kDepth, int kColumns>
__global__ void __launch_bounds__(kTileThreads)
    attention_kernel(AttentionArgs a, int tiles, bool vector) {
  const int tile = blockIdx.x % tiles, part = blockIdx.x / tiles;
  const int64_t window = blockIdx.z;
  const int dim = static_cast<int>(a.dim / a.heads);
  const int value_dim = static_cast<int>(a.value_dim / a.heads);
  const int64_t head = int64_t{blockIdx.y} * dim, value_head = int64_t{blockIdx.y} * value_dim;
  const Head<T> problem = {static_cast<const T*>(a.q) + window * a.queries * a.dim + head,
                           static_cast<const T*>(a.k) + window * a.keys * a.dim + head,
                           static_cast<const T*>(a.v) + window * a.keys * a.value_dim + value_head,
                           static_cast<T*>(a.out) + window * a.queries * a.value_dim + value_head,
                           static_cast<int>(a.queries),
                           static_cast<int>(a.keys),
                           dim,
                           value_dim,
                           a.dim,
                           a.value_dim,
                           a.scale * kLog2E,
                           vector};
  attend<T, kDepth, kColumns>(problem, tile * kTileQueries,
                              part * Tile<kDepth, kColumns>::kValueWidth,
                              reinterpret_cast<float*>(adfast_shared));
}

template <class T, int kDepth, int kColumns>
cudaError_t run(const AttentionArgs& a, Tile<kDepth, kColumns>, cudaStream_t stream) {
  using Sizes = Tile<kDepth, kColumns>;
  const bool vector = a.dim / a.heads % 4 == 0 && a.value_dim / a.heads % 4 == 0 && aligned(a.q) &&
                      aligned(a.k) && aligned(a.v) && aligned(a.out);
  const int64_t tiles = ceil_div(a.queries, kTileQueries);
  const int64_t parts = ceil_div(a.value_dim / a.heads, Sizes::kValueWidth);
  const dim3 grid(static_cast<unsigned>(tiles * parts), static_cast<unsigned>(a.heads),
                  static_cast<unsigned>(a.windows));
  return launch(attention_kernel<T, kDepth, kColumns>, grid, kTileThreads,
                Sizes::kFloats * sizeof(float), stream, a, static_cast<int>(tiles), vector);
}

}  // namespace

cudaError_t attention(const AttentionArgs& a, cudaStream_t stream) {
  return with_type(a.type, [&](auto type) {
    using T = typename decltype(type)::type;
    return with_tile(a.dim / a.heads, a.value_dim / a.heads,
                     [&](auto tile) { return run<T>(a, tile, stream); });
  });
}

}  // namespace adfast::kernels::cuda
