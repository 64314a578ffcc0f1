// What each node asks for, its attributes and shapes checked: what every backend needs to know
// before it chooses an implementation. All throw ErrorKind::plan in the words "[op 'name'] what:
// expected ..., got ...". Sizes are those of the table of ops, python/adfast/compiler/ops.py.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/error.h"
#include "runtime/operator.h"

namespace adfast::nodes {

[[noreturn]] void refuse(const Node& node, const std::string& what);
inline void require(bool holds, const Node& node, const std::string& what) {
  if (!holds) refuse(node, what);
}
void require_shape(const OperatorRequest& request, size_t input, const Shape& expected);
void require_result(const OperatorRequest& request, size_t output, const Shape& expected);
const Tensor& constant(const OperatorRequest& request, size_t input);
const Tensor* input_or_null(const OperatorRequest& request, size_t input);
std::vector<float> floats(const Tensor& constant);
std::vector<int32_t> integers(const Tensor& index);

// An input of shape [1,C,H,W].
const Shape& feature_map(const OperatorRequest& request, size_t input);

enum class Activation { none, relu, sigmoid, silu, gelu, tanh };
Activation activation(const Node& node);

struct Frame {
  int64_t height, width;
  std::array<float, 3> scale, bias;
};
Frame frame(const OperatorRequest& request);

// A sliding window over the rows and columns of a map.
struct Window {
  std::array<int64_t, 2> kernel, strides, begin, end, dilations;

  bool dense() const;  // stride and dilation 1
};

struct Convolution {
  Shape x, y;
  const Tensor* weight;    // [O,I/groups,kh,kw]
  const Tensor* bias;      // [O] or null
  const Tensor* residual;  // as y, or null
  int64_t groups;
  Window window;
  Activation activation;
  double flops;
};
Convolution convolution(const OperatorRequest& request);

struct Pool {
  Shape x, y;
  Window window;
};
Pool pool(const OperatorRequest& request);

struct Linear {
  int64_t rows, depth, width;
  const Tensor* weight;    // [width,depth]
  const Tensor* bias;      // [width] or null
  const Tensor* residual;  // as the result, or null
  Activation activation;
};
Linear linear(const OperatorRequest& request);

struct Attention {
  int64_t windows, queries, keys, dim, value_dim, heads;
  float scale;
  double flops;
};
Attention attention(const OperatorRequest& request);

struct HaloAttention {
  int64_t height, width, block, halo, dim, value_dim, heads;
  float scale;
  bool legacy_mask;
  double flops;
};
HaloAttention halo_attention(const OperatorRequest& request);

struct TokenAttention {
  int64_t pixels, channels, groups;
  const Tensor* weight;  // [groups,channels]
  const Tensor* bias;    // [groups] or null
  float scale;
};
TokenAttention token_attention(const OperatorRequest& request);

struct Projector {
  int64_t pixels, channels, tokens;
  float scale;
};
Projector projector_attention(const OperatorRequest& request);
Projector projector_score_map(const OperatorRequest& request);

struct Features {
  int64_t pixels, channels;
};
Features score_map(const OperatorRequest& request);

struct FuseMaps {
  std::array<int32_t, 3> map_height, map_width;
  const Tensor* lambda;  // [3]
  int32_t mode, height, width;
};
FuseMaps fuse_maps(const OperatorRequest& request);

struct GaussianBlur {
  int32_t height, width, taps;
  const Tensor* kernel;  // [taps]
};
GaussianBlur gaussian_blur(const OperatorRequest& request);

struct GmsMap {
  int64_t height, width, channels;
  float c;
};
GmsMap gms_map(const OperatorRequest& request);

struct CalibrateMap {
  int64_t count;
  bool square;
  const Tensor* mean;
};
CalibrateMap calibrate_map(const OperatorRequest& request);

struct Rows {
  int64_t rows, width;
};
struct LayerNorm : Rows {
  const Tensor *gamma, *beta;  // [width]
  bool residual;
  float eps;
};
LayerNorm layer_norm(const OperatorRequest& request);
Rows softmax(const OperatorRequest& request);

// The reduced axis is `width` of [rows][width][inner].
struct Reduce : Rows {
  int64_t inner;
};
Reduce reduce(const OperatorRequest& request);

// How often the second operand repeats: it has b_count elements.
struct Binary {
  int64_t count, b_count;
};
Binary binary(const OperatorRequest& request);

// A concatenation or a slice: `outer` strips, each input's (or the result's) `inner` elements long,
// at `offset` elements in a strip of `whole` elements.
struct Strips {
  struct Piece {
    int64_t inner, offset;
  };
  int64_t outer, whole;
  std::vector<Piece> pieces;
};
Strips concat(const OperatorRequest& request);
Strips slice(const OperatorRequest& request);

// Copies of pixels: y[i][j] = x[rows[i]][columns[j]].
struct Pixels {
  std::vector<int32_t> rows, columns;
};
Pixels resize_nearest(const OperatorRequest& request);
Pixels reflection_pad2d(const OperatorRequest& request);

struct Resize {
  int32_t channels, height, width, out_height, out_width;
  bool align_corners;
};
Resize resize_bilinear(const OperatorRequest& request);

struct Gather {
  int64_t width;
  std::vector<int32_t> rows;
};
Gather window_gather(const OperatorRequest& request);

struct DepthToSpace {
  int64_t height, width, block, channels;  // channels: of the result
};
DepthToSpace depth_to_space(const OperatorRequest& request);

// tokens, feature_map, view: the elements in the order they already lie in.
void reinterpretation(const OperatorRequest& request);

}  // namespace adfast::nodes
