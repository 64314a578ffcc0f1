// What every file of the C interface shares: exceptions become a status and a message.
#pragma once
#include <exception>
#include <memory>
#include <new>
#include <string>

#include "adfast/adfast.h"
#include "core/error.h"
#include "core/frame.h"
#include "runtime/engine.h"
#include "runtime/stream.h"

struct adfast_engine {
  // Shared with what works on it, so that the order of destruction does not matter.
  std::shared_ptr<adfast::Engine> engine;
};

struct adfast_stream {
  std::unique_ptr<adfast::Stream> stream;
};

namespace adfast::c_api {

adfast_status status_of(ErrorKind kind);
void set_last_error(std::string message);

template <class Function>
adfast_status guarded(Function function) noexcept {
  try {
    function();
    return ADFAST_OK;
  } catch (const Error& error) {
    set_last_error(error.what());
    return status_of(error.kind());
  } catch (const std::bad_alloc&) {
    set_last_error("out of memory");
    return ADFAST_ERROR_RUN;
  } catch (const std::exception& error) {
    set_last_error(error.what());
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

template <class Handle>
void require_handle(const Handle* handle, const char* what) {
  if (handle == nullptr) throw Error(ErrorKind::argument, std::string(what) + " is null");
}

// Throws ErrorKind::frame for a format or a layout that cannot be.
FrameView view_of(const adfast_frame& frame);
Job job_of(const adfast_frame* frame);  // without outputs

adfast_rectangle rectangle_of(const Rectangle& rectangle);
int32_t verdict(const Engine& engine, float score);

// Fills in the quantiles that the counters of engines and streams share.
template <class Counters>
void fill_quantiles(const Histogram::Summary& summary, Counters* counters) {
  counters->p50_ms = summary.quantile(0.5);
  counters->p90_ms = summary.quantile(0.9);
  counters->p99_ms = summary.quantile(0.99);
  counters->max_ms = summary.max;
}

}  // namespace adfast::c_api
