// The CPU kernels' one table: arithmetic on pointers and sizes, nothing else.
//
// Every kernel is written once (one header per family) and compiled once per instruction set;
// `select` hands out the table of the set asked for. Feature maps are channels-last,
// `[pixels][channels]`, f32 or bf16; everything small (tokens, maps, statistics) is f32, and all
// sums are taken in f32 or wider. Kernels neither allocate nor throw nor keep state: scratch comes
// from the caller, who asks the
// `*_scratch` functions how many floats to bring. Nothing here may include the STL: an inline
// function compiled with AVX-512 flags would leave a weak symbol that the linker may pick for every
// other file.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace adfast::kernels {

// u8 is written, see Levels; only linear reads it.
enum class DType : int32_t { f32 = 0, bf16 = 1, u8 = 3 };

// A u8 holds round(value * factor + zero), ties to even, clipped to 0..255; of a NaN, 0.
struct Levels {
  float factor = 1, zero = 0;
};

// avx512_bf16 and avx512_amx differ from avx512 in what is multiplied or stored in bf16 alone;
// avx512_amx has `linear` besides.
enum class Isa : int32_t { scalar = 0, avx2 = 1, avx512 = 2, avx512_bf16 = 3, avx512_amx = 4 };
constexpr Isa kIsas[] = {Isa::scalar, Isa::avx2, Isa::avx512, Isa::avx512_bf16, Isa::avx512_amx};

// One axis of a separable resampling: output i is sum_t weight[i * taps + t] * input[first[i] + t],
// with 0 <= first[i] and first[i] + taps <= the input's length.
struct ResampleAxis {
  int32_t size;  // outputs along this axis
  int32_t taps;
  const int32_t* first;  // [size]
  const float* weight;   // [size][taps]
};

// A frame of uint8 with any strides, or of uint16 whose grey pixels are neighbours, resampled,
// cropped (through the axes) and normalised. dst[y][x][c] = resampled(channel_offset[c])[y][x] *
// scale[c] + bias[c], rows row_begin..row_end - 1 only.
struct FrameArgs {
  const uint8_t* src;
  ptrdiff_t row_stride, pixel_stride;  // bytes, may be negative
  ptrdiff_t channel_offset[3];         // bytes from a pixel to its R, G, B; all equal for grey
  int32_t src_height, src_width;
  int32_t value_bytes;  // 1 or 2
  ResampleAxis y, x;
  float scale[3], bias[3];
  void* dst;  // [y.size][x.size][3]
  DType dtype;
  int32_t row_begin, row_end;
  float* scratch;  // frame_scratch(src_width) floats per concurrent call
};

// GTrans eq. 1 and 3 with the pooling done before the projection:
// out[g] = sum_p softmax_p(scale * (x[p] . weight[g] + bias[g])) * x[p], an online softmax over the
// pixels.
struct TokenAttentionArgs {
  const void* x;  // [pixels][channels]
  DType dtype;
  int64_t pixels, channels, groups;
  const float* weight;  // [groups][channels]
  const float* bias;    // [groups] or null
  float scale;
  float* out;  // [groups][channels]
  float* scratch;
};

// GTrans eq. 12 with the query projection folded into the keys:
// out[p] = residual[p] + sum_t softmax_t(scale * (x[p] . key[t] + key_bias[t])) * value[t].
struct ProjectorAttentionArgs {
  const void* x;         // [pixels][channels]
  const void* residual;  // [pixels][channels]
  DType dtype;           // of x, residual and out
  int64_t pixels, channels, tokens;
  const float* key;       // [tokens][channels]
  const float* key_bias;  // [tokens] or null
  const float* value;     // [tokens][channels]
  float scale;
  void* out;  // [pixels][channels]
  float* scratch;
};

