// A program bound to device memory: its steps recorded once as a CUDA graph, branches side by side,
// and launched whole.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backends/cuda/device.h"
#include "runtime/program.h"

namespace adfast::cuda {

class Execution {
 public:
  // `first_lane`: of the device's lanes, those from it on are this execution's own.
  Execution(const Program& program, Device& device, size_t first_lane = 0);
  ~Execution();
  Execution(const Execution&) = delete;
  Execution& operator=(const Execution&) = delete;

  size_t arena_bytes() const { return arena_.bytes(); }
  void* data(int32_t tensor) const;

  // Puts the steps that read the frame on the stream.
  void start() const;
  // Puts all other steps on the stream; the first call records them where they can be.
  void run();
  // Runs every step by itself and waits for it; `seen` gets its number.
  void run_each(const std::function<void(int32_t)>& seen) const;
  // Runs one step by itself between two events; returns milliseconds by the device's clock.
  double time_step(int32_t step) const;
  int lanes() const { return static_cast<int>(schedule_.lanes.size()); }
  int lane_of(int32_t step) const { return lane_[step]; }
  const std::vector<int32_t>& order() const { return order_; }

 private:
  void record();
  void enqueue_all() const;
  Lane& lane(int number) const { return *device_.lanes[first_lane_ + static_cast<size_t>(number)]; }
  cudaStream_t stream_of(int32_t step) const { return lane(lane_[step]).stream; }

  const Program& program_;
  Device& device_;
  size_t first_lane_;
  Schedule schedule_;
  std::vector<int> lane_;       // of each step
  std::vector<int32_t> order_;  // all steps: each lane's order kept, after those it waits for
  std::vector<std::unique_ptr<Event>> done_;  // of steps that another lane waits for
  std::unique_ptr<Event> begun_, joined_;
  Event before_, after_;
  Buffer arena_;
  std::vector<size_t> offsets_;
  std::vector<std::function<void()>> calls_;
  cudaGraphExec_t graph_ = nullptr;
  bool recordable_ = true;
};

}  // namespace adfast::cuda
