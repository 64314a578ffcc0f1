#include "backends/cuda/execution.h"

#include "core/error.h"

namespace adfast::cuda {
namespace {

// What libraries assume of the matrices they are given.
constexpr size_t alignment = 256;

Schedule one_lane(const Program& program) { return make_schedule(program.needs(), 1); }

}  // namespace

Execution::Execution(const Program& program, Device& device) : program_(program), device_(device) {
  const Schedule schedule = one_lane(program);
  order_ = schedule.lanes[0];
  ArenaLayout layout = arena_layout(program, schedule, alignment);
  offsets_ = std::move(layout.offsets);
  arena_ = Buffer(layout.bytes);
  // Steps are tried out on it while they are bound.
  check(cudaMemsetAsync(arena_.data(), 0, arena_.bytes(), device.stream), "clearing memory");
  const auto& tensors = program.tensors();
  const auto& steps = program.steps();
  for (size_t s = 0; s < steps.size(); ++s) {
    Binding binding;
    const auto address = [&](int32_t id) -> void* {
      return id < 0 || tensors[id].constant ? nullptr : data(id);
    };
    for (int32_t id : steps[s].inputs) binding.inputs.push_back(address(id));
    for (int32_t id : steps[s].outputs) binding.outputs.push_back(address(id));
    binding.scratch = data(static_cast<int32_t>(tensors.size() + s));
    calls_.push_back(steps[s].run->bind(binding));
  }
  check(cudaStreamSynchronize(device.stream), "binding the steps");
}

Execution::~Execution() {
  if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
}

void* Execution::data(int32_t tensor) const { return arena_.as<std::byte>() + offsets_[tensor]; }

void Execution::start() const {
  for (int32_t step : order_) {
    if (program_.steps()[step].op == "frame") calls_[step]();
  }
}

void Execution::record() {
  check(cudaStreamBeginCapture(device_.stream, cudaStreamCaptureModeThreadLocal),
        "recording the steps");
  cudaGraph_t recorded = nullptr;
  try {
    for (int32_t step : order_) {
      if (program_.steps()[step].op != "frame") calls_[step]();
    }
  } catch (...) {
    // What was begun must be ended, or the stream stays unusable.
    cudaStreamEndCapture(device_.stream, &recorded);
    if (recorded != nullptr) cudaGraphDestroy(recorded);
    cudaGetLastError();
    throw;
  }
  check(cudaStreamEndCapture(device_.stream, &recorded), "recording the steps");
  const Deferred free_recorded([&] { cudaGraphDestroy(recorded); });
  check(cudaGraphInstantiate(&graph_, recorded, 0), "preparing the recorded steps");
}

void Execution::run() {
  if (graph_ == nullptr) record();
  check(cudaGraphLaunch(graph_, device_.stream), "launching the recorded steps");
}

void Execution::run_each(const std::function<void(int32_t)>& seen) const {
  for (int32_t step : order_) {
    const Program::Step& which = program_.steps()[step];
    try {
      calls_[step]();
      check(cudaStreamSynchronize(device_.stream), "running the step");
    } catch (const Error& error) {
      throw Error(error.kind(), "[" + which.op + " '" + which.name + "'] " + error.what());
    }
    seen(step);
  }
}

}  // namespace adfast::cuda
