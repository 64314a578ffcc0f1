#include "runtime/raw_run.h"

#include <algorithm>

#include "core/error.h"
#include "plan/plan.h"
#include "runtime/program.h"

namespace adfast {

std::map<std::string, RawOutput> run_raw(const std::string& path, const RawInputs& inputs,
                                         const CpuOptions& options, int lanes) {
  const Plan plan = Plan::open(path);
  for (const Node& node : plan.graph.nodes) {
    if (node.op == "frame") {
      throw Error(ErrorKind::plan, path + ": its graph takes frames, expected plain inputs");
    }
  }
  const auto backend = make_cpu_backend(options);
  const uint64_t state = backend->enter_thread(1);
  const Program program(plan.graph, *backend);
  backend->leave_thread(state);
  Context context(program, *backend, lanes, FrameGeometry{1, 1, 1, 1, true});
  Workers workers(lanes);

  check_inputs(program, inputs);
  for (int32_t id : program.inputs()) {
    const std::vector<float> stored = in_storage(inputs.at(program.tensors()[id].name));
    std::copy(stored.begin(), stored.end(), static_cast<float*>(context.data(id)));
  }
  context.run(&workers, 1);

  std::map<std::string, RawOutput> outputs;
  for (const auto& [role, id] : program.outputs()) {
    const auto* stored = static_cast<const float*>(context.data(id));
    outputs.emplace(role, in_row_major(program.tensors()[id].shape, stored));
  }
  return outputs;
}

}  // namespace adfast
