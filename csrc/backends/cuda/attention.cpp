// Attention over tokens, blocks of pixels, all pixels, and by pixels over tokens.
#include <array>

#include "backends/cuda/backend.h"
#include "backends/cuda/halo.h"

namespace adfast::cuda {
namespace {

namespace kernels = adfast::kernels::cuda;

constexpr float log2_of_e = 1.4426950408889634f;

// "fp16" or "bf16", in which Triton's kernels exist; empty in f32, whose products tensor cores
// would round.
std::string triton_type(DType type) {
  return type == DType::f16 ? "fp16" : type == DType::bf16 ? "bf16" : "";
}

unsigned tiles(int64_t count, int64_t size) {
  return static_cast<unsigned>((count + size - 1) / size);
}

// The variant of kernels/triton/attention.py for these sizes, or null.
const TritonKernel* triton_attention(const nodes::Attention& node, Device& device) {
  const int64_t width = node.dim / node.heads, values = node.value_dim / node.heads;
  const std::string type = triton_type(device.features);
  if (type.empty() || !(node.scale > 0)) return nullptr;
  // Variants of whole sixteens rely on rows of such, those of other widths do not.
  const bool sixteens = width % 16 == 0;
  if (sixteens && (node.dim % 16 != 0 || node.value_dim % 16 != 0)) return nullptr;
  std::string heads = "d";
  heads += std::to_string(width);
  if (values != width) heads.append("v").append(std::to_string(values));
  const char* rows = node.queries > 1024 ? "_q128" : "_q64";
  return device.triton->find("attention_" + type + "_" + heads + rows);
}

std::function<void()> launch_attention(const TritonKernel& kernel,
                                       const kernels::AttentionArgs& args, const Device& device) {
  const dim3 grid(tiles(args.queries, kernel.constants.at("BLOCK_Q")),
                  static_cast<unsigned>(args.heads), static_cast<unsigned>(args.windows));
  return [&kernel, args, grid, stream = device.lane->stream] {
    kernels::AttentionArgs a = args;
    int32_t queries = static_cast<int32_t>(a.queries), keys = static_cast<int32_t>(a.keys);
    int32_t dim = static_cast<int32_t>(a.dim), value_dim = static_cast<int32_t>(a.value_dim);
    int64_t q_batch = a.queries * a.dim, k_batch = a.keys * a.dim;
    int64_t v_batch = a.keys * a.value_dim, out_batch = a.queries * a.value_dim;
    float scale = a.scale * log2_of_e;
    check(kernel.launch(grid,
                        {&a.q, &a.k, &a.v, &a.out, &queries, &keys, &dim, &dim, &value_dim,
                         &value_dim, &q_batch, &k_batch, &v_batch, &out_batch, &scale},
                        stream),
          "attention");
  };
}

std::unique_ptr<Operator> make_attention(const OperatorRequest& request, Device& device) {
  const nodes::Attention node = nodes::attention(request);
  // Constant ones: a learned query.
  std::array<Shared, 3> constants;
  for (size_t i = 0; i < 3; ++i) {
    if (!request.inputs[i]->constant) continue;
    constants[i] = shared(uploaded_as(nodes::floats(*request.inputs[i]), device.features));
  }
  kernels::AttentionArgs args{};
  args.type = kernel_type(device.features);
  args.windows = node.windows;
  args.queries = node.queries;
  args.keys = node.keys;
  args.dim = node.dim;
  args.value_dim = node.value_dim;
  args.heads = node.heads;
  args.scale = node.scale;
  const TritonKernel* fast = triton_attention(node, device);
  return std::make_unique<SimpleOperator>(
      fast != nullptr ? "adfast:triton" : "adfast:cuda", node.flops, 0,
      [args, constants, fast, &device](const Binding& binding) {
        const auto operand = [&](size_t i) -> const void* {
          return constants[i] != nullptr ? constants[i]->data() : binding.inputs[i];
        };
        kernels::AttentionArgs bound = args;
        bound.q = operand(0);
        bound.k = operand(1);
        bound.v = operand(2);
        bound.out = binding.outputs[0];
        if (fast != nullptr) return launch_attention(*fast, bound, device);
        return launch(kernels::attention, bound, device, "attention");
      });
}

std::unique_ptr<Operator> make_halo_attention(const OperatorRequest& request, Device& device) {
  const nodes::HaloAttention node = nodes::halo_attention(request);
  kernels::HaloAttentionArgs args{};
  args.type = kernel_type(device.features);
  args.height = node.height;
  args.width = node.width;
  args.block = node.block;
  args.halo = node.halo;
  args.dim = node.dim;
  args.value_dim = node.value_dim;
  args.heads = node.heads;
  args.scale = node.scale;
  args.legacy_mask = node.legacy_mask;
  const TritonKernel* fast = triton_halo_attention(args, *device.triton);
  return std::make_unique<SimpleOperator>(
      fast != nullptr ? "adfast:triton" : "adfast:cuda", node.flops, 0,
      [args, rows = shared_floats(*request.inputs[3]), columns = shared_floats(*request.inputs[4]),
       fast, &device](const Binding& binding) {
        kernels::HaloAttentionArgs bound = args;
        bound.q = binding.inputs[0];
        bound.k = binding.inputs[1];
        bound.v = binding.inputs[2];
        bound.rows = floats_of(rows);
        bound.columns = floats_of(columns);
        bound.out = binding.outputs[0];
        return std::function<void()>([fast, bound, stream = device.lane->stream] {
          check(launch_halo_attention(fast, bound, stream), "halo_attention");
        });
      });
}

std::unique_ptr<Operator> make_token_attention(const OperatorRequest& request, Device& device) {
  const nodes::TokenAttention node = nodes::token_attention(request);
  kernels::TokenAttentionArgs args{};
  args.type = kernel_type(request.inputs[0]->dtype);
  args.pixels = node.pixels;
  args.channels = node.channels;
  args.groups = node.groups;
  args.scale = node.scale;
  return kernel_operator(4.0 * args.pixels * args.channels * args.groups,
                         kernels::token_attention_scratch(args.pixels, args.channels, args.groups),
                         [args, weight = shared_floats(*node.weight),
                          bias = shared_floats(node.bias), &device](const Binding& binding) {
                           kernels::TokenAttentionArgs bound = args;
                           bound.x = binding.inputs[0];
                           bound.weight = floats_of(weight);
                           bound.bias = floats_of(bias);
                           bound.out = static_cast<float*>(binding.outputs[0]);
                           bound.scratch = static_cast<float*>(binding.scratch);
                           return launch(kernels::token_attention, bound, device,
                                         "token_attention");
                         });
}

kernels::ProjectorAttentionArgs projector_args(const OperatorRequest& request,
                                               const nodes::Projector& node) {
  kernels::ProjectorAttentionArgs args{};
  args.type = kernel_type(request.inputs[0]->dtype);
  args.pixels = node.pixels;
  args.channels = node.channels;
  args.tokens = node.tokens;
  args.scale = node.scale;
  return args;
}

kernels::ProjectorAttentionArgs bind_projector(kernels::ProjectorAttentionArgs args,
                                               const Binding& binding) {
  args.x = binding.inputs[0];
  args.residual = binding.inputs[1];
  args.key = static_cast<const float*>(binding.inputs[2]);
  args.key_bias = static_cast<const float*>(binding.inputs[3]);
  args.value = static_cast<const float*>(binding.inputs[4]);
  return args;
}

std::unique_ptr<Operator> make_projector_attention(const OperatorRequest& request, Device& device) {
  const auto args = projector_args(request, nodes::projector_attention(request));
  return kernel_operator(
      4.0 * args.pixels * args.channels * args.tokens, 0, [args, &device](const Binding& binding) {
        auto bound = bind_projector(args, binding);
        bound.out = binding.outputs[0];
        return launch(kernels::projector_attention, bound, device, "projector_attention");
      });
}

std::unique_ptr<Operator> make_projector_score_map(const OperatorRequest& request, Device& device) {
  const auto args = projector_args(request, nodes::projector_score_map(request));
  return kernel_operator((4.0 * args.tokens + 8) * args.pixels * args.channels,
                         kernels::score_map_scratch(args.pixels, args.channels),
                         [args, &device](const Binding& binding) {
                           kernels::ProjectorScoreMapArgs bound{};
                           bound.projector = bind_projector(args, binding);
                           bound.map = static_cast<float*>(binding.outputs[0]);
                           bound.mse = static_cast<float*>(binding.outputs[1]);
                           bound.cos = static_cast<float*>(binding.outputs[2]);
                           bound.scratch = static_cast<float*>(binding.scratch);
                           return launch(kernels::projector_score_map, bound, device,
                                         "projector_score_map");
                         });
}

}  // namespace

std::vector<Op> attention_ops() {
  using enum OperandType;
  return {
      {{"attention", 3, 3, 1, {narrow}, ResultType::narrow}, make_attention},
      {{"halo_attention", 5, 5, 1, {features}, ResultType::features}, make_halo_attention},
      {{"token_attention", 2, 3, 1, {any}, ResultType::f32}, make_token_attention},
      {{"projector_attention", 5, 5, 1, {features, features, f32}, ResultType::features, 3},
       make_projector_attention},
      {{"projector_score_map", 5, 5, 3, {features, features, f32}, ResultType::f32, 3},
       make_projector_score_map},
  };
}

}  // namespace adfast::cuda
