// What an engine hands its frames to: this processor, or a device behind a plugin.
#pragma once
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/frame.h"
#include "runtime/score.h"

namespace adfast {

struct Timings {  // milliseconds
  double frame = 0, network = 0, map = 0, total = 0;
};

struct Job {
  FrameView frame;
  float* map = nullptr;          // [frame.height][frame.width], or null
  float* network_map = nullptr;  // [map_height][map_width], or null; never of several tiles
  // Heeded by the engine, which gives its session plain frames.
  Rectangle roi;        // what of the frame is inspected; empty: all
  IgnoreMask ignore;    // of the frame's size
  bool counted = true;  // by the engine's monitor
  float score = 0;
  Timings timings;
};

struct StepReport {
  std::string op, name, kernel;
  int index = 0, lane = 0;  // index: of the step, the same in every frame
  double milliseconds = 0, begin = 0, gflop = 0, bytes = 0;
};

// What a computed value of the graph holds on a frame, for quantisation.
struct Observation {
  float low = 0, high = 0;      // asked for: the range of the counts; answered: of the elements
  std::vector<int64_t> counts;  // of equal parts of the asked range; what lies outside is clipped
};

struct SessionInfo {
  std::string device;     // "cpu", "cuda" or "tensorrt"
  std::string note;       // why a plan's engine of TensorRT is not used
  std::string processor;  // of a device: its name
  std::string precision, isa;
  int threads = 1, lanes = 1;
  int frames_at_once = 1;    // of a batch
  size_t frame_memory = 0;   // bytes held for a frame in work
  size_t weight_memory = 0;  // of packed weights, in the same place
  size_t steps = 0;          // that the CPU runs; 0 on a device
  int64_t map_height = 0, map_width = 0;
};

// Not thread-safe: the engine's lock sees to it.
class Session {
 public:
  virtual ~Session() = default;
  virtual SessionInfo info() const = 0;
  // Throws ErrorKind::run when this process cannot run it any more.
  virtual void check() const {}
  // The frame is usable. Leaves the score to the caller to judge.
  virtual void predict(Job& job) = 0;
  virtual void predict_batch(std::span<Job> jobs) {
    for (Job& job : jobs) predict(job);
  }
  virtual std::vector<StepReport> profile(const FrameView& frame) = 0;
  virtual void observe(const FrameView&, std::map<std::string, Observation>*) {
    throw Error(ErrorKind::argument, "[observe] values are looked at on the CPU only");
  }
};

}  // namespace adfast