// GTrans eq. 15-17 in one pass over both feature maps:
// map[p] = 0.5 * |a[p] - b[p]|^2 / pixels; mse = sum_p |a[p] - b[p]|^2 / pixels;
// cos = 1 - sum a.b / (sqrt(sum a.a) * sqrt(sum b.b)), the denominator kept >= 1e-12, computed so
// that it keeps its digits when a and b are nearly equal.
struct ScoreMapArgs {
  const void* a;
  const void* b;
  DType dtype;
  int64_t pixels, channels;
  float* map;  // [pixels]
  float* mse;  // [1]
  float* cos;  // [1]
};

// projector_attention followed by score_map(a = x, b = its output), the mapped features never
// written and never rounded to bf16.
struct ProjectorScoreMapArgs {
  ProjectorAttentionArgs projector;  // out is ignored
  float* map;
  float* mse;
  float* cos;
};

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

// Separable convolution with an odd kernel; the border mirrors without repeating the
// edge (torch's "reflect"). taps / 2 < min(height, width).
struct GaussianBlurArgs {
  const float* src;  // [height][width]
  int32_t height, width, taps;
  const float* kernel;  // [taps]
  float* dst;           // may not alias src
  float* scratch;
};

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
  float* scratch;
};

// How far a map is from the mean map of normal images: |x - mean|, squared or not.
struct CalibrateMapArgs {
  const float* x;
  const float* mean;
  int64_t count;
  bool square;
  float* out;
};

// The mean over every kernel_height x kernel_width window that lies inside the map: dst has height
// - kernel_height + 1 rows of width - kernel_width + 1; rows row_begin..row_end - 1 only.
struct BoxFilterArgs {
  const float* src;  // [height][width]
  int32_t height, width, kernel_height, kernel_width;
  float* dst;
  int32_t row_begin, row_end;
  float* scratch;  // width floats per concurrent call
};

// Bilinear resize of one f32 plane into rows row_begin..row_end - 1 of a plane of dst_height x
// dst_width.
struct ResizeBilinearArgs {
  const float* src;  // [height][width][channels]
  int32_t height, width, channels;
  float* dst;
  int32_t dst_height, dst_width;
  ptrdiff_t dst_row_stride;  // floats
  bool align_corners;
  int32_t row_begin, row_end;
};

// softmax(q k^T * scale) v per head; heads split the width of q, k (dim) and v (value_dim) evenly.
// Only the heads and queries of the ranges; a result does not depend on how they are split.
struct AttentionArgs {
  const float* q;  // [queries][dim]
  const float* k;  // [keys][dim]
  const float* v;  // [keys][value_dim]
  int64_t queries, keys, dim, value_dim, heads;
  float scale;
  int64_t head_begin, head_end;
  int64_t query_begin, query_end;
  float* out;      // [queries][value_dim]
  float* scratch;  // attention_scratch floats per concurrent call
  DType operands =
      DType::f32;  // of both products: f32, or rounded to bf16; softmax and sums are f32
};

// Attention within blocks: the queries of every block x block square of the map read the keys of
// the square and of a margin of `halo` pixels around it, those outside the map left out; heads
// split the width of q, k (dim) and v (value_dim) evenly. With side = block + 2 * halo, query (i,
// j) and key (m, n) of a square: logit = scale * q . (k + rows[m - i + side - 1] + columns[n - j +
// side - 1]). legacy_mask leaves out the keys inside the map instead, as the published code of
// HaloAE does: a square whose keys all lie inside then averages their values, any other reads the
// zeros outside. Only tasks task_begin..task_end - 1 of the height / block * width / block * heads;
// each is computed alike whoever computes it.
struct HaloAttentionArgs {
  const void* q;                       // [height][width][dim]
  const void* k;                       // [height][width][dim]
  const void* v;                       // [height][width][value_dim]
  DType dtype;                         // of q, k, v and out
  int64_t height, width, block, halo;  // height and width divisible by block
  int64_t dim, value_dim, heads;
  const float* rows;     // [dim / heads][2 * side - 1]: the table transposed
  const float* columns;  // [dim / heads][2 * side - 1]
  float scale;
  bool legacy_mask;
  int64_t task_begin, task_end;
  void* out;                    // [height][width][value_dim]
  float* scratch;               // halo_attention_scratch floats per concurrent call
  DType operands = DType::f32;  // of the products with k and v, bf16 only if dtype is
};

