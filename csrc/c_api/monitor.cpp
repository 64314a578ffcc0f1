// Counters, metrics, log.
#include <cstring>

#include "c_api/common.h"
#include "core/log.h"
#include "runtime/metrics.h"

using namespace adfast::c_api;

adfast_status adfast_get_counters(const adfast_engine* engine, adfast_counters* counters) {
  return guarded([&] {
    require_handle(engine, "[counters] engine");
    require_struct(counters, "adfast_counters");
    const adfast::Monitor& monitor = engine->engine->monitor();
    const auto summary = monitor.latency.summary();
    const auto drift = monitor.drift.state();
    counters->frames = monitor.frames;
    counters->anomalous = monitor.anomalous;
    counters->failures = monitor.failures;
    fill_quantiles(summary, counters);
    counters->p999_ms = summary.quantile(0.999);
    counters->mean_ms = summary.count == 0 ? 0 : summary.sum / static_cast<double>(summary.count);
    counters->drift_distance = drift.distance;
    counters->drift_limit = drift.limit;
    counters->drift_alarm = drift.alarm ? 1 : 0;
  });
}

adfast_status adfast_metrics_text(const adfast_engine* engine, const adfast_stream* stream,
                                  char* text, size_t capacity, size_t* needed) {
  return guarded([&] {
    require_handle(engine, "[metrics] engine");
    if (text == nullptr && capacity != 0) {
      throw adfast::Error(adfast::ErrorKind::argument, "[metrics] text is null");
    }
    const std::string page =
        adfast::metrics_text(*engine->engine, stream == nullptr ? nullptr : stream->stream.get());
    if (needed != nullptr) *needed = page.size() + 1;
    if (capacity == 0) return;
    const size_t bytes = std::min(page.size(), capacity - 1);
    std::memcpy(text, page.data(), bytes);
    text[bytes] = '\0';
  });
}

void adfast_set_log(adfast_log_callback callback, void* user, adfast_severity least) {
  guarded([&] {
    adfast::Log log;
    if (callback != nullptr) {
      log = [callback, user](adfast::Severity severity, const std::string& line) {
        callback(static_cast<adfast_severity>(severity), line.c_str(), user);
      };
    }
    adfast::set_log(std::move(log), static_cast<adfast::Severity>(least));
  });
}
