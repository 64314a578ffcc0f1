// Runs a plan on this processor: lanes of steps, a frame on all of them or frames side by side.
#pragma once
#include <exception>
#include <memory>
#include <vector>

#include "plan/graph.h"
#include "runtime/operator.h"
#include "runtime/program.h"
#include "runtime/session.h"
#include "runtime/workers.h"

namespace adfast {

class HostSession final : public Session {
 public:
  // `threads`: 0, as many processors as this process may use, to 1024. `frames`: of a batch, in
  // work at once, each with its share of the threads; 0, one for each lane.
  HostSession(const Graph& graph, const FrameGeometry& geometry,
              std::unique_ptr<HostBackend> backend, int threads, int frames);

  SessionInfo info() const override;
  void check() const override;
  void predict(Job& job) override;
  void predict_batch(std::span<Job> jobs) override;
  std::vector<StepReport> profile(const FrameView& frame) override;
  void observe(const FrameView& frame, std::map<std::string, Observation>* values) override;

 private:
  std::unique_ptr<Program> build(const Graph& graph) const;
  void run(Context& context, Job& job, Workers* workers);
  void write_map(const Context& context, const Job& job, Workers* workers) const;

  FrameGeometry geometry_;
  int lanes_ = 1, frames_ = 1, threads_per_lane_ = 1;
  std::unique_ptr<HostBackend> backend_;
  std::unique_ptr<Program> program_;
  DetectorOutputs detector_;
  int32_t frame_step_ = -1;
  std::unique_ptr<Workers> workers_;
  std::unique_ptr<Context> context_;                      // all lanes on one frame
  std::vector<std::unique_ptr<Context>> batch_contexts_;  // one lane each, made when first needed
  std::vector<std::exception_ptr> failures_;              // of the last batch's workers
};

// The threads this process may run at once.
int usable_processors();

}  // namespace adfast
