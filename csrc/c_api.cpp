// Exceptions stop here and become a status and a message.
#include <cmath>
#include <exception>
#include <limits>
#include <new>
#include <string>

#include "adfast/adfast.h"
#include "core/error.h"
#include "core/text.h"
#include "plan/plan.h"
#include "runtime/engine.h"

using adfast::Error;
using adfast::ErrorKind;

struct adfast_engine {
  adfast_engine(const adfast::Plan& plan, const adfast::EngineOptions& options)
      : engine(plan, options),
        model(plan.fields.has("model") ? plan.fields.text("model") : ""),
        device(engine.info().device) {
    if (plan.calibration.has("threshold")) {
      threshold = static_cast<float>(plan.calibration.real("threshold"));
    }
  }

  adfast::Engine engine;
  std::string model, device;
  float threshold = std::numeric_limits<float>::quiet_NaN();
};

namespace {

thread_local std::string last_error;

adfast_status status_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::plan:
      return ADFAST_ERROR_PLAN;
    case ErrorKind::frame:
      return ADFAST_ERROR_FRAME;
    case ErrorKind::argument:
      return ADFAST_ERROR_ARGUMENT;
    case ErrorKind::io:
      return ADFAST_ERROR_IO;
    case ErrorKind::run:
      return ADFAST_ERROR_RUN;
  }
  return ADFAST_ERROR_RUN;
}

template <class Function>
adfast_status guarded(Function function) noexcept {
  try {
    function();
    return ADFAST_OK;
  } catch (const Error& error) {
    last_error = error.what();
    return status_of(error.kind());
  } catch (const std::bad_alloc&) {
    last_error = "out of memory";
    return ADFAST_ERROR_RUN;
  } catch (const std::exception& error) {
    last_error = error.what();
    return ADFAST_ERROR_RUN;
  }
}

// A pointer is usable when it is set and its struct is at least as large as this version's.
template <class Struct>
void require_struct(const Struct* pointer, const char* name) {
  if (pointer == nullptr || pointer->struct_size < sizeof(Struct)) {
    throw Error(ErrorKind::argument, std::string(name) + " is null, or its struct_size is not " +
                                         "sizeof(" + name + ")");
  }
}

adfast::FrameView view_of(const adfast_frame& frame) {
  adfast::FrameView view;
  view.data = frame.data;
  view.height = frame.height;
  view.width = frame.width;
  view.channel_stride = 1;
  switch (frame.pixel_format) {
    case ADFAST_MONO8:
      view.color = adfast::Color::grey;
      break;
    case ADFAST_RGB8:
      view.color = adfast::Color::rgb;
      break;
    case ADFAST_BGR8:
      view.color = adfast::Color::bgr;
      break;
    default:
      throw Error(ErrorKind::frame, "[predict] pixel format " + std::to_string(frame.pixel_format) +
                                        ", expected ADFAST_MONO8, ADFAST_RGB8 or ADFAST_BGR8");
  }
  view.pixel_stride = view.color == adfast::Color::grey ? 1 : 3;
  const ptrdiff_t row = view.pixel_stride * static_cast<ptrdiff_t>(frame.width);
  view.row_stride = frame.row_stride == 0 ? row : frame.row_stride;
  if (std::abs(view.row_stride) < row) {
    throw Error(ErrorKind::frame, "[predict] row_stride is " + std::to_string(frame.row_stride) +
                                      " bytes, a row of " + std::to_string(frame.width) +
                                      " pixels has " + std::to_string(row));
  }
  return view;
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
      if (options->precision != nullptr) chosen.precision = options->precision;
      if (options->tactics != nullptr) chosen.tactics = options->tactics;
      if (options->device != nullptr) chosen.device = options->device;
      if (options->folders != nullptr) chosen.folders = adfast::split(options->folders, ':');
    }
    *engine = new adfast_engine(adfast::Plan::open(path), chosen);
  });
}

void adfast_destroy(adfast_engine* engine) { delete engine; }

adfast_status adfast_predict(adfast_engine* engine, const adfast_frame* frame,
                             adfast_result* result, float* map) {
  return guarded([&] {
    if (engine == nullptr) throw Error(ErrorKind::argument, "[predict] engine is null");
    require_struct(frame, "adfast_frame");
    require_struct(result, "adfast_result");
    adfast::Job job;
    job.frame = view_of(*frame);
    job.map = map;
    engine->engine.predict(job);
    result->score = job.score;
    result->threshold = engine->threshold;
    result->is_anomalous = std::isnan(engine->threshold) ? -1 : job.score > engine->threshold;
    result->frame_ms = job.timings.frame;
    result->network_ms = job.timings.network;
    result->map_ms = job.timings.map;
    result->total_ms = job.timings.total;
  });
}

adfast_status adfast_get_info(const adfast_engine* engine, adfast_info* info) {
  return guarded([&] {
    if (engine == nullptr) throw Error(ErrorKind::argument, "[info] engine is null");
    require_struct(info, "adfast_info");
    info->map_width = static_cast<int32_t>(engine->engine.map_width());
    info->map_height = static_cast<int32_t>(engine->engine.map_height());
    info->threads = engine->engine.info().threads;
    info->threshold = engine->threshold;
    info->precision = engine->engine.info().precision.c_str();
    info->isa = engine->engine.info().isa.c_str();
    info->model = engine->model.c_str();
    info->device = engine->device.c_str();
  });
}

const char* adfast_last_error() { return last_error.c_str(); }

const char* adfast_version() { return ADFAST_VERSION; }
