// Plans and frames.
#include <algorithm>
#include <string>
#include <vector>

#include "c_api/common.h"
#include "core/text.h"
#include "plan/plan.h"
#include "plan/verify.h"
#include "runtime/regions.h"

using adfast::Engine;
using adfast::Error;
using adfast::ErrorKind;
using adfast::Job;
using namespace adfast::c_api;

namespace {

Job job_of(const adfast_frame* frame, const adfast_result* result) {
  require_struct(result, "adfast_result");
  Job job = adfast::c_api::job_of(frame);
  job.map = result->map;
  job.network_map = result->network_map;
  return job;
}

void fill(const Engine& engine, const Job& job, adfast_result* result) {
  result->score = job.score;
  result->threshold = engine.threshold();
  result->is_anomalous = verdict(engine, job.score);
  result->frame_ms = job.timings.frame;
  result->network_ms = job.timings.network;
  result->map_ms = job.timings.map;
  result->total_ms = job.timings.total;
  result->inspected = rectangle_of(engine.inspected(job));
}

}  // namespace

adfast_status adfast_load(const char* path, const adfast_options* options, adfast_engine** engine) {
  return guarded([&] {
    if (path == nullptr || engine == nullptr) {
      throw Error(ErrorKind::argument, "[load] path and engine must not be null");
    }
    *engine = nullptr;
    adfast::EngineOptions chosen;
    if (options != nullptr) {
      require_struct(options, "adfast_options");
      chosen.threads = options->threads;
      chosen.frames_at_once = options->frames_at_once;
      if (options->precision != nullptr) chosen.precision = options->precision;
      if (options->tactics != nullptr) chosen.tactics = options->tactics;
      if (options->device != nullptr) chosen.device = options->device;
      if (options->folders != nullptr) chosen.folders = adfast::split(options->folders, ':');
    }
    adfast::SealCheck check;
    if (options != nullptr && options->public_key != nullptr) {
      adfast::PublicKey key;
      std::copy_n(options->public_key, key.size(), key.begin());
      check = adfast::signed_by(key, path);
    }
    auto loaded = std::make_shared<Engine>(adfast::Plan::open(path, check), chosen);
    *engine = new adfast_engine{std::move(loaded)};
  });
}

void adfast_destroy(adfast_engine* engine) { delete engine; }

adfast_status adfast_predict(adfast_engine* engine, const adfast_frame* frame,
                             adfast_result* result) {
  return guarded([&] {
    require_handle(engine, "[predict] engine");
    Job job = job_of(frame, result);
    engine->engine->predict(job);
    fill(*engine->engine, job, result);
  });
}

adfast_status adfast_predict_batch(adfast_engine* engine, const adfast_frame* frames,
                                   adfast_result* results, size_t count) {
  return guarded([&] {
    require_handle(engine, "[predict_batch] engine");
    std::vector<Job> jobs;
    jobs.reserve(count);
    for (size_t i = 0; i < count; ++i) jobs.push_back(job_of(frames + i, results + i));
    engine->engine->predict_batch(jobs);
    for (size_t i = 0; i < count; ++i) fill(*engine->engine, jobs[i], results + i);
  });
}

adfast_status adfast_find_regions(const float* map, int32_t width, int32_t height,
                                  const adfast_region_options* options, adfast_region* regions,
                                  size_t capacity, size_t* count) {
  return guarded([&] {
    require_struct(options, "adfast_region_options");
    if (map == nullptr || count == nullptr || (regions == nullptr && capacity != 0) || width < 0 ||
        height < 0 || width > adfast::max_frame_side || height > adfast::max_frame_side) {
      throw Error(ErrorKind::argument,
                  "[find_regions] map, count and regions must not be null, width and height from 0 "
                  "to " +
                      std::to_string(adfast::max_frame_side));
    }
    adfast::RegionRule rule;
    rule.threshold = options->threshold;
    rule.thresholds = options->thresholds;
    if (options->min_peak != 0) rule.min_peak = options->min_peak;
    rule.min_area = options->min_area;
    const auto found = adfast::find_regions(map, height, width, rule);
    *count = found.size();
    for (size_t i = 0; i < std::min(capacity, found.size()); ++i) {
      const adfast::Region& r = found[i];
      regions[i] = {
          rectangle_of(r.box),           r.area, r.peak, r.mean, static_cast<int32_t>(r.peak_x),
          static_cast<int32_t>(r.peak_y)};
    }
  });
}

adfast_status adfast_warmup(adfast_engine* engine, int32_t count) {
  return guarded([&] {
    require_handle(engine, "[warmup] engine");
    engine->engine->warmup(count);
  });
}

adfast_status adfast_get_memory(const adfast_engine* engine, int32_t width, int32_t height,
                                adfast_memory* memory) {
  return guarded([&] {
    require_handle(engine, "[memory] engine");
    require_struct(memory, "adfast_memory");
    const adfast::MemoryUse use = engine->engine->memory(height, width);
    memory->weights = use.weights;
    memory->frame = use.frame;
    memory->loading = use.loading;
    memory->running = use.running;
  });
}

adfast_status adfast_get_info(const adfast_engine* engine, adfast_info* info) {
  return guarded([&] {
    require_handle(engine, "[info] engine");
    require_struct(info, "adfast_info");
    const Engine& e = *engine->engine;
    info->map_width = static_cast<int32_t>(e.map_width());
    info->map_height = static_cast<int32_t>(e.map_height());
    info->threads = e.info().threads;
    info->threshold = e.threshold();
    info->precision = e.info().precision.c_str();
    info->isa = e.info().isa.c_str();
    info->model = e.model().c_str();
    info->device = e.info().device.c_str();
    info->tile_width = static_cast<int32_t>(e.tiles().width);
    info->tile_height = static_cast<int32_t>(e.tiles().height);
    info->tile_overlap = static_cast<int32_t>(e.tiles().overlap);
  });
}

const char* adfast_version() { return ADFAST_VERSION; }
