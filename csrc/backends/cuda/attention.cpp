// Attention over tokens, blocks of pixels, all pixels, and by pixels over tokens.
#include <array>

#include "backends/cuda/backend.h"

namespace adfast::cuda {
namespace {

namespace kernels = adfast::kernels::cuda;

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
  return kernel_operator(node.flops, 0, [args, constants, &device](const Binding& binding) {
    const auto operand = [&](size_t i) -> const void* {
      return constants[i] != nullptr ? constants[i]->data() : binding.inputs[i];
    };
    kernels::AttentionArgs bound = args;
    bound.q = operand(0);
    bound.k = operand(1);
    bound.v = operand(2);
    bound.out = binding.outputs[0];
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
  return kernel_operator(
      node.flops, 0,
      [args, rows = shared_floats(*request.inputs[3]), columns = shared_floats(*request.inputs[4]),
       &device](const Binding& binding) {
        kernels::HaloAttentionArgs bound = args;
        bound.q = binding.inputs[0];
        bound.k = binding.inputs[1];
        bound.v = binding.inputs[2];
        bound.rows = floats_of(rows);
        bound.columns = floats_of(columns);
        bound.out = binding.outputs[0];
        return launch(kernels::halo_attention, bound, device, "halo_attention");
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
