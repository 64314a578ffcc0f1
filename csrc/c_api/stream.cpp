// Streams.
#include <chrono>

#include "c_api/common.h"

using adfast::Error;
using adfast::ErrorKind;
using adfast::Policy;
using adfast::StreamResult;
using namespace adfast::c_api;

namespace {

// The C struct, and what its pointers point to.
struct OwnedResult : adfast_stream_result {
  StreamResult kept;
};

std::unique_ptr<OwnedResult> owned(const adfast::Engine& engine, StreamResult&& result) {
  auto owner = std::make_unique<OwnedResult>();
  owner->kept = std::move(result);
  const StreamResult& kept = owner->kept;
  owner->struct_size = sizeof(adfast_stream_result);
  owner->ticket = kept.ticket;
  owner->id = kept.id;
  owner->timestamp = kept.timestamp;
  owner->dropped_before = kept.dropped_before;
  owner->status = kept.error.empty() ? ADFAST_OK : status_of(kept.error_kind);
  owner->error = kept.error.c_str();
  owner->score = kept.score;
  owner->threshold = engine.threshold();
  owner->is_anomalous = verdict(engine, kept.score);
  owner->width = static_cast<int32_t>(kept.width);
  owner->height = static_cast<int32_t>(kept.height);
  owner->map = kept.map.empty() ? nullptr : kept.map.data();
  owner->inspected = rectangle_of(kept.inspected);
  owner->queue_ms = kept.queue_ms;
  owner->total_ms = kept.total_ms;
  owner->frame_ms = kept.timings.frame;
  owner->network_ms = kept.timings.network;
  owner->map_ms = kept.timings.map;
  return owner;
}

}  // namespace

adfast_status adfast_stream_open(adfast_engine* engine, const adfast_stream_options* options,
                                 adfast_stream** stream) {
  return guarded([&] {
    require_handle(engine, "[stream] engine");
    require_handle(stream, "[stream] stream");
    *stream = nullptr;
    require_struct(options, "adfast_stream_options");
    if (options->policy < ADFAST_BLOCK || options->policy > ADFAST_REJECT) {
      throw Error(ErrorKind::argument, "[stream] policy is " + std::to_string(options->policy) +
                                           ", expected one of adfast_policy");
    }
    adfast::StreamOptions chosen;
    chosen.capacity = options->capacity;
    chosen.policy = static_cast<Policy>(options->policy);
    chosen.deadline_ms = options->deadline_ms;
    chosen.with_map = options->with_map != 0;
    if (options->callback != nullptr) {
      chosen.callback = [call = options->callback, user = options->user,
                         kept = engine->engine.get()](StreamResult&& result) {
        call(owned(*kept, std::move(result)).get(), user);
      };
    }
    *stream =
        new adfast_stream{std::make_unique<adfast::Stream>(engine->engine, std::move(chosen))};
  });
}

adfast_status adfast_stream_submit(adfast_stream* stream, const adfast_frame* frame, uint64_t id,
                                   int64_t timestamp, uint64_t* ticket) {
  return guarded([&] {
    require_handle(stream, "[submit] stream");
    const uint64_t number = stream->stream->submit(job_of(frame), id, timestamp);
    if (ticket != nullptr) *ticket = number;
  });
}

adfast_status adfast_stream_poll(adfast_stream* stream, double timeout_ms,
                                 adfast_stream_result** result) {
  bool found = false;
  const adfast_status status = guarded([&] {
    require_handle(stream, "[poll] stream");
    require_handle(result, "[poll] result");
    *result = nullptr;
    constexpr double longest = 1e12;  // of what a clock counts in nanoseconds
    const double wait = timeout_ms < 0 || !(timeout_ms < longest) ? longest : timeout_ms;
    auto next = stream->stream->poll(std::chrono::nanoseconds(static_cast<int64_t>(wait * 1e6)));
    if (!next) return;
    *result = owned(stream->stream->engine(), std::move(*next)).release();
    found = true;
  });
  return status == ADFAST_OK && !found ? ADFAST_TIMEOUT : status;
}

void adfast_stream_release(adfast_stream_result* result) {
  delete static_cast<OwnedResult*>(result);
}

adfast_status adfast_stream_close(adfast_stream* stream, int32_t drain) {
  return guarded([&] {
    require_handle(stream, "[close] stream");
    stream->stream->close(drain != 0);
  });
}

void adfast_stream_destroy(adfast_stream* stream) { delete stream; }

adfast_status adfast_stream_get_counters(const adfast_stream* stream,
                                         adfast_stream_counters* counters) {
  return guarded([&] {
    require_handle(stream, "[counters] stream");
    require_struct(counters, "adfast_stream_counters");
    const adfast::StreamCounters c = stream->stream->counters();
    counters->submitted = c.submitted;
    counters->completed = c.completed;
    counters->failed = c.failed;
    counters->dropped_oldest = c.dropped_oldest;
    counters->dropped_newest = c.dropped_newest;
    counters->rejected = c.rejected;
    counters->expired = c.expired;
    counters->discarded = c.discarded;
    counters->queued = c.queued;
    counters->working = c.working;
    counters->waiting = c.waiting;
    counters->callback_errors = c.callback_errors;
    fill_quantiles(stream->stream->latency().summary(), counters);
  });
}