// A convolution of stride 1 with a square kernel by Winograd's algorithm, in two parts that work on
// one block of tiles; a tile is outputs x outputs pixels of y, counted in raster order. (outputs,
// kernel) is (2, 3), (4, 3) or (2, 5); winograd_weight also takes (1, 1), whose only point is the
// weight itself. y = x * weight + bias (+ residual), then relu if asked for,
// zeros being around x.
struct WinogradArgs {
  const void* x;  // [height][width][channels]
  DType dtype;    // of x and residual
  int64_t height, width, channels;
  int64_t out_height, out_width, out_channels;
  int64_t top, left;  // pixels of zeros before the first row and column
  int32_t outputs, kernel;
  DType operands;        // of the products at the points: f32, or bf16 if dtype is
  const void* weight;    // of winograd_weight
  const float* bias;     // [out_channels] or null
  const void* residual;  // [out_height][out_width][out_channels] or null
  bool relu;
  void* y;        // as residual
  DType y_dtype;  // as dtype, or u8
  Levels y_levels;
  int64_t block_begin, block_end;
  int64_t tile_begin, tile_end;    // of the block: what winograd_transform does
  int64_t panel_begin, panel_end;  // of winograd_panels: what winograd_multiply does
  float* tiles;                    // winograd_tiles words: the block's input at the points
  float* products;                 // winograd_products floats per concurrent call
};

enum class Unary : int32_t {
  identity,
  relu,
  sigmoid,
  silu,
  gelu,
  tanh,
  sqrt,
  exp,
  abs,
  square,
  neg
};

// y = activation(x * weight + bias); activation as in DepthwiseArgs.
struct MatvecArgs {
  const void* x;  // [depth]
  DType dtype;    // of x, weight and y
  int64_t depth, width;
  const void* weight;  // panels of kMatvecPanel outputs, each [depth][kMatvecPanel]
  const float* bias;   // [width] or null
  Unary activation;
  void* y;  // [width]
};
constexpr int64_t kMatvecPanel = 64;

// y = activation(x * weight^T + bias + residual) for many rows. The sums of u8 are whole numbers;
// factor and offset take them to values: with the zero z and the scales of x and weight, scale_x *
// scale_w[o] and bias[o] - z * factor[o] * sum of weight[o].
struct LinearArgs {
  const void* x;  // [rows][depth], rows at least kLinearRows
  DType x_dtype;  // bf16, or u8
  int64_t rows, depth, width;
  const void* weight;    // of linear_weight: bf16, or s8 for a u8 x
  const float* factor;   // [width] for a u8 x
  const float* offset;   // [width] or null
  const void* residual;  // [rows][width] or null
  DType residual_dtype;  // f32 or bf16
  Unary activation;      // identity, relu, sigmoid, silu, gelu or tanh
  void* y;               // [rows][width]
  DType y_dtype;
  Levels y_levels;
  int64_t row_begin, row_end;
  int64_t panel_begin, panel_end;  // of linear_panels
};
constexpr int64_t kLinearRows = 32, kLinearPanel = 32;  // computed together

// The same with an eighth of the products less, by Strassen's algorithm. Of `linear`: x is f32, or
// bf16 with a depth that is a multiple of 4; depth and width are even; row_begin is even, and
// row_end too unless it is `rows`; the weight is that of strassen_weight, the panels are
// strassen_panels; factor is ignored.
struct StrassenArgs {
  LinearArgs linear;
  int64_t block;   // pairs of rows computed together
  float* scratch;  // strassen_scratch floats per concurrent call
};

