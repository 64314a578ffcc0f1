#include "runtime/raw_run.h"

#include <cstring>

#include "core/error.h"
#include "runtime/layout.h"
#include "runtime/program.h"

namespace adfast {
void check_inputs(const Program& program, const RawInputs& inputs) {
  if (inputs.size() != program.inputs().size()) {
    throw Error(ErrorKind::argument, "the graph has " + std::to_string(program.inputs().size()) +
                                         " inputs, got " + std::to_string(inputs.size()));
  }
  for (int32_t id : program.inputs()) {
    const Tensor& tensor = program.tensors()[id];
    const auto given = inputs.find(tensor.name);
    if (given == inputs.end() || given->second.shape != tensor.shape) {
      throw Error(ErrorKind::argument,
                  "input '" + tensor.name + "': expected " + to_string(tensor.shape) + ", got " +
                      (given == inputs.end() ? "nothing" : to_string(given->second.shape)));
    }
  }
}

std::map<std::string, RawOutput> run_raw(const std::string& path, const RawInputs& inputs,
                                         const CpuOptions& options, int lanes) {
  const Plan plan = Plan::open(path);
  const auto backend = make_cpu_backend(options);
  const uint64_t state = backend->enter_thread(1);
  const Program program(plan.graph, *backend);
  backend->leave_thread(state);
  Context context(program, *backend, lanes, FrameGeometry{1, 1, 1, 1, true});
  Workers workers(lanes);

  check_inputs(program, inputs);
  for (int32_t id : program.inputs()) {
    const Tensor& tensor = program.tensors()[id];
    const auto given = inputs.find(tensor.name);
    auto* stored = static_cast<float*>(context.data(id));
    for_each_element(tensor.shape, [&](int64_t plain, int64_t place) {
      stored[place] = given->second.values[plain];
    });
  }
  context.run(&workers, 1);

  std::map<std::string, RawOutput> outputs;
  for (const auto& [role, id] : program.outputs()) {
    const Tensor& tensor = program.tensors()[id];
    RawOutput output{tensor.shape, std::vector<float>(element_count(tensor.shape))};
    const auto* stored = static_cast<const float*>(context.data(id));
    for_each_element(tensor.shape,
                     [&](int64_t plain, int64_t place) { output.values[plain] = stored[place]; });
    outputs.emplace(role, std::move(output));
  }
  return outputs;
}

}  // namespace adfast
