#include "backends/cuda/session.h"

#include <algorithm>
#include <exception>
#include <vector>

#include "core/error.h"

namespace adfast::cuda {
namespace {

// Frames of a batch in work at once: enough that one is computed while others come and go.
constexpr size_t most_slots = 3;

}  // namespace

CudaSession::CudaSession(const Graph& graph, int device, DType features, const std::string& folders,
                         const EngineImage* image)
    : geometry_(frame_geometry(graph)),
      device_(device, features, folders, image),
      backend_(make_cuda_backend(device_)),
      program_(image == nullptr ? graph : engine_graph(graph), *backend_),
      detector_(detector_outputs(program_)) {
  slots_.push_back(std::make_unique<Slot>(program_, device_, 0, geometry_, detector_));
  // Every step once by itself: what does not run here says so by name, and before a line waits.
  const std::vector<uint8_t> grey(
      static_cast<size_t>(geometry_.resize_height * geometry_.resize_width), 128);
  FrameView frame;
  frame.data = grey.data();
  frame.height = geometry_.resize_height;
  frame.width = geometry_.resize_width;
  frame.row_stride = frame.width;
  frame.pixel_stride = 1;
  frame.format = mono8;
  slots_[0]->upload(frame);
  slots_[0]->execution().run_each([](int32_t) {});
}

SessionInfo CudaSession::info() const {
  SessionInfo info;
  const TensorRtEngine* engine = device_.engine.get();
  info.device = engine == nullptr ? "cuda" : "tensorrt";
  info.processor = device_.name;
  info.precision = engine == nullptr ? backend_->precision() : engine->precision();
  info.frame_memory = slots_[0]->execution().arena_bytes();
  if (engine != nullptr) info.frame_memory += engine->context_bytes();
  info.lanes = slots_[0]->execution().lanes();
  info.map_height = detector_.height;
  info.map_width = detector_.width;
  return info;
}

// More slots for a batch; without memory for them, those there are serve it.
void CudaSession::add_slots(size_t wanted) {
  while (slots_.size() < wanted && !out_of_memory_) {
    try {
      const size_t first = device_.lanes.size() > slots_.size() * lanes_per_frame
                               ? slots_.size() * lanes_per_frame
                               : device_.add_lanes();
      slots_.push_back(std::make_unique<Slot>(program_, device_, first, geometry_, detector_));
    } catch (const Error&) {
      out_of_memory_ = true;
    }
  }
}

void CudaSession::predict(std::span<Job> jobs) {
  device_.enter();
  add_slots(std::min(jobs.size(), most_slots));
  const size_t slots = std::min(jobs.size(), slots_.size());
  std::exception_ptr failure;
  const auto finish = [&](size_t i) {
    try {
      slots_[i % slots]->finish(jobs[i]);
    } catch (...) {
      if (!failure) failure = std::current_exception();
    }
  };
  // What was begun is finished, whatever else fails.
  size_t begun = 0, finished = 0;
  try {
    for (; begun < jobs.size(); ++begun) {
      if (begun >= slots) finish(finished++);
      slots_[begun % slots]->begin(jobs[begun]);
    }
  } catch (...) {
    failure = std::current_exception();
  }
  while (finished < begun) finish(finished++);
  if (failure) std::rethrow_exception(failure);
}

std::vector<StepReport> CudaSession::profile(const FrameView& frame) {
  device_.enter();
  slots_[0]->upload(frame);
  const Execution& execution = slots_[0]->execution();
  // Step by step, without the graph, which would hide them; so launches weigh in what is short.
  std::vector<StepReport> reports;
  double begin = 0;
  for (int32_t index : execution.order()) {
    const Program::Step& step = program_.steps()[index];
    StepReport report{step.op, step.name, step.run->kernel(), index, execution.lane_of(index)};
    report.milliseconds = execution.time_step(index);
    report.begin = begin;
    report.gflop = step.run->flops() * 1e-9;
    report.bytes = program_.traffic(step);
    begin += report.milliseconds;
    reports.push_back(report);
  }
  return reports;
}

}  // namespace adfast::cuda
