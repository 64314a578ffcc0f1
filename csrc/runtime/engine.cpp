#include "runtime/engine.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "runtime/device.h"
#include "runtime/host_session.h"
#include "runtime/program.h"

namespace adfast {

namespace {

std::unique_ptr<HostBackend> cpu_backend(const Plan& plan, const EngineOptions& options) {
  const bool wish = options.precision.empty();
  const Tactics tactics = options.tactics.empty() ? Tactics() : read_tactics(options.tactics);
  for (const auto& [step, word] : tactics) {
    const auto named = [&](const Node& node) { return node.name == step; };
    if (step != "*" && std::none_of(plan.graph.nodes.begin(), plan.graph.nodes.end(), named)) {
      throw Error(ErrorKind::argument, options.tactics + ": the plan has no step '" + step +
                                           "': the file was made for another; run adfast tune");
    }
  }
  auto backend = make_cpu_backend(
      {wish ? plan.fields.text("precision") : options.precision, wish, options.isa, tactics});
  const auto quantised = [](const Node& node) { return node.input_levels().has_value(); };
  if (backend->precision() == "int8" && std::ranges::none_of(plan.graph.nodes, quantised)) {
    throw Error(ErrorKind::argument,
                "precision='int8': this plan has no quantisation; build it with --precision int8");
  }
  return backend;
}

// Options that only one kind of session heeds.
bool only_on_cpu(const EngineOptions& options) {
  return !options.isa.empty() || !options.tactics.empty() || options.precision == "int8";
}

}  // namespace

Engine::Engine(const Plan& plan, const EngineOptions& options)
    : geometry_(frame_geometry(plan.graph)),
      model_(plan.fields.has("model") ? plan.fields.text("model") : "") {
  if (plan.calibration.has("threshold")) {
    threshold_ = static_cast<float>(plan.calibration.real("threshold"));
  }
  const std::string& device = options.device;
  const bool choose = device == "auto";
  if (!choose && device != "cpu" && device != "cuda" && !device.starts_with("cuda:")) {
    throw Error(ErrorKind::argument,
                "device is '" + device + "', expected 'auto', 'cpu', 'cuda' or 'cuda:N'");
  }
  if (!choose && device != "cpu" && only_on_cpu(options)) {
    throw Error(ErrorKind::argument, "device='" + device +
                                         "': isa, tactics and precision='int8' are the CPU's; "
                                         "leave them out, or load with device='cpu'");
  }
  if (device != "cpu" && !only_on_cpu(options)) {
    try {
      session_ = make_device_session(plan, options);
    } catch (const Error& error) {
      // What is wrong with the plan is wrong everywhere.
      if (!choose || error.kind() == ErrorKind::plan) throw;
      note_ = error.what();
    }
  }
  if (!session_) {
    session_ = std::make_unique<HostSession>(plan.graph, geometry_, cpu_backend(plan, options),
                                             options.threads);
  }
  info_ = session_->info();
}

void Engine::check(const FrameView& frame) const {
  session_->check();
  if (frame.on_device && info_.device == "cpu") {
    throw Error(ErrorKind::frame,
                "[predict] the image lies on a card and this engine runs on the CPU; copy it to "
                "host memory, or load with device='cuda'");
  }
  if (frame.data == nullptr || frame.height < 1 || frame.width < 1 ||
      frame.height > max_frame_side || frame.width > max_frame_side) {
    throw Error(ErrorKind::frame, "[predict] a frame of " + std::to_string(frame.height) + "x" +
                                      std::to_string(frame.width) + " pixels, expected 1 to " +
                                      std::to_string(max_frame_side) + " a side");
  }
}

void Engine::check(const Job& job) const {
  if (!std::isfinite(job.score)) {
    throw Error(ErrorKind::run,
                "[predict] the score is not a finite number: the plan's weights "
                "overflow in " +
                    info_.precision + "; load it with precision='f32', or train the model again");
  }
}

void Engine::predict(Job& job) {
  check(job.frame);
  const std::lock_guard lock(mutex_);
  session_->predict(job);
  check(job);
}

void Engine::predict_batch(std::span<Job> jobs) {
  for (const Job& job : jobs) check(job.frame);
  if (jobs.empty()) return;
  const std::lock_guard lock(mutex_);
  session_->predict_batch(jobs);
  for (const Job& job : jobs) check(job);
}

std::vector<StepReport> Engine::profile(const FrameView& frame) {
  check(frame);
  const std::lock_guard lock(mutex_);
  return session_->profile(frame);
}

void Engine::observe(const FrameView& frame, std::map<std::string, Observation>* values) {
  check(frame);
  const std::lock_guard lock(mutex_);
  session_->observe(frame, values);
}

}  // namespace adfast
