#include "runtime/host_session.h"

#include <malloc.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <exception>
#include <functional>

#include "core/error.h"

namespace adfast {

namespace {

constexpr int max_lanes = 2;

double milliseconds() {
  const auto time = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double, std::milli>(time).count();
}

int checked_threads(int threads) {
  if (threads < 0 || threads > 1024) {
    throw Error(ErrorKind::argument,
                "threads is " + std::to_string(threads) + ", expected 0 (all) to 1024");
  }
  return threads == 0 ? usable_processors() : threads;
}

int checked_frames(int frames, int threads) {
  if (frames < 0 || frames > threads) {
    throw Error(ErrorKind::argument, "frames_at_once is " + std::to_string(frames) +
                                         ", expected 1 to the number of threads, " +
                                         std::to_string(threads) + " (0: the engine's choice)");
  }
  return frames;
}

void count(const float* elements, int64_t size, Observation* seen) {
  const float low = seen->low, last = static_cast<float>(seen->counts.size()) - 1;
  const float per_unit = (last + 1) / std::max(seen->high - low, 1e-30f);
  seen->low = seen->high = elements[0];
  for (int64_t i = 0; i < size; ++i) {
    const float v = elements[i];
    seen->low = std::min(seen->low, v);
    seen->high = std::max(seen->high, v);
    // Of a NaN the first, as std::max keeps its first argument.
    if (last >= 0)
      ++seen->counts[static_cast<size_t>(std::min(last, std::max(0.0f, (v - low) * per_unit)))];
  }
}

}  // namespace

int usable_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

HostSession::HostSession(const Graph& graph, const FrameGeometry& geometry,
                         std::unique_ptr<HostBackend> backend, int threads, int frames)
    : geometry_(geometry), backend_(std::move(backend)) {
  const int all = checked_threads(threads);
  lanes_ = std::min(all, max_lanes);
  // Where there are no branches, a second lane's threads do more inside the first one's steps.
  if (parallelism(expected_needs(graph)) < worthwhile_parallelism) lanes_ = 1;
  frames_ = frames == 0 ? lanes_ : checked_frames(frames, all);
  threads_per_lane_ = all / std::max(lanes_, frames_);
  // Where lanes and frames need but one, another writes a half of large maps.
  workers_ = std::make_unique<Workers>(std::min(all, std::max(max_lanes, frames_)));
  program_ = build(graph);
  malloc_trim(0);  // what packing took and gave back goes to the system
  detector_ = detector_outputs(*program_);
  for (size_t i = 0; i < program_->steps().size(); ++i) {
    if (program_->steps()[i].op == "frame") frame_step_ = static_cast<int32_t>(i);
  }
  context_ = std::make_unique<Context>(*program_, *backend_, lanes_, geometry_);
}

std::unique_ptr<Program> HostSession::build(const Graph& graph) const {
  // What is built for a number of threads must be built under that number.
  const uint64_t state = backend_->enter_thread(threads_per_lane_);
  try {
    auto program = std::make_unique<Program>(graph, *backend_);
    backend_->leave_thread(state);
    return program;
  } catch (...) {
    backend_->leave_thread(state);
    throw;
  }
}

SessionInfo HostSession::info() const {
  SessionInfo info;
  info.device = backend_->name();
  info.precision = backend_->precision();
  info.isa = backend_->isa();
  info.threads = std::max(lanes_, frames_) * threads_per_lane_;
  info.lanes = lanes_;
  info.frames_at_once = frames_;
  info.frame_memory = context_->arena_bytes();
  info.weight_memory = program_->packed_bytes();
  info.steps = program_->steps().size();
  info.map_height = detector_.height;
  info.map_width = detector_.width;
  return info;
}

void HostSession::check() const {
  if (!workers_->alive()) {
    throw Error(ErrorKind::run,
                "[predict] the engine was loaded before this process was forked, and its threads "
                "stayed behind; load the plan in the new process");
  }
}

void HostSession::predict(Job& job) { run(*context_, job, workers_.get()); }

void HostSession::predict_batch(std::span<Job> jobs) {
  if (jobs.size() == 1 || frames_ == 1) {
    for (Job& job : jobs) run(*context_, job, workers_.get());
    return;
  }
  while (batch_contexts_.size() < static_cast<size_t>(frames_)) {
    batch_contexts_.push_back(std::make_unique<Context>(*program_, *backend_, 1, geometry_));
  }
  std::atomic<size_t> next = 0;
  failures_.assign(static_cast<size_t>(frames_), nullptr);
  const auto task = [&](int worker) {
    for (size_t i = next++; i < jobs.size(); i = next++) {
      try {
        run(*batch_contexts_[worker], jobs[i], nullptr);
      } catch (...) {
        failures_[worker] = std::current_exception();
        return;
      }
    }
  };
  workers_->run(frames_, std::ref(task));
  for (const auto& failure : failures_) {
    if (failure) std::rethrow_exception(failure);
  }
}

void HostSession::run(Context& context, Job& job, Workers* workers) {
  const double start = milliseconds();
  thread_local std::vector<StepTime> times;
  context.frame().set(job.frame, backend_->frame_scratch(job.frame.width));
  context.run(workers, threads_per_lane_, &times);
  const double computed = milliseconds();
  job.score = *static_cast<const float*>(context.data(detector_.score));
  if (std::isfinite(job.score)) write_map(context, job, workers);
  const double end = milliseconds();
  const double frame = (times[frame_step_].end - times[frame_step_].begin) * 1e3;
  job.timings = {frame, computed - start - frame, end - computed, end - start};
}

void HostSession::write_map(const Context& context, const Job& job, Workers* workers) const {
  const auto* source = static_cast<const float*>(context.data(detector_.map));
  if (job.network_map != nullptr) {
    std::memcpy(job.network_map, source, detector_.height * detector_.width * sizeof(float));
  }
  if (job.map == nullptr) return;
  const int64_t height = job.frame.height, width = job.frame.width;
  const Rectangle part = inspected_part(geometry_, height, width);
  const auto task = [&](int index, int count) {
    const int64_t begin = height * index / count, end = height * (index + 1) / count;
    for (int64_t y = begin; y < end; ++y) {
      float* row = job.map + y * width;
      const bool inside = y >= part.top && y < part.bottom;
      std::fill(row, row + (inside ? part.left : width), 0.0f);
      if (inside) std::fill(row + part.right, row + width, 0.0f);
    }
    const int64_t first = std::max(begin, part.top), last = std::min(end, part.bottom);
    if (first >= last) return;
    backend_->resize_rows(source, static_cast<int>(detector_.height),
                          static_cast<int>(detector_.width), job.map + part.top * width + part.left,
                          static_cast<int>(part.bottom - part.top),
                          static_cast<int>(part.right - part.left), width,
                          static_cast<int>(first - part.top), static_cast<int>(last - part.top));
  };
  // Below this, waking a thread costs more than it saves.
  constexpr int64_t pixels_worth_a_thread = 1 << 16;
  const int parts =
      workers != nullptr && height * width >= 2 * pixels_worth_a_thread ? workers->count() : 1;
  if (parts == 1) {
    task(0, 1);
  } else {
    const auto part = [&](int index) { task(index, parts); };
    workers->run(parts, std::ref(part));
  }
}

std::vector<StepReport> HostSession::profile(const FrameView& frame) {
  std::vector<StepTime> times;
  context_->frame().set(frame, backend_->frame_scratch(frame.width));
  context_->run(workers_.get(), threads_per_lane_, &times);
  double origin = times.empty() ? 0 : times[0].begin;
  for (const StepTime& time : times) origin = std::min(origin, time.begin);
  std::vector<StepReport> reports;
  for (size_t i = 0; i < times.size(); ++i) {
    const Program::Step& step = program_->steps()[i];
    reports.push_back({step.op, step.name, step.run->kernel(), static_cast<int>(i), times[i].lane,
                       (times[i].end - times[i].begin) * 1e3, (times[i].begin - origin) * 1e3,
                       step.run->flops() * 1e-9, program_->traffic(step)});
  }
  std::stable_sort(reports.begin(), reports.end(),
                   [](const auto& a, const auto& b) { return a.begin < b.begin; });
  return reports;
}

void HostSession::observe(const FrameView& frame, std::map<std::string, Observation>* values) {
  std::map<int32_t, Observation*> wanted;
  for (size_t id = 0; id < program_->tensors().size(); ++id) {
    const Tensor& tensor = program_->tensors()[id];
    const auto found = values->find(tensor.name);
    if (found == values->end() || tensor.constant || tensor.dtype != DType::f32) continue;
    wanted.emplace(static_cast<int32_t>(id), &found->second);
  }
  if (wanted.size() != values->size()) {
    throw Error(ErrorKind::argument, "[observe] " + std::to_string(values->size()) +
                                         " values asked for, " + std::to_string(wanted.size()) +
                                         " of them are computed in f32");
  }
  context_->frame().set(frame, backend_->frame_scratch(frame.width));
  // Each value is written by one step, so lanes do not meet.
  context_->run(workers_.get(), threads_per_lane_, nullptr, [&](int32_t step) {
    for (int32_t id : program_->steps()[step].outputs) {
      const auto found = wanted.find(id);
      if (found == wanted.end()) continue;
      const auto* elements = static_cast<const float*>(context_->data(id));
      count(elements, element_count(program_->tensors()[id].shape), found->second);
    }
  });
}

}  // namespace adfast