// A convolution of every channel by itself, kernel 3 or 5, stride 1 or 2, zeros being around x:
// y = activation(x * weight + bias). Rows row_begin..row_end - 1 and channels channel_begin..
// channel_end - 1 of y only.
struct DepthwiseArgs {
  const void* x;    // [height][width][x_pixel]
  int64_t x_pixel;  // at least channels
  DType dtype;      // of x and y
  int64_t height, width, channels;
  int64_t out_height, out_width;
  int64_t top, left;  // pixels of zeros before the first row and column
  int32_t kernel, stride;
  const float* weight;  // [kernel][kernel][channels]
  const float* bias;    // [channels] or null
  Unary activation;     // identity, relu, silu or sigmoid
  void* y;              // [out_height][out_width][channels]
  int64_t row_begin, row_end;
  int64_t channel_begin, channel_end;
};

// A convolution of 1x1 that widens a map, and the depthwise one that reads it: an inverted
// bottleneck up to its gate. What lies between is kept in f32, a panel of channels and a band of
// rows at a time, and never written.
struct ExpandDepthwiseArgs {
  const void* x;  // [height][width][channels]; sizes but channels, and dtype, are depthwise's
  int64_t channels;
  const void* weight;              // of winograd_weight for 1 output and a kernel of 1
  const float* bias;               // [depthwise.channels] or null
  Unary activation;                // as depthwise's
  DepthwiseArgs depthwise;         // x, x_pixel, channel_begin and channel_end are ignored
  int64_t band;                    // rows of y computed together
  int64_t panel_begin, panel_end;  // of winograd_panels(depthwise.channels)
  float* scratch;                  // expand_depthwise_scratch floats per concurrent call
};

// out = (x - mean) / sqrt(var + eps) * gamma + beta (+ residual), per row.
struct LayerNormArgs {
  const float* x;  // [rows][width]
  const float* gamma;
  const float* beta;
  const float* residual;  // [rows][width] or null
  int64_t rows, width;
  float eps;
  void* out;  // may alias x or residual if it is f32
  DType out_dtype = DType::f32;
  Levels out_levels = {};
};

struct SoftmaxArgs {
  const float* x;  // [rows][width]
  int64_t rows, width;
  float* out;
};

// identity converts between dtypes, to bf16 by rounding to nearest, ties to even. out may be x if
// the dtypes are equal.
struct UnaryArgs {
  Unary op;
  const void* x;
  DType x_dtype;
  void* out;
  DType out_dtype;
  int64_t count;
  Levels out_levels = {};
};

enum class Binary : int32_t { add, sub, mul, div, max, min };

// b is broadcast: b_count == count (same shape), 1 (scalar), or width (a vector along the last
// axis).
struct BinaryArgs {
  Binary op;
  const void* a;
  DType a_dtype;
  const void* b;
  DType b_dtype;
  int64_t count, b_count;
  void* out;
  DType out_dtype;
  Levels out_levels = {};
};

enum class Reduce : int32_t { sum, mean, max };

// Reduces the axis `width` of [rows][width][inner]: a channels-last feature map over its channels
// or a whole map with rows = 1, and, with inner > 1, windows over their tokens. The maximum is NaN
// if any element is.
struct ReduceArgs {
  Reduce op;
  const void* x;
  DType dtype;
  int64_t rows, width;
  float* out;  // [rows][inner]
  int64_t inner = 1;
};

