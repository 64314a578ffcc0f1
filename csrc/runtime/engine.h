// A loaded plan: frames in, score and map out.
//
// Thread safety: any number of engines; one engine may be used from many threads, which then take
// turns.
#pragma once
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "plan/plan.h"
#include "runtime/monitor.h"
#include "runtime/session.h"
#include "runtime/tiles.h"

namespace adfast {

struct EngineOptions {
  int threads = 0;             // 0: as many processors as this process may use
  int frames_at_once = 0;      // of a batch on the CPU; 0: one for each branch of the network
  std::string precision = {};  // "f32", "bf16", "f16", "int8", or empty: the plan's own
  std::string isa = {};  // "scalar", "avx2", "avx512", "avx512_bf16", "avx512_amx"; empty: the best
  std::string tactics = {};    // a file for read_tactics, or empty: the backend's own estimates
  std::string device = "cpu";  // "cpu", "cuda", "cuda:N", or "auto": a device where there is one
  std::vector<std::string> folders = {};  // where plugins and what they need are looked for
};

// Bytes that an engine adds to the resident memory of its process.
struct MemoryUse {
  size_t weights = 0;  // packed
  size_t frame = 0;    // what a frame in work holds, without the maps
  size_t loading = 0;  // at most, while it is loaded: the plan and its packed weights side by side
  size_t running = 0;  // at most, from then on
};

class Engine {
 public:
  // The plan may be closed afterwards: weights are packed into the engine's own memory.
  Engine(const Plan& plan, const EngineOptions& options);

  // Throws ErrorKind::frame for a frame that cannot be used and ErrorKind::run when the result is
  // not finite.
  void predict(Job& job);
  // Runs `count` grey frames of the network's own size.
  void warmup(int count);
  // Frames are independent: each gives the same bits here as in predict().
  void predict_batch(std::span<Job> jobs);
  std::vector<StepReport> profile(const FrameView& frame);
  // Fills in the observations of the values named; those must be f32 in this engine.
  void observe(const FrameView& frame, std::map<std::string, Observation>* values);

  const SessionInfo& info() const { return info_; }
  // Why "auto" took the CPU; empty otherwise.
  const std::string& note() const { return note_; }
  const FrameGeometry& geometry() const { return geometry_; }
  const TileRule& tiles() const { return tiles_; }
  const ScoreRule& score_rule() const { return score_rule_; }
  // Of what predict() and predict_batch() did with counted jobs.
  Monitor& monitor() const { return *monitor_; }
  // Throws what predict() would throw of a job before it begins.
  void check_job(const Job& job) const;
  // The part of the job's frame that the network sees.
  Rectangle inspected(const Job& job) const;
  // Whether the job's frame is inspected as several tiles.
  bool tiled(const Job& job) const;
  // The plan's own, on the raw score; NaN when it is not calibrated.
  float threshold() const { return threshold_; }
  // The plan's word for its model, "" when it has none.
  const std::string& model() const { return model_; }
  const std::string& name() const { return name_; }  // likewise
  // Of a frame of this size, inspected alone with its map; zeros where a device holds the weights.
  MemoryUse memory(int64_t height, int64_t width) const;
  int64_t map_height() const { return info_.map_height; }
  int64_t map_width() const { return info_.map_width; }

 private:
  void check(const FrameView& frame) const;
  void check_result(const Job& job) const;
  bool plain(const Job& job) const;  // as a session takes it
  FrameView central_tile(const FrameView& frame) const;
  void run_batch(std::span<Job> jobs);
  void run_parts(Job& job);
  PartScore score_of(const Job& part);

  FrameGeometry geometry_;
  size_t plan_bytes_;
  TileRule tiles_;
  ScoreRule score_rule_;
  // Of frames in parts: what was computed for the last size, and room for the parts' maps.
  Tiling tiling_;
  int64_t tiled_height_ = 0, tiled_width_ = 0;
  std::vector<std::vector<float>> part_maps_, part_network_maps_;
  std::vector<Job> parts_;
  std::vector<size_t> places_;  // of parts_ among the tiles
  std::vector<float> scratch_;
  std::string model_, name_, note_;
  float threshold_ = std::numeric_limits<float>::quiet_NaN();
  std::unique_ptr<Monitor> monitor_;
  std::unique_ptr<Session> session_;
  SessionInfo info_;
  std::mutex mutex_;
};

}  // namespace adfast
