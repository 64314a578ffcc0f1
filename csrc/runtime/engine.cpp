#include "runtime/engine.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "core/error.h"
#include "core/log.h"
#include "runtime/device.h"
#include "runtime/host_session.h"
#include "runtime/program.h"

namespace adfast {

namespace {

std::unique_ptr<HostBackend> cpu_backend(const Plan& plan, const EngineOptions& options) {
  const bool wish = options.precision.empty();
  const Tactics tactics = options.tactics.empty() ? Tactics() : read_tactics(options.tactics);
  for (const auto& [step, word] : tactics) {
    const auto named = [&name = step](const Node& node) { return node.name == name; };
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

constexpr size_t parts_on_device = 4;

Rectangle extent(const Job& job) {
  return job.roi.empty() ? Rectangle{0, 0, job.frame.height, job.frame.width} : job.roi;
}

TileRule tile_rule(const Table& fields) {
  if (!fields.has("tile.size")) return {};
  const auto size = fields.integers("tile.size", 2, 1, max_frame_side);
  const TileRule rule{size[0], size[1], fields.integer("tile.overlap")};
  if (rule.overlap < 0 || 2 * rule.overlap > std::min(rule.height, rule.width)) {
    throw Error(ErrorKind::plan, "the plan's tiles of " + std::to_string(rule.height) + "x" +
                                     std::to_string(rule.width) + " pixels overlap by " +
                                     std::to_string(rule.overlap) +
                                     ", expected at most half of a side");
  }
  return rule;
}

ScoreRule score_rule_of(const Table& fields) {
  ScoreRule rule;
  if (fields.has("score.reduction")) rule.reduction = fields.text("score.reduction");
  if (fields.has("score.pool")) rule.pool = std::max<int64_t>(1, fields.integer("score.pool"));
  const auto& known = {"max", "mean", "pooled_max"};
  const auto same = [&](const char* name) { return rule.reduction == name; };
  if (std::none_of(known.begin(), known.end(), same)) rule.reduction = "model";
  return rule;
}

// Options that only one kind of session heeds.
bool only_on_cpu(const Plan& plan, const EngineOptions& options) {
  const bool engine = plan.tensorrt && plan.tensorrt->precision == options.precision;
  return !options.isa.empty() || !options.tactics.empty() ||
         (options.precision == "int8" && !(engine && options.device != "cuda"));
}

bool names_device(const std::string& device) {
  const std::string name = device.substr(0, device.find(':'));
  return name == "cuda" || name == "tensorrt";
}

}  // namespace

Engine::Engine(const Plan& plan, const EngineOptions& options)
    : geometry_(frame_geometry(plan.graph)),
      plan_bytes_(static_cast<size_t>(plan.file_size)),
      tiles_(tile_rule(plan.fields)),
      score_rule_(score_rule_of(plan.fields)),
      model_(plan.fields.has("model") ? plan.fields.text("model") : ""),
      name_(plan.fields.has("name") ? plan.fields.text("name") : "") {
  if (plan.calibration.has("threshold")) {
    threshold_ = static_cast<float>(plan.calibration.real("threshold"));
  }
  const std::string& device = options.device;
  const bool choose = device == "auto";
  if (!choose && device != "cpu" && !names_device(device)) {
    throw Error(ErrorKind::argument,
                "device is '" + device +
                    "', expected 'auto', 'cpu', 'cuda', 'tensorrt', or one with a number, as "
                    "'cuda:1'");
  }
  if (!choose && device != "cpu" && only_on_cpu(plan, options)) {
    throw Error(ErrorKind::argument, "device='" + device +
                                         "': isa, tactics and precision='int8' are the CPU's; "
                                         "leave them out, or load with device='cpu'");
  }
  if (device != "cpu" && !only_on_cpu(plan, options)) {
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
                                             options.threads, options.frames_at_once);
  }
  info_ = session_->info();
  if (!info_.note.empty()) note_ = info_.note;
  std::vector<double> quantiles;
  if (plan.calibration.has("score.quantiles"))
    quantiles = plan.calibration.reals("score.quantiles");
  const bool counted = plan.calibration.has("images");
  monitor_ = std::make_unique<Monitor>(
      std::move(quantiles), counted ? plan.calibration.integer("images") : 0, threshold_);
  if (!note_.empty()) {
    const char* how = info_.device == "cpu" ? "runs on the CPU: " : "runs without TensorRT: ";
    log(Severity::warning, std::string("[load] ") + how + note_);
  }
  log(Severity::info, "[load] " + model_ + " on " + info_.device + ", " + info_.precision + ", " +
                          std::to_string(info_.threads) + " threads");
}

Rectangle Engine::inspected(const Job& job) const {
  const Rectangle part = extent(job);
  Rectangle seen =
      inspected_part(tiles_, geometry_, part.bottom - part.top, part.right - part.left);
  return {part.top + seen.top, part.left + seen.left, part.top + seen.bottom,
          part.left + seen.right};
}

bool Engine::tiled(const Job& job) const {
  const Rectangle part = extent(job);
  return !tiles_.covers(part.bottom - part.top, part.right - part.left);
}

bool Engine::plain(const Job& job) const { return !job.ignore && job.roi.empty() && !tiled(job); }

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

void Engine::check_job(const Job& job) const {
  const FrameView& frame = job.frame;
  check(frame);
  const Rectangle& roi = job.roi;
  if (!roi.empty() &&
      (roi.top < 0 || roi.left < 0 || roi.bottom <= roi.top || roi.right <= roi.left ||
       roi.bottom > frame.height || roi.right > frame.width)) {
    throw Error(ErrorKind::frame,
                "[predict] the region of interest, rows " + std::to_string(roi.top) + " to " +
                    std::to_string(roi.bottom) + " and columns " + std::to_string(roi.left) +
                    " to " + std::to_string(roi.right) + ", does not lie in the frame of " +
                    std::to_string(frame.height) + "x" + std::to_string(frame.width) + " pixels");
  }
  if (job.ignore && score_rule_.reduction == "model") {
    throw Error(ErrorKind::argument,
                "[predict] an ignore mask needs to know how the map becomes the score, and this "
                "plan does not say; build it from a model that gives the map alone, whose "
                "maximum is then the score");
  }
  if (frame.on_device && !plain(job)) {
    throw Error(ErrorKind::frame,
                "[predict] regions of interest, ignore masks and tiles need the frame in host "
                "memory; it lies on a card");
  }
  if (job.network_map != nullptr && tiled(job)) {
    throw Error(ErrorKind::argument,
                "[predict] the frame is inspected in tiles and has no map at the network's "
                "resolution; take the map of the frame's size");
  }
}

void Engine::check_result(const Job& job) const {
  if (!std::isfinite(job.score)) {
    throw Error(ErrorKind::run,
                "[predict] the score is not a finite number: the plan's weights "
                "overflow in " +
                    info_.precision + "; load it with precision='f32', or train the model again");
  }
}

FrameView Engine::central_tile(const FrameView& frame) const {
  if (tiles_.covers(frame.height, frame.width)) return frame;
  const int64_t height = std::min(frame.height, tiles_.height);
  const int64_t width = std::min(frame.width, tiles_.width);
  return part_of(frame, (frame.width - width) / 2, (frame.height - height) / 2, width, height);
}

PartScore Engine::score_of(const Job& part) {
  if (!part.ignore) return {part.score, map_height() * map_width()};
  const Rectangle seen = inspected_part(geometry_, part.frame.height, part.frame.width);
  return masked_score(score_rule_, part.network_map, map_height(), map_width(), seen, part.ignore,
                      &scratch_);
}

void Engine::run_parts(Job& job) {
  const auto started = std::chrono::steady_clock::now();
  const Rectangle roi = extent(job);
  const int64_t height = roi.bottom - roi.top, width = roi.right - roi.left;
  if (height != tiled_height_ || width != tiled_width_) {
    tiling_ = tiling(tiles_, geometry_, height, width);
    tiled_height_ = height;
    tiled_width_ = width;
  }
  const TileAxis &rows = tiling_.rows, &columns = tiling_.columns;
  if (job.map != nullptr) std::fill_n(job.map, job.frame.height * job.frame.width, 0.0f);
  if (job.network_map != nullptr) std::fill_n(job.network_map, map_height() * map_width(), 0.0f);

  // As many at once as the session works on; more would only take memory.
  const size_t at_once =
      info_.device == "cpu" ? static_cast<size_t>(info_.frames_at_once) : parts_on_device;
  part_maps_.resize(at_once);
  part_network_maps_.resize(at_once);
  const size_t tiles = rows.begin.size() * columns.begin.size();
  PartScore total;
  job.timings = {};
  for (size_t next = 0; next < tiles;) {
    parts_.clear();
    places_.clear();
    for (; next < tiles && parts_.size() < at_once; ++next) {
      const int64_t y = roi.top + rows.begin[next / columns.begin.size()];
      const int64_t x = roi.left + columns.begin[next % columns.begin.size()];
      Job part;
      part.frame = part_of(job.frame, x, y, columns.size, rows.size);
      part.ignore = job.ignore.from(y, x);
      if (all_ignored(part.ignore, rows.size, columns.size)) continue;
      const size_t slot = parts_.size();
      if (job.map != nullptr) {
        part_maps_[slot].resize(static_cast<size_t>(rows.size * columns.size));
        part.map = part_maps_[slot].data();
      }
      part_network_maps_[slot].resize(static_cast<size_t>(map_height() * map_width()));
      part.network_map = part_network_maps_[slot].data();
      parts_.push_back(part);
      places_.push_back(next);
    }
    if (parts_.empty()) break;  // what was left is ignored
    session_->predict_batch(parts_);
    for (size_t i = 0; i < parts_.size(); ++i) {
      check_result(parts_[i]);
      total = combined(score_rule_, total, score_of(parts_[i]));
      if (job.map != nullptr) {
        add_tile(tiling_, places_[i] / columns.begin.size(), places_[i] % columns.begin.size(),
                 parts_[i].map, job.map + roi.top * job.frame.width + roi.left, job.frame.width);
      }
      // Two at once take each the whole time.
      const double share = 1.0 / static_cast<double>(parts_.size());
      job.timings.frame += parts_[i].timings.frame * share;
      job.timings.network += parts_[i].timings.network * share;
      if (job.network_map != nullptr) {
        std::copy_n(parts_[i].network_map, map_height() * map_width(), job.network_map);
      }
    }
  }
  if (job.ignore && job.map != nullptr) {
    erase(job.ignore, job.frame.height, job.frame.width, job.map);
  }
  job.score = total.score;
  const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - started;
  job.timings.total = took.count();
  job.timings.map = std::max(0.0, took.count() - job.timings.frame - job.timings.network);
}

void Engine::warmup(int count) {
  if (count < 0) {
    throw Error(ErrorKind::argument,
                "[warmup] n is " + std::to_string(count) + ", expected 0 or more");
  }
  Job job;
  const std::vector<uint8_t> grey(
      static_cast<size_t>(geometry_.resize_height * geometry_.resize_width), 128);
  job.frame.data = grey.data();
  job.frame.format = mono8;
  job.frame.height = geometry_.resize_height;
  job.frame.width = job.frame.row_stride = geometry_.resize_width;
  job.frame.pixel_stride = 1;
  session_->check();
  const std::lock_guard lock(mutex_);
  for (int i = 0; i < count; ++i) session_->predict(job);
}

void Engine::predict(Job& job) { predict_batch({&job, 1}); }

void Engine::predict_batch(std::span<Job> jobs) {
  for (const Job& job : jobs) check_job(job);
  try {
    const std::lock_guard lock(mutex_);
    run_batch(jobs);
  } catch (const std::exception& error) {
    monitor_->failure();
    log(Severity::error, error.what());
    throw;
  }
  for (const Job& job : jobs) {
    if (job.counted) monitor_->frame(job.score, job.timings.total);
  }
}

void Engine::run_batch(std::span<Job> jobs) {
  while (!jobs.empty()) {
    // Plain ones go to the session together.
    size_t count = 0;
    while (count < jobs.size() && plain(jobs[count])) ++count;
    if (count == 0) {
      run_parts(jobs[0]);
      count = 1;
    } else {
      session_->predict_batch(jobs.first(count));
      for (const Job& job : jobs.first(count)) check_result(job);
    }
    jobs = jobs.subspan(count);
  }
}

MemoryUse Engine::memory(int64_t height, int64_t width) const {
  if (height < 1 || width < 1 || height > max_frame_side || width > max_frame_side) {
    throw Error(ErrorKind::argument, "[memory] the frame is " + std::to_string(width) + "x" +
                                         std::to_string(height) + ", expected 1 to " +
                                         std::to_string(max_frame_side) + " pixels a side");
  }
  if (info_.steps == 0) return {};
  // oneDNN and the code it generates, measured: what they touch first, and then for every step.
  constexpr size_t library = size_t{10} << 20, step = size_t{20} << 10;
  const size_t code = library + step * info_.steps;
  MemoryUse use{info_.weight_memory, info_.frame_memory, 0, 0};
  size_t maps = sizeof(float) * static_cast<size_t>(height * width);
  if (!tiles_.covers(height, width)) {
    // One tile at once is inspected where whole frames are.
    const auto at_once = static_cast<size_t>(info_.frames_at_once);
    maps += at_once * sizeof(float) * static_cast<size_t>(tiles_.height * tiles_.width);
    if (at_once > 1) use.frame *= at_once;
  }
  use.loading = plan_bytes_ + use.weights + code;
  use.running = use.weights + use.frame + maps + code;
  return use;
}

std::vector<StepReport> Engine::profile(const FrameView& frame) {
  check(frame);
  const std::lock_guard lock(mutex_);
  return session_->profile(central_tile(frame));
}

void Engine::observe(const FrameView& frame, std::map<std::string, Observation>* values) {
  check(frame);
  const std::lock_guard lock(mutex_);
  session_->observe(central_tile(frame), values);
}

}  // namespace adfast
