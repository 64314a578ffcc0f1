// A plan on a device: frames up, the recorded steps, score and maps down; several frames at once.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backends/cuda/backend.h"
#include "backends/cuda/slot.h"
#include "runtime/resample.h"
#include "runtime/session.h"

namespace adfast::cuda {

class CudaSession {
 public:
  // With `image`, a plan's engine, TensorRT runs the network; `features` is f32 then.
  CudaSession(const Graph& graph, int device, DType features, const std::string& folders,
              const EngineImage* image = nullptr);

  SessionInfo info() const;
  // Throws the first failure after all others are through.
  void predict(std::span<Job> jobs);
  std::vector<StepReport> profile(const FrameView& frame);

 private:
  void add_slots(size_t wanted);

  // In the order in which they are made.
  FrameGeometry geometry_;
  Device device_;
  std::unique_ptr<Backend> backend_;
  Program program_;
  DetectorOutputs detector_;
  std::vector<std::unique_ptr<Slot>> slots_;  // the first for single frames
  bool out_of_memory_ = false;
};

}  // namespace adfast::cuda
