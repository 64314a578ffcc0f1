// HaloAE's attention within blocks of a feature map.
#include <omp.h>

#include <algorithm>

#include "backends/cpu/backend.h"

namespace adfast::cpu {
namespace {

// A table [length][dim] as the kernel reads it, [dim][length].
std::vector<float> transposed(const Tensor& table) {
  const std::vector<float> values = floats(table);
  const auto length = static_cast<size_t>(table.shape[0]);
  const auto dim = static_cast<size_t>(table.shape[1]);
  std::vector<float> result(values.size());
  for (size_t i = 0; i < values.size(); ++i) result[i % dim * length + i / dim] = values[i];
  return result;
}

// Each thread takes its share of the blocks' heads.
void run_halo_attention(void (*run)(const kernels::HaloAttentionArgs&),
                        const kernels::HaloAttentionArgs& args, size_t room, int threads) {
  const int64_t tasks = args.task_end;
  const int64_t parts = std::min<int64_t>({threads, omp_get_max_threads(), tasks});
#pragma omp parallel for num_threads(static_cast<int>(parts)) schedule(static) if (parts > 1)
  for (int64_t part = 0; part < parts; ++part) {
    kernels::HaloAttentionArgs mine = args;
    mine.scratch += part * room;
    mine.task_begin = tasks * part / parts;
    mine.task_end = tasks * (part + 1) / parts;
    const uint32_t control = kernels::flush_denormals();
    run(mine);
    kernels::restore_denormals(control);
  }
}

std::unique_ptr<Operator> make_halo_attention(const OperatorRequest& request,
                                              const Device& device) {
  const nodes::HaloAttention node = nodes::halo_attention(request);
  kernels::HaloAttentionArgs args{};
  args.dtype = kernel_type(device.features);
  args.operands = kernel_type(device.operands);
  args.height = node.height;
  args.width = node.width;
  args.block = node.block;
  args.halo = node.halo;
  args.dim = node.dim;
  args.value_dim = node.value_dim;
  args.heads = node.heads;
  args.scale = node.scale;
  args.legacy_mask = node.legacy_mask;
  args.task_end = args.height / args.block * (args.width / args.block) * args.heads;

  // Whole cache lines, so that threads share none.
  const size_t room = (kernels::halo_attention_scratch(args.block, args.halo, args.dim / args.heads,
                                                       args.value_dim / args.heads) +
                       15) /
                      16 * 16;
  const int threads = omp_get_max_threads();
  const auto run = device.kernels->halo_attention;
  return kernel_operator(device, node.flops, threads * room * sizeof(float),
                         [run, args, room, threads, rows = transposed(*request.inputs[3]),
                          columns = transposed(*request.inputs[4])](const Binding& binding) {
                           kernels::HaloAttentionArgs bound = args;
                           bound.q = binding.inputs[0];
                           bound.k = binding.inputs[1];
                           bound.v = binding.inputs[2];
                           bound.rows = rows.data();
                           bound.columns = columns.data();
                           bound.out = binding.outputs[0];
                           bound.scratch = static_cast<float*>(binding.scratch);
                           return [run, bound, room, threads] {
                             run_halo_attention(run, bound, room, threads);
                           };
                         });
}

}  // namespace

std::vector<Op> halo_ops() {
  return {{{"halo_attention", 5, 5, 1, {OperandType::features}, ResultType::features},
           make_halo_attention}};
}

}  // namespace adfast::cpu
