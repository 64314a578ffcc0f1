#include "runtime/engine.h"

#include <sched.h>

#include <algorithm>
#include <array>
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
// Below this, a second lane idles more than it works; its threads do more inside the first one's
// steps.
constexpr double worthwhile_parallelism = 1.4;

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

FrameGeometry geometry_of(const Graph& graph) {
  for (const Node& node : graph.nodes) {
    if (node.op != "frame") continue;
    const auto resize = node.attrs.integers("resize", 2, 1, max_frame_side);
    const auto crop = node.attrs.integers("crop", 2, 1, max_frame_side);
    if (crop[0] > resize[0] || crop[1] > resize[1]) {
      throw Error(ErrorKind::plan, "[frame '" + node.name + "'] crop " + to_string(crop) +
                                       " is larger than resize " + to_string(resize));
    }
    return {resize[0], resize[1], crop[0], crop[1], node.attrs.integer("antialias") != 0};
  }
  throw Error(ErrorKind::plan, "the graph has no 'frame' op, so it cannot take an image");
}

}  // namespace

int usable_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

Engine::Engine(const Plan& plan, const EngineOptions& options)
    : lanes_(std::min(checked_threads(options.threads), max_lanes)),
      threads_per_lane_(checked_threads(options.threads) / lanes_),
      workers_(lanes_) {
  geometry_ = geometry_of(plan.graph);
  const bool wish = options.precision.empty();
  const Tactics tactics = options.tactics.empty() ? Tactics() : read_tactics(options.tactics);
  for (const auto& [step, word] : tactics) {
    const auto named = [&](const Node& node) { return node.name == step; };
    if (step != "*" && std::none_of(plan.graph.nodes.begin(), plan.graph.nodes.end(), named)) {
      throw Error(ErrorKind::argument, options.tactics + ": the plan has no step '" + step +
                                           "': the file was made for another; run adfast tune");
    }
  }
  backend_ = make_cpu_backend(
      {wish ? plan.fields.text("precision") : options.precision, wish, options.isa, tactics});
  program_ = build(plan.graph);
  if (lanes_ > 1 && parallelism(program_->needs()) < worthwhile_parallelism) {
    threads_per_lane_ *= lanes_;
    lanes_ = 1;
    program_ = build(plan.graph);
  }

  map_ = program_->output("map");
  score_ = program_->output("score");
  if (map_ < 0 || score_ < 0) {
    throw Error(ErrorKind::plan, "the graph lacks the output 'map' or 'score'");
  }
  const Shape& shape = program_->tensors()[map_].shape;
  const Shape& score_shape = program_->tensors()[score_].shape;
  if (shape.size() != 4 || shape[0] != 1 || shape[1] != 1 || element_count(score_shape) != 1) {
    throw Error(ErrorKind::plan, "outputs map " + to_string(shape) + " and score " +
                                     to_string(score_shape) + ", expected [1,1,H,W] and [1]");
  }
  map_height_ = shape[2];
  map_width_ = shape[3];
  for (size_t i = 0; i < program_->steps().size(); ++i) {
    if (program_->steps()[i].op == "frame") frame_step_ = static_cast<int32_t>(i);
  }
  context_ = std::make_unique<Context>(*program_, *backend_, lanes_, geometry_);
}

std::unique_ptr<Program> Engine::build(const Graph& graph) const {
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

std::string Engine::precision() const {
  return backend_->feature_type() == DType::f32 ? "f32" : "bf16";
}

void Engine::check(const FrameView& frame) const {
  if (!workers_.alive()) {
    throw Error(ErrorKind::run,
                "[predict] the engine was loaded before this process was forked, and its threads "
                "stayed behind; load the plan in the new process");
  }
  if (frame.data == nullptr || frame.height < 1 || frame.width < 1 ||
      frame.height > max_frame_side || frame.width > max_frame_side) {
    throw Error(ErrorKind::frame, "[predict] a frame of " + std::to_string(frame.height) + "x" +
                                      std::to_string(frame.width) + " pixels, expected 1 to " +
                                      std::to_string(max_frame_side) + " a side");
  }
}

void Engine::predict(Job& job) {
  check(job.frame);
  const std::lock_guard lock(mutex_);
  run(*context_, job, &workers_);
}

void Engine::predict_batch(std::span<Job> jobs) {
  for (const Job& job : jobs) check(job.frame);
  if (jobs.empty()) return;
  const std::lock_guard lock(mutex_);
  if (jobs.size() == 1 || lanes_ == 1) {
    for (Job& job : jobs) run(*context_, job, &workers_);
    return;
  }
  while (batch_contexts_.size() < static_cast<size_t>(lanes_)) {
    batch_contexts_.push_back(std::make_unique<Context>(*program_, *backend_, 1, geometry_));
  }
  std::atomic<size_t> next = 0;
  std::array<std::exception_ptr, max_lanes> failures;
  const auto task = [&](int lane) {
    for (size_t i = next++; i < jobs.size(); i = next++) {
      try {
        run(*batch_contexts_[lane], jobs[i], nullptr);
      } catch (...) {
        failures[lane] = std::current_exception();
        return;
      }
    }
  };
  workers_.run(lanes_, std::ref(task));
  for (const auto& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
}

void Engine::run(Context& context, Job& job, Workers* workers) {
  const double start = milliseconds();
  thread_local std::vector<StepTime> times;
  context.frame().set(job.frame, backend_->frame_scratch(job.frame.width));
  context.run(workers, threads_per_lane_, &times);
  const double computed = milliseconds();
  job.score = *static_cast<const float*>(context.data(score_));
  if (!std::isfinite(job.score)) {
    throw Error(ErrorKind::run,
                "[predict] the score is not a finite number: the plan's weights overflow in " +
                    precision() + "; load it with precision='f32', or train the model again");
  }
  write_map(context, job, workers);
  const double end = milliseconds();
  const double frame = (times[frame_step_].end - times[frame_step_].begin) * 1e3;
  job.timings = {frame, computed - start - frame, end - computed, end - start};
}

void Engine::write_map(const Context& context, const Job& job, Workers* workers) const {
  const auto* source = static_cast<const float*>(context.data(map_));
  if (job.network_map != nullptr) {
    std::memcpy(job.network_map, source, map_height_ * map_width_ * sizeof(float));
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
    backend_->resize_rows(source, static_cast<int>(map_height_), static_cast<int>(map_width_),
                          job.map + part.top * width + part.left,
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

std::vector<Engine::StepReport> Engine::profile(const FrameView& frame) {
  check(frame);
  const std::lock_guard lock(mutex_);
  std::vector<StepTime> times;
  context_->frame().set(frame, backend_->frame_scratch(frame.width));
  context_->run(&workers_, threads_per_lane_, &times);
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

}  // namespace adfast
