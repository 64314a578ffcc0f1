// A loaded plan: frames in, score and map out.
//
// Thread safety: any number of engines; one engine may be used from many threads, which then take
// turns.
#pragma once
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "core/frame.h"
#include "plan/plan.h"
#include "runtime/operator.h"
#include "runtime/program.h"
#include "runtime/resample.h"
#include "runtime/workers.h"

namespace adfast {

struct EngineOptions {
  int threads = 0;             // 0: as many as processors this process may use
  std::string precision = {};  // "f32", "bf16", "int8", or empty: the plan's own
  std::string isa = {};        // "scalar", "avx2", "avx512", or empty: the best
  std::string tactics = {};    // a file for read_tactics, or empty: the backend's own estimates
};

struct Timings {  // milliseconds
  double frame = 0, network = 0, map = 0, total = 0;
};

struct Job {
  FrameView frame;
  float* map = nullptr;          // [frame.height][frame.width], or null
  float* network_map = nullptr;  // [map_height()][map_width()], or null
  float score = 0;
  Timings timings;
};

class Engine {
 public:
  // The plan may be closed afterwards: weights are packed into the engine's own memory.
  Engine(const Plan& plan, const EngineOptions& options);

  // Throws ErrorKind::frame for a frame that cannot be used and ErrorKind::run when the result is
  // not finite.
  void predict(Job& job);
  // Frames are independent: each gives the same bits here as in predict().
  void predict_batch(std::span<Job> jobs);

  int64_t map_height() const { return map_height_; }
  int64_t map_width() const { return map_width_; }
  const FrameGeometry& geometry() const { return geometry_; }
  int threads() const { return lanes_ * threads_per_lane_; }
  int lanes() const { return lanes_; }
  std::string precision() const;
  std::string isa() const { return backend_->isa(); }
  size_t arena_bytes() const { return context_->arena_bytes(); }

  struct StepReport {
    std::string op, name, kernel;
    int index = 0, lane = 0;  // index: of the step, the same in every frame
    double milliseconds = 0, begin = 0, gflop = 0, bytes = 0;
  };
  std::vector<StepReport> profile(const FrameView& frame);

  // What a computed value of the graph holds on a frame, for quantisation.
  struct Observation {
    float low = 0, high = 0;      // asked for: the range of the counts; answered: of the elements
    std::vector<int64_t> counts;  // of equal parts of the asked range; what lies outside is clipped
  };
  // Fills in the observations of the values named; those must be f32 in this engine.
  void observe(const FrameView& frame, std::map<std::string, Observation>* values);

 private:
  std::unique_ptr<Program> build(const Graph& graph) const;
  void check(const FrameView& frame) const;
  void run(Context& context, Job& job, Workers* workers);
  void write_map(const Context& context, const Job& job, Workers* workers) const;

  FrameGeometry geometry_;
  int lanes_ = 1, threads_per_lane_ = 1;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Program> program_;
  int32_t map_ = -1, score_ = -1, frame_step_ = -1;
  int64_t map_height_ = 0, map_width_ = 0;
  std::mutex mutex_;
  Workers workers_;
  std::unique_ptr<Context> context_;                      // all lanes on one frame
  std::vector<std::unique_ptr<Context>> batch_contexts_;  // one lane each, made when first needed
};

// The threads this process may run at once.
int usable_processors();

}  // namespace adfast
