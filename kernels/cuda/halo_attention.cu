// HaloAE's attention within blocks of pixels and a margin around each (Vaswani et al., 2021).
//
// Only the keys inside the map are visited, so none is masked. The position terms q . rows[..] and
// q . columns[..] depend on a query and one coordinate of the key: a block computes them once, 2
// side products for each of its queries where the keys take side^2, and the logits look them up.
#include "attention_tile.h"

namespace adfast::kernels::cuda {

namespace {

// The keys of a square that lie inside the map, as offsets from the first one of the square.
struct Square {
  int side, top, left;  // of the block's first query
  int row_begin, row_end, column_begin, column_end;
  __device__ Square(const HaloAttentionArgs& a, int64_t index) {
    const int block = static_cast<int>(a.block), halo = static_cast<int>(a.halo);
    const int across = static_cast<int>(a.width / a.block);
    side = block + 2 * halo;
    top = static_cast<int>(index / across) * block;
    left = static_cast<int>(index % across) * block;
    row_begin = max(0, halo - top);
    row_end = min(side, static_cast<int>(a.height) + halo - top);
    column_begin = max(0, halo - left);
    column_end = min(side, static_cast<int>(a.width) + halo - left);
  }
  __device__ int keys() const { return (row_end - row_begin) * (column_end - column_begin); }
};

template <class T>
struct HaloHead {
  const HaloAttentionArgs& a;
  const Square& square;
  int64_t head, value_head;  // where the head's elements begin in a pixel
  int queries, keys, dim, value_dim;
  float scale;
  bool vector;
  const int32_t* place;  // [keys]: 65536 m + n
  const float* down;     // [kTileQueries][side]: of rows
  const float* across;   // [kTileQueries][side]: of columns

