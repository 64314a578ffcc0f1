// HaloAE's attention within blocks of a feature map.
#include <omp.h>

#include <algorithm>

#include "backends/cpu/backend.h"
#include "core/frame.h"

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

// How many keys of all blocks along one axis lie inside the map.
int64_t inside(int64_t size, int64_t block, int64_t halo) {
  int64_t total = 0;
  for (int64_t first = 0; first < size; first += block) {
    total += std::min(size, first + block + halo) - std::max<int64_t>(0, first - halo);
  }
  return total;
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
  const int64_t side = block + 2 * halo;
  kernels::HaloAttentionArgs args{};
  args.dtype = kernel_type(device.features);
  args.height = q[2];
  args.width = q[3];
  args.block = block;
  args.halo = halo;
  args.dim = q[1];
  args.value_dim = v[1];
  args.heads = heads;
  args.scale = static_cast<float>(node.attrs.real("scale"));
  args.legacy_mask = legacy == 1;
  args.task_end = q[2] / block * (q[3] / block) * heads;
  constant(request, 3);
  constant(request, 4);
  for (size_t i : {3, 4}) require_shape(request, i, {2 * side - 1, args.dim / heads});

  const double pairs =
      static_cast<double>(block * block) * inside(q[2], block, halo) * inside(q[3], block, halo);
  // Whole cache lines, so that threads share none.
  const size_t room =
      (kernels::halo_attention_scratch(block, halo, args.dim / heads, args.value_dim / heads) +
       15) /
      16 * 16;
  const int threads = omp_get_max_threads();
  const auto run = device.kernels->halo_attention;
  return kernel_operator(
      device, 2.0 * pairs * (args.dim + args.value_dim), threads * room * sizeof(float),
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
        return [run, bound, room, threads] { run_halo_attention(run, bound, room, threads); };
      });
}

}  // namespace

std::vector<Op> halo_ops() {
  return {{"halo_attention",
           5,
           5,
           1,
           {OperandType::features},
           Op::Result::features,
           make_halo_attention}};
}

}  // namespace adfast::cpu
