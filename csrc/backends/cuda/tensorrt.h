// A TensorRT engine from a plan as one step of a program: what a whole network is there.
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "backends/cuda/nvinfer.h"
#include "plan/plan.h"

namespace adfast::cuda {

// A plan's engine, and what it was made for.
struct EngineImage {
  std::string version;     // of TensorRT, as "10.3.0"
  std::string capability;  // of the card, as "9.0"
  std::string precision;
  bool plugins = false;  // of ours are in it
  std::span<const std::byte> bytes;
};

// The program that has the engine in the place of the network: the plan's frame, then the engine.
Graph engine_graph(const Graph& plan);

// libnvinfer, and an engine that it has made runnable. Kept by the device as long as contexts are
// in use.
class TensorRtEngine {
 public:
  // Throws ErrorKind::argument where the engine cannot run here: no library, one of another
  // version, another kind of card, an engine that it refuses; says what to do.
  TensorRtEngine(const EngineImage& image, const std::string& capability,
                 const std::string& folders);
  ~TensorRtEngine();
  TensorRtEngine(const TensorRtEngine&) = delete;
  TensorRtEngine& operator=(const TensorRtEngine&) = delete;

  const std::string& precision() const { return precision_; }
  // Bytes that a context works in.
  size_t context_bytes() const;
  // Throws where a value of this name and shape, in f32, is none of the engine's.
  void expect(const char* name, nvinfer::TensorMode mode, const Shape& shape) const;

  // One frame in work: a context with its addresses set.
  class Context {
   public:
    Context(const TensorRtEngine& engine, void* image, void* map, void* score);
    ~Context();
    Context(const Context&) = delete;
    Context& operator=(const Context&) = delete;
    // Puts the network on a stream.
    void enqueue(void* stream) const;

   private:
    const TensorRtEngine& engine_;
    void* context_ = nullptr;
  };

 private:
  // Hears TensorRT's errors, from whichever thread.
  class Listener;

  std::string last_error() const;

  const nvinfer::Places* places_ = nullptr;
  std::string precision_;
  std::unique_ptr<Listener> listener_;
  void* runtime_ = nullptr;
  void* engine_ = nullptr;
};

}  // namespace adfast::cuda
