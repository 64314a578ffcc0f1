#include "backends/cuda/halo.h"

#include <string>

namespace adfast::cuda {

using kernels::cuda::HaloAttentionArgs;
using kernels::cuda::Type;

const TritonKernel* triton_halo_attention(const HaloAttentionArgs& args, TritonKernels& triton) {
  // In f32 tensor cores would round the products.
  if (args.type == Type::f32 || !(args.scale > 0)) return nullptr;
  if (args.block != 12 || args.halo != 2 || args.dim != 16 * args.heads ||
      args.value_dim != args.dim) {
    return nullptr;
  }
  const std::string type = args.type == Type::f16 ? "fp16" : "bf16";
  return triton.find("halo_attention_" + type + "_b12h2_d16" + (args.legacy_mask ? "_legacy" : ""));
}

cudaError_t launch_halo_attention(const TritonKernel* fast, const HaloAttentionArgs& args,
                                  cudaStream_t stream) {
  if (fast == nullptr) return kernels::cuda::halo_attention(args, stream);
  const int64_t rows = fast->constants.at("BLOCK_Q");
  const int64_t squares = args.height / args.block * (args.width / args.block);
  const int64_t tiles = (args.block * args.block + rows - 1) / rows;
  const dim3 grid(static_cast<unsigned>(squares * tiles), static_cast<unsigned>(args.heads), 1);
  HaloAttentionArgs a = args;
  auto height = static_cast<int32_t>(a.height), width = static_cast<int32_t>(a.width);
  auto dim = static_cast<int32_t>(a.dim), value_dim = static_cast<int32_t>(a.value_dim);
  int64_t one_map = 0;  // from a map to the next, of which there is none
  constexpr float log2_of_e = 1.4426950408889634f;
  float scale = a.scale * log2_of_e;
  return fast->launch(grid,
                      {&a.q, &a.k, &a.v, &a.rows, &a.columns, &a.out, &height, &width, &dim, &dim,
                       &value_dim, &value_dim, &one_map, &one_map, &one_map, &one_map, &scale},
                      stream);
}

}  // namespace adfast::cuda
