#include "backends/cuda/execution.h"

#include <algorithm>

#include "core/error.h"

namespace adfast::cuda {
namespace {

// What libraries assume of the matrices they are given.
constexpr size_t alignment = 256;

Schedule schedule_for(const Program& program) {
  const auto needs = program.needs();
  const bool branches = parallelism(needs) >= worthwhile_parallelism;
  return make_schedule(needs, branches ? static_cast<int>(lanes_per_frame) : 1);
}

std::vector<int32_t> merged(const Schedule& schedule, size_t steps) {
  std::vector<int32_t> order;
  std::vector<bool> placed(steps);
  std::vector<size_t> next(schedule.lanes.size());
  while (order.size() < steps) {
    for (size_t lane = 0; lane < next.size(); ++lane) {
      const auto& line = schedule.lanes[lane];
      for (; next[lane] < line.size(); ++next[lane]) {
        const int32_t step = line[next[lane]];
        const auto& waits = schedule.waits[step];
        if (!std::all_of(waits.begin(), waits.end(), [&](int32_t w) { return placed[w]; })) break;
        order.push_back(step);
        placed[step] = true;
      }
    }
  }
  return order;
}

}  // namespace

Execution::Execution(const Program& program, Device& device, size_t first_lane)
    : program_(program),
      device_(device),
      first_lane_(first_lane),
      schedule_(schedule_for(program)),
      lane_(program.steps().size()),
      order_(merged(schedule_, program.steps().size())),
      done_(program.steps().size()) {
  ArenaLayout layout = arena_layout(program, schedule_, alignment);
  offsets_ = std::move(layout.offsets);
  arena_ = Buffer(layout.bytes);
  // Steps are tried out on it while they are bound.
  check(cudaMemset(arena_.data(), 0, arena_.bytes()), "clearing memory");
  check(cudaStreamSynchronize(cudaStreamLegacy), "clearing memory");
  for (size_t lane = 0; lane < schedule_.lanes.size(); ++lane) {
    for (int32_t step : schedule_.lanes[lane]) lane_[step] = static_cast<int>(lane);
  }
  const auto& tensors = program.tensors();
  const auto& steps = program.steps();
  for (size_t s = 0; s < steps.size(); ++s) {
    // The frame is put in place before the lanes part.
    if (steps[s].op == "frame") lane_[s] = 0;
    Binding binding;
    const auto address = [&](int32_t id) -> void* {
      return id < 0 || tensors[id].constant ? nullptr : data(id);
    };
    for (int32_t id : steps[s].inputs) binding.inputs.push_back(address(id));
    for (int32_t id : steps[s].outputs) binding.outputs.push_back(address(id));
    binding.scratch = data(static_cast<int32_t>(tensors.size() + s));
    device.lane = &lane(lane_[s]);
    calls_.push_back(steps[s].run->bind(binding));
    if (schedule_.awaited[s]) done_[s] = std::make_unique<Event>();
  }
  device.lane = device.lanes[0].get();
  if (lanes() > 1) {
    begun_ = std::make_unique<Event>();
    joined_ = std::make_unique<Event>();
  }
  for (size_t i = 0; i < lanes_per_frame; ++i) {
    check(cudaStreamSynchronize(lane(static_cast<int>(i)).stream), "binding the steps");
  }
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

void Execution::enqueue_all() const {
  cudaStream_t first = lane(0).stream;
  const auto is_frame = [&](int32_t step) { return program_.steps()[step].op == "frame"; };
  if (lanes() > 1) {
    begun_->record(first);
    check(cudaStreamWaitEvent(lane(1).stream, begun_->get(), 0), "parting the lanes");
  }
  for (int32_t step : order_) {
    if (is_frame(step)) continue;
    for (int32_t other : schedule_.waits[step]) {
      if (is_frame(other)) continue;  // it was there before
      check(cudaStreamWaitEvent(stream_of(step), done_[other]->get(), 0), "waiting for a lane");
    }
    calls_[step]();
    if (done_[step] != nullptr) {
      done_[step]->record(stream_of(step));
    }
  }
  if (lanes() > 1) {
    joined_->record(lane(1).stream);
    check(cudaStreamWaitEvent(first, joined_->get(), 0), "joining the lanes");
  }
}

void Execution::record() {
  cudaStream_t first = lane(0).stream;
  check(cudaStreamBeginCapture(first, cudaStreamCaptureModeThreadLocal), "recording the steps");
  cudaGraph_t recorded = nullptr;
  try {
    enqueue_all();
  } catch (...) {
    // What was begun must be ended, or the stream stays unusable.
    cudaStreamEndCapture(first, &recorded);
    if (recorded != nullptr) cudaGraphDestroy(recorded);
    cudaGetLastError();
    throw;
  }
  check(cudaStreamEndCapture(first, &recorded), "recording the steps");
  const Deferred free_recorded([&] { cudaGraphDestroy(recorded); });
  check(cudaGraphInstantiate(&graph_, recorded, 0), "preparing the recorded steps");
}

void Execution::run() {
  if (graph_ == nullptr && recordable_) {
    try {
      record();
    } catch (const Error&) {
      // An engine of TensorRT may do what no recording holds.
      if (device_.engine == nullptr) throw;
      recordable_ = false;
    }
  }
  if (!recordable_) return enqueue_all();
  check(cudaGraphLaunch(graph_, lane(0).stream), "launching the recorded steps");
}

void Execution::run_each(const std::function<void(int32_t)>& seen) const {
  for (int32_t step : order_) {
    const Program::Step& which = program_.steps()[step];
    try {
      calls_[step]();
      check(cudaStreamSynchronize(stream_of(step)), "running the step");
    } catch (const Error& error) {
      throw Error(error.kind(), "[" + which.op + " '" + which.name + "'] " + error.what());
    }
    seen(step);
  }
}

double Execution::time_step(int32_t step) const {
  before_.record(stream_of(step));
  calls_[step]();
  after_.record(stream_of(step));
  check(cudaStreamSynchronize(stream_of(step)), "running the step");
  return after_.since(before_);
}

}  // namespace adfast::cuda
