// A plan's graph as a list of operators, and the contexts that run it.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "plan/graph.h"
#include "runtime/operator.h"
#include "runtime/resample.h"
#include "runtime/schedule.h"
#include "runtime/workers.h"

namespace adfast {

// Immutable once built; holds packed weights, so the plan may be closed afterwards.
class Program {
 public:
  Program(const Graph& graph, const Backend& backend);

  struct Step {
    std::string op, name;  // of two joined nodes, both names
    std::unique_ptr<Operator> run;
    std::vector<int32_t> inputs, outputs;  // tensors; -1: absent
  };

  const std::vector<Step>& steps() const { return steps_; }
  const std::vector<Tensor>& tensors() const { return tensors_; }
  const std::vector<int32_t>& inputs() const { return inputs_; }
  const std::vector<std::pair<std::string, int32_t>>& outputs() const { return outputs_; }
  int32_t output(std::string_view role) const;  // tensor, or -1
  std::vector<StepNeeds> needs() const;
  size_t packed_bytes() const;  // of all steps' constants
  // Bytes that a step reads and writes, its packed constants among them.
  double traffic(const Step& step) const;

 private:
  int32_t stored(int32_t tensor, const Storage& storage, const Backend& backend);

  std::vector<Tensor> tensors_;
  std::vector<Step> steps_;
  std::vector<int32_t> inputs_;
  std::vector<std::pair<std::string, int32_t>> outputs_;
  std::vector<std::pair<int32_t, int32_t>> copies_;  // a tensor, and itself stored otherwise
};

// What Program::needs would say, as far as shapes tell: enough to choose the number of lanes before
// weights are packed for it.
std::vector<StepNeeds> expected_needs(const Graph& graph);

// Where a detector's answers lie.
struct DetectorOutputs {
  int32_t map = -1, score = -1;  // tensors
  int64_t height = 0, width = 0;
};
// Throws ErrorKind::plan when they are missing or of other shapes.
DetectorOutputs detector_outputs(const Program& program);
// Of the graph's 'frame' op; throws ErrorKind::plan when there is none.
FrameGeometry frame_geometry(const Graph& graph);

// Where in one piece of memory everything lies: first the tensors, then every step's scratch.
// Offsets are multiples of `granularity`, a multiple of 64.
ArenaLayout arena_layout(const Program& program, const Schedule& schedule, size_t granularity = 64);

struct StepTime {
  double begin = 0, end = 0;  // seconds on the steady clock
  int lane = 0;
};

// One arena and one set of bound steps for a number of lanes. Runs one frame at a time.
class Context {
 public:
  Context(const Program& program, const HostBackend& backend, int lanes,
          const FrameGeometry& geometry);

  int lanes() const { return static_cast<int>(schedule_.lanes.size()); }
  size_t arena_bytes() const { return arena_bytes_; }
  FrameInput& frame() { return frame_; }
  void* data(int32_t tensor) const;

  // Runs every step, lane i being task i of `workers`; a one-lane context runs on this thread
  // alone. `threads` is the number of OpenMP threads of each lane. Rethrows the first failure.
  // `seen` is called after each step with its number, by the lane that ran it.
  using Seen = std::function<void(int32_t)>;
  void run(Workers* workers, int threads, std::vector<StepTime>* times = nullptr,
           const Seen& seen = {});

 private:
  void run_lane(int lane, int threads, std::vector<StepTime>* times, const Seen& seen) noexcept;

  struct Free {
    void operator()(void* p) const { std::free(p); }
  };

  const HostBackend& backend_;
  Schedule schedule_;
  FrameInput frame_;
  std::unique_ptr<void, Free> arena_;
  size_t arena_bytes_ = 0;
  std::vector<size_t> offsets_;
  std::vector<std::function<void()>> calls_;
  std::vector<std::string> names_;
  std::vector<std::atomic<uint32_t>> done_;
  uint32_t round_ = 0;
  std::atomic<bool> failed_ = false;
  std::string failure_;
};

}  // namespace adfast
