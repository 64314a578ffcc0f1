// What the operators of one session share: the device, its stream, its libraries, its memory.
#pragma once
#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backends/cuda/check.h"
#include "backends/cuda/tensorrt.h"
#include "backends/cuda/triton.h"
#include "backends/cuda/vendor.h"
#include "core/error.h"
#include "core/tensor.h"
#include "kernels/cuda/kernels.h"

namespace adfast::cuda {

void check_cudnn(const Cudnn& cudnn, cudnn::Status status, const char* what);
void check_cublas(cublas::Status status, const char* what);

// Memory of the device.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes);
  void* data() const { return data_.get(); }
  size_t bytes() const { return bytes_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_.get());
  }

 private:
  struct Free {
    void operator()(void* p) const { cudaFree(p); }
  };
  std::unique_ptr<void, Free> data_;
  size_t bytes_ = 0;
};

// Memory of the host that the device reads and writes directly.
class Pinned {
 public:
  Pinned() = default;
  explicit Pinned(size_t bytes);
  template <class T>
  T* as() const {
    return static_cast<T*>(data_.get());
  }
  size_t bytes() const { return bytes_; }

 private:
  struct Free {
    void operator()(void* p) const { cudaFreeHost(p); }
  };
  std::unique_ptr<void, Free> data_;
  size_t bytes_ = 0;
};

// Returns when the bytes are there, for work of any stream to read.
void copy_to_device(void* to, const void* from, size_t bytes);

template <class T>
Buffer uploaded(std::span<const T> values) {
  Buffer buffer(values.size_bytes());
  copy_to_device(buffer.data(), values.data(), values.size_bytes());
  return buffer;
}
// Rounded to `type`, which is f32, f16 or bf16.
Buffer uploaded_as(std::span<const float> values, DType type);

// Runs a function at its end.
class Deferred {
 public:
  Deferred() = default;
  explicit Deferred(std::function<void()> function) : function_(std::move(function)) {}
  ~Deferred() {
    if (function_) function_();
  }
  Deferred(Deferred&& other) noexcept : function_(std::exchange(other.function_, nullptr)) {}
  Deferred& operator=(Deferred&& other) noexcept {
    std::swap(function_, other.function_);
    return *this;
  }

 private:
  std::function<void()> function_;
};

// A point in a stream's work: something to wait for, and a clock.
class Event {
 public:
  Event();
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(cudaStream_t stream) const;
  // Milliseconds by the device's clock since `earlier`, both recorded and over.
  double since(const Event& earlier) const;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

// Steps of a lane follow each other on its stream; lanes run side by side. What a library scribbles
// on while it works belongs to one lane.
struct Lane {
  Lane(const Cudnn& cudnn, const CublasLt& cublas);
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  cudaStream_t stream = nullptr;
  cudnn::Handle cudnn_handle = nullptr;
  cublas::Handle cublas_handle = nullptr;
  Buffer workspace;
  // The frame that lies on the device, ready to be resampled; the 'frame' step reads it when it
  // runs.
  kernels::cuda::FrameArgs frame{};

 private:
  Deferred close_stream_, close_cublas_, close_cudnn_;
};

class Device {
 public:
  // With `image`, TensorRT runs the network, and neither cuDNN nor cuBLASLt is needed. Throws
  // ErrorKind::argument when a library is missing or the engine cannot run here, ErrorKind::run
  // when the device refuses.
  Device(int number, DType features, const std::string& folders,
         const EngineImage* image = nullptr);
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  // Makes the device the calling thread's.
  void enter() const;
  // Operators call it while they are built, before any is bound.
  void reserve_workspace(size_t bytes);
  size_t workspace_bytes() const { return workspace_bytes_; }
  // Two more lanes; returns the number of the first.
  size_t add_lanes();

  int number;
  DType features;
  std::string name;
  int multiprocessors = 0;
  const CublasLt& cublas;
  const Cudnn& cudnn;
  std::vector<std::unique_ptr<Lane>> lanes;
  Lane* lane = nullptr;  // of what is being bound
  std::unique_ptr<TritonKernels> triton;
  std::unique_ptr<TensorRtEngine> engine;  // null: our own steps

 private:
  size_t workspace_bytes_ = 0;
};

// As many branches as the detectors have.
inline constexpr size_t lanes_per_frame = 2;

inline kernels::cuda::Type kernel_type(DType type) {
  return static_cast<kernels::cuda::Type>(type);
}

}  // namespace adfast::cuda
