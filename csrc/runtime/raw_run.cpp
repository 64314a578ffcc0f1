#include "runtime/raw_run.h"

#include <cstring>

#include "core/error.h"
#include "runtime/program.h"

namespace adfast {
namespace {

// Storage is channels-last; visits (row-major index, stored index) of every element.
template <class Visit>
void for_each_element(const Shape& shape, Visit visit) {
  if (shape.size() != 4) {
    for (int64_t i = 0; i < element_count(shape); ++i) visit(i, i);
    return;
  }
  const int64_t channels = shape[1], pixels = shape[2] * shape[3];
  for (int64_t n = 0; n < shape[0]; ++n) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t p = 0; p < pixels; ++p) {
        visit((n * channels + c) * pixels + p, (n * pixels + p) * channels + c);
      }
    }
  }
}

}  // namespace

std::map<std::string, RawOutput> run_raw(const std::string& path, const RawInputs& inputs,
                                         const CpuOptions& options, int lanes) {
  const Plan plan = Plan::open(path);
  const auto backend = make_cpu_backend(options);
  const uint64_t state = backend->enter_thread(1);
  const Program program(plan.graph, *backend);
  backend->leave_thread(state);
  Context context(program, *backend, lanes, FrameGeometry{1, 1, 1, 1, true});
  Workers workers(lanes);

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
