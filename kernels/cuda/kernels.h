// The CUDA kernels: arithmetic on device pointers and sizes, on a stream.
//
// A launcher checks nothing, allocates nothing and waits for nothing; it returns what the launch
// returned. Feature maps are channels-last, `[pixels][channels]`, in f32, f16 or bf16; everything
// small (tokens of GTrans, maps, statistics) is f32, and all sums are taken in f32. No sum uses
// atomics, so the same arguments give the same bits. Scratch comes from the caller, who asks the
// `*_scratch` functions how many floats to bring. All pointers are device pointers aligned to 16
// bytes, except where a struct says otherwise.
#pragma once
#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

namespace adfast::kernels::cuda {

enum class Type : int32_t { f32 = 0, bf16 = 1, u8 = 3, f16 = 4 };

// Output i of an axis is sum_t weight[i * taps + t] * input[first[i] + t].
struct ResampleAxis {
  int32_t size, taps;
  const int32_t* first;  // [size]
  const float* weight;   // [size][taps]
};

// A uint8 frame resampled, cropped (through the axes) and normalised:
// dst[y][x][c] = resampled(channel[c])[y][x] * scale[c] + bias[c].
struct FrameArgs {
  const void* src;      // [src_height][src_width][src_channels], aligned to its values
  int32_t value_bytes;  // 1 or 2
  int32_t src_height, src_width, src_channels;
  int32_t channel[3];  // which channel of src is red, green, blue
  ResampleAxis y, x;
  float scale[3], bias[3];
  void* dst;  // [y.size][x.size][3]
  Type type;
};
cudaError_t frame_to_tensor(const FrameArgs& args, cudaStream_t stream);

enum class Unary : int32_t {
  identity,
  relu,
  sigmoid,
  silu,
  gelu,  // by the error function
  tanh,
  sqrt,
  exp,
  abs,
  square,
  neg
};

// identity converts between types, rounding to nearest, ties to even. out may be x if the types
// are equal.
struct UnaryArgs {
  Unary op;
  const void* x;
  Type x_type;
  void* out;
  Type out_type;
  int64_t count;
};
cudaError_t unary(const UnaryArgs& args, cudaStream_t stream);

enum class Binary : int32_t { add, sub, mul, div, max, min };

// b is repeated: b_count == count (same shape), 1 (scalar), or a divisor of count (a vector along
// the last axes). max and min give NaN if either is.
struct BinaryArgs {
  Binary op;
  const void* a;
  Type a_type;
  const void* b;
  Type b_type;
  int64_t count, b_count;
  void* out;
  Type out_type;
};
cudaError_t binary(const BinaryArgs& args, cudaStream_t stream);

// out = activation(x + bias + residual), rows of `width`: what a library's product could not fuse.
// A gelu, silu or sigmoid that is rounded to a half precision is computed to some 16 bits.
struct EpilogueArgs {
  const void* x;  // [parts][rows][width], the parts to be added up; may be out if there is one part
                  // and the types are equal
  Type x_type;
  const float* bias;     // [width] or null
  const void* residual;  // [rows][width] or null
  Type residual_type;
  Unary activation;
  int64_t rows, width;
  void* out;
  Type out_type;
  int64_t parts = 1;
};
cudaError_t epilogue(const EpilogueArgs& args, cudaStream_t stream);

// out = activation(x * weight^T + bias + residual) for a few rows, as squeeze-and-excite blocks and
// GTrans's tokens have them. Activations as in an epilogue.
struct ThinProductArgs {
  const void* x;         // [rows][depth]
  const void* weight;    // [width][depth]
  Type type;             // of x and weight
  const float* bias;     // [width] or null
  const void* residual;  // [rows][width] as out, or null
  Unary activation;
  int64_t rows, depth, width;
  void* out;  // [rows][width]
  Type out_type;
};
cudaError_t thin_product(const ThinProductArgs& args, cudaStream_t stream);

// out = (x - mean) / sqrt(var + eps) * gamma + beta (+ residual), per row, in two passes.
struct LayerNormArgs {
  const float* x;  // [rows][width]
  const float* gamma;
  const float* beta;
  const float* residual;  // [rows][width] or null
  int64_t rows, width;
  float eps;
  void* out;  // [rows][width]
  Type out_type;
};
cudaError_t layer_norm(const LayerNormArgs& args, cudaStream_t stream);

struct SoftmaxArgs {
  const float* x;  // [rows][width]
  int64_t rows, width;
  float* out;
};
cudaError_t softmax(const SoftmaxArgs& args, cudaStream_t stream);

enum class Reduce : int32_t { sum, mean, max };

// Reduces the axis `width` of [rows][width][inner]. The maximum is NaN if any element is. Few long
// rows (a whole map with rows = inner = 1) are shared among blocks, which need the scratch.
struct ReduceArgs {
  Reduce op;
  const void* x;
  Type type;
  int64_t rows, width, inner;
  void* out;  // [rows][inner]
  float* scratch;
  Type out_type = Type::f32;
};
size_t reduce_scratch(int64_t rows, int64_t width, int64_t inner);
cudaError_t reduce(const ReduceArgs& args, cudaStream_t stream);

// Copies `outer` strips of `bytes` bytes, a multiple of 2: from in + i * in_stride to
// out + i * out_stride (strides in bytes). in and out need an alignment of 2 only.
struct CopyStripsArgs {
  const void* in;
  void* out;
  int64_t outer, bytes, in_stride, out_stride;
};
cudaError_t copy_strips(const CopyStripsArgs& args, cudaStream_t stream);

// out[i][j] = in[rows[i]][columns[j]], pixels of `bytes` bytes, a multiple of 2.
struct CopyPixelsArgs {
  const void* in;  // [..][in_width] pixels
  void* out;       // [height][width] pixels
  int64_t in_width, height, width, bytes;
  const int32_t* rows;     // [height]
  const int32_t* columns;  // [width]
};
cudaError_t copy_pixels(const CopyPixelsArgs& args, cudaStream_t stream);

// out[i] = in[index[i]], rows of `bytes` bytes, a multiple of 2.
struct GatherRowsArgs {
  const void* in;
  void* out;
  int64_t rows, bytes;
  const int32_t* index;  // [rows]
};
cudaError_t gather_rows(const GatherRowsArgs& args, cudaStream_t stream);

// A pixel's channels hold, row by row, the pixels of a block x block square:
// out[y * block + i][x * block + j] = in[y][x][i][j], each of `bytes` bytes, a multiple of 2.
struct DepthToSpaceArgs {
  const void* in;  // [height][width][block][block] of `bytes`
  void* out;       // [height * block][width * block] of `bytes`
  int64_t height, width, block, bytes;
};
cudaError_t depth_to_space(const DepthToSpaceArgs& args, cudaStream_t stream);

// A convolution's windows as rows of a matrix: out[y * out_width + x] holds the pixels of the
// window of output (y, x), row by row, zeros outside the map, and zeros up to row_bytes.
struct UnfoldArgs {
  const void* in;                // [height][width] pixels
  void* out;                     // [out_height * out_width][row_bytes]
  int64_t height, width, bytes;  // of a pixel, a multiple of 2
  int64_t kernel_height, kernel_width, stride_y, stride_x, top, left, dilation_y, dilation_x;
  int64_t out_height, out_width;
  int64_t row_bytes;  // a multiple of 16, at least kernel_height * kernel_width * bytes
};
cudaError_t unfold(const UnfoldArgs& args, cudaStream_t stream);

// dst[y][x][c], bilinear with half-pixel centres, the border clamped, or with aligned corners (as
// torch's interpolate). Rows of dst lie dst_row_stride floats apart.
struct ResizeBilinearArgs {
  const float* src;  // [height][width][channels]
  int32_t height, width, channels;
  float* dst;  // alignment of 4
  int32_t dst_height, dst_width;
  int64_t dst_row_stride;
  bool align_corners;
};
cudaError_t resize_bilinear(const ResizeBilinearArgs& args, cudaStream_t stream);

// Sliding windows over a feature map; what lies in the padding never wins a maximum, and counts in
// a mean's divisor only if asked for.
struct PoolArgs {
  const void* x;  // [height][width][channels]
  Type type;      // of x and out
  int32_t height, width, channels;
  int32_t kernel_height, kernel_width, stride_y, stride_x, top, left, bottom, right;
  int32_t out_height, out_width;
  bool count_include_pad;
  void* out;  // [out_height][out_width][channels]
};
cudaError_t max_pool(const PoolArgs& args, cudaStream_t stream);
cudaError_t avg_pool(const PoolArgs& args, cudaStream_t stream);

// A convolution with groups: what the library does slowly or not at all. Depthwise (groups ==
// channels == out_channels) has a path of its own.
// y = activation(x * weight + bias + residual).
struct GroupConvArgs {
  const void* x;  // [height][width][channels]
  Type type;      // of x, residual and y
  int32_t height, width, channels;
  int32_t out_height, out_width, out_channels, groups;
  int32_t kernel_height, kernel_width, stride_y, stride_x, top, left, dilation_y, dilation_x;
  const float* weight;   // [kernel_height][kernel_width][channels / groups][out_channels]
  const float* bias;     // [out_channels] or null
  const void* residual;  // as y, or null
  Unary activation;
  void* y;  // [out_height][out_width][out_channels]
};
cudaError_t group_conv(const GroupConvArgs& args, cudaStream_t stream);

// softmax(q k^T * scale) v per window and head; heads split the width of q, k (dim) and v
// (value_dim) evenly.
struct AttentionArgs {
  const void* q;  // [windows][queries][dim]
  const void* k;  // [windows][keys][dim]
  const void* v;  // [windows][keys][value_dim]
  Type type;      // of q, k, v and out
  int64_t windows, queries, keys, dim, value_dim, heads;
  float scale;
  void* out;  // [windows][queries][value_dim]
};
cudaError_t attention(const AttentionArgs& args, cudaStream_t stream);

// Attention within blocks: the queries of every block x block square of the map read the keys of
// the square and of a margin of `halo` pixels around it, those outside the map left out. With side
// = block + 2 * halo, query (i, j) and key (m, n) of a square: logit = scale * q . (k + rows[m - i
// + side - 1] + columns[n - j + side - 1]). legacy_mask leaves out the keys inside the map instead,
// as the published code of HaloAE does: a square whose keys all lie inside then averages their
// values, any other reads the zeros outside.
struct HaloAttentionArgs {
  const void* q;                       // [height][width][dim]
  const void* k;                       // [height][width][dim]
  const void* v;                       // [height][width][value_dim]
  Type type;                           // of q, k, v and out
  int64_t height, width, block, halo;  // height and width divisible by block
  int64_t dim, value_dim, heads;
  const float* rows;     // [2 * side - 1][dim / heads]
  const float* columns;  // [2 * side - 1][dim / heads]
  float scale;
  bool legacy_mask;
  void* out;  // [height][width][value_dim]
};
cudaError_t halo_attention(const HaloAttentionArgs& args, cudaStream_t stream);

// GTrans eq. 1 and 3 with the pooling done before the projection:
// out[g] = sum_p softmax_p(scale * (x[p] . weight[g] + bias[g])) * x[p].
struct TokenAttentionArgs {
  const void* x;  // [pixels][channels]
  Type type;
  int64_t pixels, channels, groups;
  const float* weight;  // [groups][channels]
  const float* bias;    // [groups] or null
  float scale;
  float* out;  // [groups][channels]
  float* scratch;
};
size_t token_attention_scratch(int64_t pixels, int64_t channels, int64_t groups);
cudaError_t token_attention(const TokenAttentionArgs& args, cudaStream_t stream);

// GTrans eq. 12 with the query projection folded into the keys:
// out[p] = residual[p] + sum_t softmax_t(scale * (x[p] . key[t] + key_bias[t])) * value[t].
struct ProjectorAttentionArgs {
  const void* x;         // [pixels][channels]
  const void* residual;  // [pixels][channels]
  Type type;             // of x, residual and out
  int64_t pixels, channels, tokens;
  const float* key;       // [tokens][channels]
  const float* key_bias;  // [tokens] or null
  const float* value;     // [tokens][channels]
  float scale;
  void* out;  // [pixels][channels]
};
cudaError_t projector_attention(const ProjectorAttentionArgs& args, cudaStream_t stream);

// GTrans eq. 15-17 in one pass over both feature maps:
// map[p] = 0.5 * |a[p] - b[p]|^2 / pixels; mse = sum_p |a[p] - b[p]|^2 / pixels;
// cos = 1 - sum a.b / (sqrt(sum a.a) * sqrt(sum b.b)), the denominator kept >= 1e-12, computed so
// that it keeps its digits when a and b are nearly equal.
struct ScoreMapArgs {
  const void* a;
  const void* b;
  Type type;
  int64_t pixels, channels;
  float* map;  // [pixels]
  float* mse;  // [1]
  float* cos;  // [1]
  float* scratch;
};
size_t score_map_scratch(int64_t pixels, int64_t channels);
cudaError_t score_map(const ScoreMapArgs& args, cudaStream_t stream);

// projector_attention followed by score_map(a = x, b = its output), the mapped features never
// written and never rounded.
struct ProjectorScoreMapArgs {
  ProjectorAttentionArgs projector;  // out is ignored
  float* map;
  float* mse;
  float* cos;
  float* scratch;  // score_map_scratch floats
};
cudaError_t projector_score_map(const ProjectorScoreMapArgs& args, cudaStream_t stream);

// GTrans eq. 18-19 and table 7. Layer l's map, bilinearly upsampled (align_corners = false) to
// height x width, is weighted by alpha_l = lambda_l cos_l mse_l / (mse_l + lambda_l cos_l), 0 when
// that denominator is 0. With M_l the weighted map: mode 1: M3; 2: M1 M3; 3: M2 M3; 4: M1 + M2 +
// M3; 5: M1 M2 M3; 6: M1 M3 + M2 M3.
struct FuseMapsArgs {
  const float* map[3];
  int32_t map_height[3], map_width[3];
  const float* mse[3];
  const float* cos[3];
  const float* lambda;  // [3]
  int32_t mode;
  int32_t height, width;
  float* out;  // [height][width]
};
cudaError_t fuse_maps(const FuseMapsArgs& args, cudaStream_t stream);

// Separable convolution with an odd kernel; the border mirrors without repeating the edge (torch's
// "reflect"). taps / 2 < min(height, width).
struct GaussianBlurArgs {
  const float* src;  // [height][width]
  int32_t height, width, taps;
  const float* kernel;  // [taps]
  float* dst;           // may not alias src
  float* scratch;       // height * width floats
};
cudaError_t gaussian_blur(const GaussianBlurArgs& args, cudaStream_t stream);

// How unlike the gradients of two images are (gradient magnitude similarity, RIAD and InTra eq.
// 11): out[p] = 1 - mean_c (2 g_a g_b + c) / (g_a^2 + g_b^2 + c), g the length of the gradient by
// Prewitt's filters divided by 3, the border replicated. Computed as mean_c (g_a - g_b)^2 / (g_a^2
// + g_b^2 + c), which is the same and keeps its digits where the images are nearly equal.
struct GmsMapArgs {
  const float* a;
  const float* b;
  int64_t height, width, channels;  // [height][width][channels]
  float c;
  float* out;  // [height][width]
};
cudaError_t gms_map(const GmsMapArgs& args, cudaStream_t stream);

// How far a map is from the mean map of normal images: |x - mean|, squared or not.
struct CalibrateMapArgs {
  const float* x;
  const float* mean;
  int64_t count;
  bool square;
  float* out;
};
cudaError_t calibrate_map(const CalibrateMapArgs& args, cudaStream_t stream);

}  // namespace adfast::kernels::cuda
