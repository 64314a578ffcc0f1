// What one frame in work needs: two lanes, the program's memory, buffers on both sides, clocks.
#pragma once
#include <array>
#include <chrono>
#include <string>
#include <utility>

#include "backends/cuda/execution.h"
#include "runtime/resample.h"
#include "runtime/session.h"

namespace adfast::cuda {

class Slot {
 public:
  // `first_lane`: of the device's lanes, those from it on are this slot's own.
  Slot(const Program& program, Device& device, size_t first_lane, const FrameGeometry& geometry,
       const DetectorOutputs& detector);

  // Puts the frame's whole way on the slot's stream. What is begun must be finished.
  void begin(const Job& job);
  // Waits for it and hands out the answers; throws ErrorKind::run naming the first step whose
  // result is not finite where the score is not.
  void finish(Job& job);
  // Puts the frame in place, for steps that are run one by one.
  void upload(const FrameView& frame);
  Execution& execution() { return execution_; }
  const Execution& execution() const { return execution_; }

 private:
  cudaStream_t stream() const { return lane_.stream; }
  void enqueue(const Job& job);
  // The frame's pixels on the card.
  const uint8_t* borrowed(const FrameView& frame) const;
  const uint8_t* fetch(const FrameView& frame);
  void download_map(const FrameView& frame);
  std::pair<int64_t, int64_t> part_of(int64_t count, size_t part) const;  // begin and end
  std::string first_bad_step() const;

  const Program& program_;
  const char* remedy_;  // where the precision is too narrow
  const DetectorOutputs& detector_;
  const FrameGeometry& geometry_;
  Lane& lane_;
  Execution execution_;
  // The resampling weights follow the frame's size; the buffers grow with it.
  FrameInput input_;
  int64_t height_ = -1, width_ = -1;
  std::vector<uint8_t> planes_;  // of one row of a mosaic
  Buffer axis_first_[2], axis_weight_[2], frame_, map_;
  Pinned frame_host_, map_host_, answer_host_;
  Event begin_, framed_, computed_, end_;
  std::array<Event, 4> parts_;  // of the map on its way out
  std::chrono::steady_clock::time_point started_;
};

}  // namespace adfast::cuda