  __device__ int64_t query_pixel(int i) const {
    const int block = static_cast<int>(a.block);
    return (square.top + i / block) * a.width + square.left + i % block;
  }
  __device__ int64_t key_pixel(int j) const {
    const int m = place[j] >> 16, n = place[j] & 0xffff;
    return (square.top + m - a.halo) * a.width + square.left + n - a.halo;
  }
  __device__ const T* query(int i) const {
    return static_cast<const T*>(a.q) + query_pixel(i) * a.dim + head;
  }
  __device__ const T* key(int j) const {
    return static_cast<const T*>(a.k) + key_pixel(j) * a.dim + head;
  }
  __device__ const T* value(int j) const {
    return static_cast<const T*>(a.v) + key_pixel(j) * a.value_dim + value_head;
  }
  __device__ T* out(int i) const {
    return static_cast<T*>(a.out) + query_pixel(i) * a.value_dim + value_head;
  }
  __device__ float extra(int r, int j) const {
    return down[r * square.side + (place[j] >> 16)] + across[r * square.side + (place[j] & 0xffff)];
  }
};

template <class T, int kDepth, int kColumns>
__global__ void __launch_bounds__(kTileThreads)
    halo_attention_kernel(HaloAttentionArgs a, int tiles, int parts, bool vector) {
  using Sizes = Tile<kDepth, kColumns>;
  const int tile = blockIdx.x % tiles, part = blockIdx.x / tiles % parts;
  const Square square(a, blockIdx.x / tiles / parts);
  float* shared = reinterpret_cast<float*>(adfast_shared);
  float* down = shared + Sizes::kFloats;
  float* across = down + kTileQueries * square.side;
  int32_t* place = reinterpret_cast<int32_t*>(across + kTileQueries * square.side);
  const int dim = static_cast<int>(a.dim / a.heads);
  const int value_dim = static_cast<int>(a.value_dim / a.heads);
  const HaloHead<T> problem = {a,
                               square,
                               int64_t{blockIdx.y} * dim,
                               int64_t{blockIdx.y} * value_dim,
                               static_cast<int>(a.block * a.block),
                               square.keys(),
                               dim,
                               value_dim,
                               a.scale * kLog2E,
                               vector,
                               place,
                               down,
                               across};
  const int columns = square.column_end - square.column_begin;
  for (int j = threadIdx.x; j < problem.keys; j += kTileThreads) {
    place[j] = (square.row_begin + j / columns) << 16 | (square.column_begin + j % columns);
  }
  const int block = static_cast<int>(a.block), side = square.side;
  const int first = tile * kTileQueries, count = min(kTileQueries, problem.queries - first);
  for (int t = threadIdx.x; t < 2 * side * count; t += kTileThreads) {
    const int r = t / (2 * side), i = first + r, m = t % side;
    const bool row = t / side % 2 == 0;
    const float* term = row ? a.rows + int64_t{m - i / block + side - 1} * dim
                            : a.columns + int64_t{m - i % block + side - 1} * dim;
    const T* q = problem.query(i);
    float sum = 0;
    if (vector) {
      for (int d = 0; d < dim; d += 4) {
        float v[4], w[4];
        load<4>(q + d, v);
        load<4>(term + d, w);
#pragma unroll
        for (int e = 0; e < 4; e++) sum += v[e] * w[e];
      }
    } else {
      for (int d = 0; d < dim; d++) sum += widen(q[d]) * term[d];
    }
    (row ? down : across)[r * side + m] = sum * problem.scale;
  }
  // Between these tables and the first look at them lies a barrier of attend's.
  attend<T, kDepth, kColumns>(problem, first, part * Sizes::kValueWidth, shared);
}

template <class T, int kDepth, int kColumns>
cudaError_t run(const HaloAttentionArgs& a, Tile<kDepth, kColumns>, cudaStream_t stream) {
  using Sizes = Tile<kDepth, kColumns>;
  const bool vector = a.dim / a.heads % 4 == 0 && a.value_dim / a.heads % 4 == 0 && aligned(a.q) &&
                      aligned(a.k) && aligned(a.v) && aligned(a.out) && aligned(a.rows) &&
                      aligned(a.columns);
  const int64_t side = a.block + 2 * a.halo;
  const int64_t tiles = ceil_div(a.block * a.block, kTileQueries);
  const int64_t parts = ceil_div(a.value_dim / a.heads, Sizes::kValueWidth);
  const int64_t squares = (a.height / a.block) * (a.width / a.block);
  const int64_t words = Sizes::kFloats + 2 * kTileQueries * side + side * side;
  const dim3 grid(static_cast<unsigned>(tiles * parts * squares), static_cast<unsigned>(a.heads));
  return launch(halo_attention_kernel<T, kDepth, kColumns>, grid, kTileThreads,
                static_cast<size_t>(words) * sizeof(float), stream, a, static_cast<int>(tiles),
                static_cast<int>(parts), vector);
}

constexpr int kMeanColumns = 32, kMeanSlices = 8;

// legacy_mask: every query of a square reads the mean of its values or, where some lie outside the
// map, zeros; a value that is not a number stays one.
template <class T>
__global__ void __launch_bounds__(kMeanColumns* kMeanSlices)
    halo_average_kernel(HaloAttentionArgs a) {
  float* shared = reinterpret_cast<float*>(adfast_shared);  // [kMeanSlices][kMeanColumns]
  const Square square(a, blockIdx.x);
  const int lane = threadIdx.x % kMeanColumns, slice = threadIdx.x / kMeanColumns;
  const int64_t column = int64_t{blockIdx.y} * kMeanColumns + lane;
  const int keys = square.keys(), columns = square.column_end - square.column_begin;
  float sum = 0;
  if (column < a.value_dim) {
    for (int j = slice; j < keys; j += kMeanSlices) {
      const int64_t y = square.top + square.row_begin + j / columns - a.halo;
      const int64_t x = square.left + square.column_begin + j % columns - a.halo;
      sum += widen(static_cast<const T*>(a.v)[(y * a.width + x) * a.value_dim + column]);
    }
  }
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (column >= a.value_dim) return;
  sum = 0;
  for (int s = 0; s < kMeanSlices; s++) sum += shared[s * kMeanColumns + lane];
  sum *= keys == square.side * square.side ? 1.0f / static_cast<float>(keys) : 0.0f;
  const int block = static_cast<int>(a.block);
  for (int i = slice; i < block * block; i += kMeanSlices) {
    const int64_t pixel = (square.top + i / block) * a.width + square.left + i % block;
    static_cast<T*>(a.out)[pixel * a.value_dim + column] = narrow<T>(sum);
  }
}

}  // namespace

cudaError_t halo_attention(const HaloAttentionArgs& a, cudaStream_t stream) {
  return with_type(a.type, [&](auto type) {
    using T = typename decltype(type)::type;
    if (a.legacy_mask) {
      const int64_t squares = (a.height / a.block) * (a.width / a.block);
      const dim3 grid(static_cast<unsigned>(squares),
                      static_cast<unsigned>(ceil_div(a.value_dim, kMeanColumns)));
      return launch(halo_average_kernel<T>, grid, kMeanColumns * kMeanSlices,
                    kMeanColumns * kMeanSlices * sizeof(float), stream, a);
    }
    return with_tile(a.dim / a.heads, a.value_dim / a.heads,
                     [&](auto tile) { return run<T>(a, tile, stream); });
  });
}

}  // namespace adfast::kernels::cuda
