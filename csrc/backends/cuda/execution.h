// A program bound to device memory: its steps recorded once as a CUDA graph and launched whole.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "backends/cuda/device.h"
#include "runtime/program.h"

namespace adfast::cuda {

class Execution {
 public:
  Execution(const Program& program, Device& device);
  ~Execution();
  Execution(const Execution&) = delete;
  Execution& operator=(const Execution&) = delete;

  size_t arena_bytes() const { return arena_.bytes(); }
  void* data(int32_t tensor) const;

  // Puts the steps that read the frame on the stream.
  void start() const;
  // Puts all other steps on the stream; the first call records them.
  void run();
  // Runs every step by itself and waits for it; `seen` gets its number.
  void run_each(const std::function<void(int32_t)>& seen) const;
  // Puts one step on the stream.
  void run_step(int32_t step) const { calls_[step](); }
  const std::vector<int32_t>& order() const { return order_; }

 private:
  void record();

  const Program& program_;
  Device& device_;
  std::vector<int32_t> order_;
  Buffer arena_;
  std::vector<size_t> offsets_;
  std::vector<std::function<void()>> calls_;
  cudaGraphExec_t graph_ = nullptr;
};

}  // namespace adfast::cuda