struct Table {
  Isa isa;
  const char* name;  // as in Isa
  bool fast_pairs;   // products of operands in bf16 have an instruction
  bool tiles;        // attention's have one for whole tiles, which is far faster
  void (*frame_to_tensor)(const FrameArgs&);
  void (*token_attention)(const TokenAttentionArgs&);
  void (*projector_attention)(const ProjectorAttentionArgs&);
  void (*score_map)(const ScoreMapArgs&);
  void (*projector_score_map)(const ProjectorScoreMapArgs&);
  void (*fuse_maps)(const FuseMapsArgs&);
  void (*gaussian_blur)(const GaussianBlurArgs&);
  void (*gms_map)(const GmsMapArgs&);
  void (*calibrate_map)(const CalibrateMapArgs&);
  void (*box_filter)(const BoxFilterArgs&);
  void (*resize_bilinear)(const ResizeBilinearArgs&);
  void (*attention)(const AttentionArgs&);
  void (*halo_attention)(const HaloAttentionArgs&);
  void (*winograd_transform)(const WinogradArgs&);  // x -> tiles
  void (*winograd_multiply)(const WinogradArgs&);   // tiles -> y
  void (*depthwise)(const DepthwiseArgs&);
  void (*expand_depthwise)(const ExpandDepthwiseArgs&);
  void (*matvec)(const MatvecArgs&);
  void (*linear)(const LinearArgs&);  // null: no tiles
  void (*strassen)(const StrassenArgs&);
  void (*layer_norm)(const LayerNormArgs&);
  void (*softmax)(const SoftmaxArgs&);
  void (*unary)(const UnaryArgs&);
  void (*binary)(const BinaryArgs&);
  void (*reduce)(const ReduceArgs&);
};

// Floats of scratch a call needs, the same for every instruction set.
size_t frame_scratch(int32_t src_width);
size_t token_attention_scratch(int64_t channels, int64_t groups);
size_t projector_attention_scratch(int64_t channels, int64_t tokens);
size_t gaussian_blur_scratch(int32_t height, int32_t width, int32_t taps);
size_t gms_map_scratch(int64_t width, int64_t channels);
size_t attention_scratch(int64_t keys, int64_t head_dim, int64_t head_value_dim);
size_t halo_attention_scratch(int64_t block, int64_t halo, int64_t head_dim,
                              int64_t head_value_dim);

size_t winograd_tiles(int64_t tiles, int64_t channels, int32_t outputs, int32_t kernel,
                      DType operands);
size_t winograd_products(int64_t tiles, int32_t outputs, int32_t kernel);

// Of the rows of the wide map that `band` rows of y read.
size_t expand_depthwise_scratch(int64_t width, int32_t kernel, int32_t stride, int64_t band);

// Panels of output channels that are computed together.
int64_t winograd_panels(int64_t out_channels);
// Takes a kernel, [out_channels][channels][kernel][kernel], to the points: winograd_weight_size
// words of four bytes.
void winograd_weight(const float* weight, int64_t out_channels, int64_t channels, int32_t outputs,
                     int32_t kernel, DType operands, void* packed);
size_t winograd_weight_size(int64_t out_channels, int64_t channels, int32_t outputs, int32_t kernel,
                            DType operands);

// Panels of outputs that linear computes together.
int64_t linear_panels(int64_t width);
// Takes a matrix, [width][depth] in bf16 or s8, to panels: linear_weight_bytes.
void linear_weight(const void* weight, int64_t width, int64_t depth, DType x_dtype, void* packed);
size_t linear_weight_bytes(int64_t width, int64_t depth, DType x_dtype);

// Panels of outputs that strassen computes together, of each half of them.
int64_t strassen_panels(int64_t width);
// Takes a matrix, [width][depth], to the seven sums of its quarters: strassen_weight_size words of
// four bytes.
void strassen_weight(const float* weight, int64_t width, int64_t depth, DType operands,
                     void* packed);
size_t strassen_weight_size(int64_t width, int64_t depth, DType operands);
size_t strassen_scratch(int64_t block, int64_t depth, DType operands);

// The best set this processor (and its operating system) runs.
Isa best_isa();
// The table of `isa`; null when the processor lacks it.
const Table* select(Isa isa);

// In this thread, subnormal results and operands count as zero (they cost many times a normal
// operation). Returns the previous control word for `restore_denormals`.
uint32_t flush_denormals();
void restore_denormals(uint32_t previous);

}  // namespace adfast::kernels
