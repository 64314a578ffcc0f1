// A plan on a device: frames up, the recorded steps, score and maps down.
#pragma once
#include <array>
#include <memory>
#include <string>
#include <utility>

#include "backends/cuda/backend.h"
#include "backends/cuda/execution.h"
#include "runtime/resample.h"
#include "runtime/session.h"

namespace adfast::cuda {

class CudaSession {
 public:
  CudaSession(const Graph& graph, int device, DType features, const std::string& folders);

  SessionInfo info() const;
  void predict(Job& job);
  std::vector<StepReport> profile(const FrameView& frame);

 private:
  void upload(const FrameView& frame);
  void write_map(const FrameView& frame);
  std::pair<int64_t, int64_t> part_of(int64_t count, size_t part) const;  // begin and end
  std::string first_bad_step();

  // In the order in which they are made.
  FrameGeometry geometry_;
  Device device_;
  std::unique_ptr<Backend> backend_;
  Program program_;
  DetectorOutputs detector_;
  Execution execution_;
  // The resampling weights follow the frame's size; the buffers grow with it.
  FrameInput input_;
  int64_t height_ = -1, width_ = -1;
  Buffer axis_first_[2], axis_weight_[2], frame_, map_;
  Pinned frame_host_, map_host_, answer_host_;
  struct Event {
    Event();
    ~Event();
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
    cudaEvent_t event = nullptr;
  };
  Event begin_, framed_, computed_, end_;
  std::array<Event, 4> parts_;  // of the map on its way out
};

}  // namespace adfast::cuda
