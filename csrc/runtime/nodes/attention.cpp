// Attention, and what GTrans makes of tokens and pixels.
#include <algorithm>

#include "core/frame.h"
#include "runtime/nodes/common.h"

namespace adfast::nodes {
namespace {

// How many keys of all blocks along one axis lie inside the map.
int64_t inside(int64_t size, int64_t block, int64_t halo) {
  int64_t total = 0;
  for (int64_t first = 0; first < size; first += block) {
    total += std::min(size, first + block + halo) - std::max<int64_t>(0, first - halo);
  }
  return total;
}

Projector projector(const OperatorRequest& request) {
  const Shape& x = feature_map(request, 0);
  require_shape(request, 1, x);
  const Shape& key = request.inputs[2]->shape;
  require(key.size() == 3 && key[0] == 1 && key[2] == x[1], request.node,
          "key: expected [1,tokens," + std::to_string(x[1]) + "], got " + to_string(key));
  if (input_or_null(request, 3) != nullptr) require_shape(request, 3, {1, key[1], 1});
  require_shape(request, 4, key);
  for (size_t i = 2; i < 5; ++i) {
    const Tensor* tensor = request.inputs[i];
    require(tensor == nullptr || !tensor->constant, request.node,
            "key and value must be computed, not constant");
  }
  return {x[2] * x[3], x[1], key[1], real(request.node, "scale")};
}

}  // namespace

Attention attention(const OperatorRequest& request) {
  const Node& node = request.node;
  const Shape& q = request.inputs[0]->shape;
  const Shape& k = request.inputs[1]->shape;
  const Shape& v = request.inputs[2]->shape;
  const int64_t heads = node.attrs.integer("heads");
  const bool fits = q.size() == 3 && k.size() == 3 && v.size() == 3 && q[0] == k[0] &&
                    q[0] == v[0] && q[2] == k[2] && k[1] == v[1] && heads >= 1 &&
                    q[2] % heads == 0 && v[2] % heads == 0;
  require(fits, node,
          "expected q [W,tq,d], k [W,tk,d], v [W,tk,dv], widths divisible by heads = " +
              std::to_string(heads) + ", got " + to_string(q) + ", " + to_string(k) + ", " +
              to_string(v));
  require_result(request, 0, {q[0], q[1], v[2]});
  return {q[0],
          q[1],
          k[1],
          q[2],
          v[2],
          heads,
          real(node, "scale"),
          2.0 * q[0] * q[1] * k[1] * (q[2] + v[2])};
}

HaloAttention halo_attention(const OperatorRequest& request) {
  const Node& node = request.node;
  const Shape& q = request.inputs[0]->shape;
  const Shape& v = request.inputs[2]->shape;
  const int64_t block = node.attrs.integer("block"), halo = node.attrs.integer("halo");
  const int64_t heads = node.attrs.integer("heads"), legacy = node.attrs.integer("legacy_mask");
  require(block >= 1 && block <= max_frame_side && halo >= 0 && halo <= max_frame_side &&
              heads >= 1 && (legacy == 0 || legacy == 1),
          node, "block, halo, heads or legacy_mask is out of range");
  require(q.size() == 4 && v.size() == 4 && q[0] == 1 && q[2] % block == 0 && q[3] % block == 0 &&
              q[1] % heads == 0 && v[1] % heads == 0,
          node,
          "expected q and v [1,C,H,W], H and W divisible by block = " + std::to_string(block) +
              ", C by heads = " + std::to_string(heads) + ", got " + to_string(q) + " and " +
              to_string(v));
  require_shape(request, 1, q);
  require_shape(request, 2, {1, v[1], q[2], q[3]});
  require_result(request, 0, v);
  for (size_t i : {3, 4}) {
    constant(request, i);
    require_shape(request, i, {2 * (block + 2 * halo) - 1, q[1] / heads});
  }
  const double pairs =
      static_cast<double>(block * block) * inside(q[2], block, halo) * inside(q[3], block, halo);
  return {q[2],        q[3],
          block,       halo,
          q[1],        v[1],
          heads,       real(node, "scale"),
          legacy == 1, 2.0 * pairs * (q[1] + v[1])};
}

TokenAttention token_attention(const OperatorRequest& request) {
  const Shape& x = feature_map(request, 0);
  TokenAttention args{x[2] * x[3],           x[1],    0,
                      &constant(request, 1), nullptr, real(request.node, "scale")};
  const Shape& weight = args.weight->shape;
  require(weight.size() == 2 && weight[1] == x[1], request.node,
          "weight: expected [groups," + std::to_string(x[1]) + "], got " + to_string(weight));
  args.groups = weight[0];
  require_result(request, 0, {1, args.groups, x[1]});
  if (input_or_null(request, 2) != nullptr) {
    require_shape(request, 2, {args.groups});
    args.bias = &constant(request, 2);
  }
  return args;
}

Projector projector_attention(const OperatorRequest& request) {
  const Projector args = projector(request);
  require_result(request, 0, request.inputs[0]->shape);
  return args;
}

Projector projector_score_map(const OperatorRequest& request) {
  const Projector args = projector(request);
  require_scores(request, request.inputs[0]->shape);
  return args;
}

}  // namespace adfast::nodes
