// adfast for C++17 and later: a header-only skin over adfast.h, which says more of each member.
//
//   adfast::Engine engine("part.plan");
//   adfast::Result result = engine.predict(adfast::Frame(pixels, width, height, ADFAST_BGR8));
//   if (result.is_anomalous()) reject(result.regions());
#pragma once
#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "adfast/adfast.h"

namespace adfast {

class Failure : public std::runtime_error {
 public:
  Failure(adfast_status status, const char* message)
      : std::runtime_error(message), status_(status) {}
  adfast_status status() const { return status_; }

 private:
  adfast_status status_;
};

// Throws Failure for anything but ADFAST_OK.
inline void check(adfast_status status) {
  if (status != ADFAST_OK) throw Failure(status, adfast_last_error());
}

using Rectangle = adfast_rectangle;
using Region = adfast_region;

// Borrows the pixels.
struct Frame : adfast_frame {
  // `row_stride` in bytes; 0 when rows follow each other.
  Frame(const void* pixels, int columns, int rows, adfast_pixel_format format, ptrdiff_t stride = 0)
      : adfast_frame{} {
    struct_size = sizeof(adfast_frame);
    data = pixels;
    width = columns;
    height = rows;
    row_stride = stride;
    pixel_format = format;
  }
  // What is inspected as if it were the whole frame.
  Frame& inspect(const Rectangle& part) {
    roi = part;
    return *this;
  }
  // What does not count: a byte for each pixel, other than 0 where it does not.
  Frame& leave_out(const uint8_t* mask, ptrdiff_t stride = 0) {
    ignore = mask;
    ignore_stride = stride;
    return *this;
  }
};

// The regions of a map that are above a threshold, the highest peak first.
inline std::vector<Region> find_regions(const float* map, int width, int height, float threshold,
                                        int64_t min_area = 1) {
  const adfast_region_options options{sizeof(adfast_region_options), threshold, nullptr, 0,
                                      min_area};
  size_t count = 0;
  check(adfast_find_regions(map, width, height, &options, nullptr, 0, &count));
  std::vector<Region> regions(count);
  check(adfast_find_regions(map, width, height, &options, regions.data(), count, &count));
  return regions;
}

struct Result {
  float score = 0;
  float threshold = NAN;   // NaN when the plan is not calibrated
  std::vector<float> map;  // height x width of the frame, row by row
  int width = 0, height = 0;
  Rectangle inspected{};  // outside it the map is 0
  double milliseconds = 0;

  bool calibrated() const { return !std::isnan(threshold); }
  bool is_anomalous() const { return calibrated() && score > threshold; }
  // By the plan's threshold; none of a plan that is not calibrated.
  std::vector<Region> regions(int64_t min_area = 1) const {
    if (!calibrated()) return {};
    return find_regions(map.data(), width, height, threshold, min_area);
  }
};

// What each is stands at adfast_options. In C++20: Engine("part.plan", {.device = "cuda"}).
struct Options {
  int threads = 0;
  int frames_at_once = 0;
  const char* precision = nullptr;
  const char* tactics = nullptr;
  const char* device = nullptr;
  const char* folders = nullptr;
  const uint8_t* public_key = nullptr;
};

// Moves, does not copy. May be used from many threads, which take turns.
class Engine {
 public:
  explicit Engine(const std::string& path, const Options& options = {}) {
    adfast_options raw{};
    raw.struct_size = sizeof(raw);
    raw.threads = options.threads;
    raw.frames_at_once = options.frames_at_once;
    raw.precision = options.precision;
    raw.tactics = options.tactics;
    raw.device = options.device;
    raw.folders = options.folders;
    raw.public_key = options.public_key;
    adfast_engine* engine = nullptr;
    check(adfast_load(path.c_str(), &raw, &engine));
    engine_.reset(engine);
  }

  Result predict(const Frame& frame) const { return std::move(predict(&frame, 1)[0]); }

  // The same bits as one by one.
  std::vector<Result> predict(const Frame* frames, size_t count) const {
    std::vector<Result> results(count);
    std::vector<adfast_frame> raw_frames(frames, frames + count);
    std::vector<adfast_result> raw(count);
    for (size_t i = 0; i < count; ++i) {
      if (frames[i].width < 0 || frames[i].height < 0) {
        throw Failure(ADFAST_ERROR_FRAME, "[predict] width and height must be positive");
      }
      results[i].width = frames[i].width;
      results[i].height = frames[i].height;
      results[i].map.resize(static_cast<size_t>(frames[i].width) *
                            static_cast<size_t>(frames[i].height));
      raw[i].struct_size = sizeof(adfast_result);
      raw[i].map = results[i].map.data();
    }
    check(adfast_predict_batch(engine_.get(), raw_frames.data(), raw.data(), count));
    for (size_t i = 0; i < count; ++i) {
      results[i].score = raw[i].score;
      results[i].threshold = raw[i].threshold;
      results[i].inspected = raw[i].inspected;
      results[i].milliseconds = raw[i].total_ms;
    }
    return results;
  }

  void warmup(int count = 3) const { check(adfast_warmup(engine_.get(), count)); }

  adfast_info info() const {
    adfast_info info{};
    info.struct_size = sizeof(info);
    check(adfast_get_info(engine_.get(), &info));
    return info;
  }

  // Bytes of the process, for frames of this size.
  adfast_memory memory(int32_t width, int32_t height) const {
    adfast_memory memory{};
    memory.struct_size = sizeof(memory);
    check(adfast_get_memory(engine_.get(), width, height, &memory));
    return memory;
  }

  // For the functions of adfast.h; the engine keeps it.
  adfast_engine* handle() const { return engine_.get(); }

 private:
  struct Destroy {
    void operator()(adfast_engine* engine) const { adfast_destroy(engine); }
  };

  std::unique_ptr<adfast_engine, Destroy> engine_;
};

// What became of a frame of a stream; its members are those of adfast_stream_result.
class StreamResult {
 public:
  explicit StreamResult(adfast_stream_result* result) : result_(result) {}
  const adfast_stream_result& operator*() const { return *result_; }
  const adfast_stream_result* operator->() const { return result_.get(); }
  explicit operator bool() const { return result_ != nullptr; }

 private:
  struct Release {
    void operator()(adfast_stream_result* result) const { adfast_stream_release(result); }
  };
  std::unique_ptr<adfast_stream_result, Release> result_;
};

struct StreamOptions {
  int capacity = 4;
  adfast_policy policy = ADFAST_BLOCK;
  double deadline_ms = 0;
  bool with_map = true;
};

// Moves, does not copy. Every member may be called from any thread.
class Stream {
 public:
  // Called by the stream's thread; must not throw.
  using Callback = std::function<void(const adfast_stream_result&)>;

  // Without a callback results wait to be polled.
  explicit Stream(const Engine& engine, const StreamOptions& options = {}, Callback callback = {})
      : callback_(callback ? std::make_unique<Callback>(std::move(callback)) : nullptr) {
    adfast_stream_options raw{};
    raw.struct_size = sizeof(raw);
    raw.capacity = options.capacity;
    raw.policy = options.policy;
    raw.deadline_ms = options.deadline_ms;
    raw.with_map = options.with_map ? 1 : 0;
    if (callback_) {
      raw.callback = [](const adfast_stream_result* result, void* user) {
        (*static_cast<Callback*>(user))(*result);
      };
      raw.user = callback_.get();
    }
    adfast_stream* stream = nullptr;
    check(adfast_stream_open(engine.handle(), &raw, &stream));
    stream_.reset(stream);
  }

  // Returns the ticket; the pixels are copied.
  uint64_t submit(const Frame& frame, uint64_t id = 0, int64_t timestamp = 0) {
    uint64_t ticket = 0;
    check(adfast_stream_submit(stream_.get(), &frame, id, timestamp, &ticket));
    return ticket;
  }

  // False when there is none within `timeout_ms` (negative: it waits), or none any more.
  StreamResult poll(double timeout_ms = -1) {
    adfast_stream_result* result = nullptr;
    const adfast_status status = adfast_stream_poll(stream_.get(), timeout_ms, &result);
    if (status != ADFAST_TIMEOUT && status != ADFAST_ERROR_CLOSED) check(status);
    return StreamResult(result);
  }

  void close(bool drain = true) { check(adfast_stream_close(stream_.get(), drain ? 1 : 0)); }

  adfast_stream_counters counters() const {
    adfast_stream_counters counters{};
    counters.struct_size = sizeof(counters);
    check(adfast_stream_get_counters(stream_.get(), &counters));
    return counters;
  }

  adfast_stream* handle() const { return stream_.get(); }

 private:
  struct Destroy {
    void operator()(adfast_stream* stream) const { adfast_stream_destroy(stream); }
  };
  std::unique_ptr<Callback> callback_;  // outlives the stream, which calls it
  std::unique_ptr<adfast_stream, Destroy> stream_;
};

// All counters in Prometheus' text format; `stream` may be null.
inline std::string metrics_text(const Engine& engine, const Stream* stream = nullptr) {
  const adfast_stream* raw = stream == nullptr ? nullptr : stream->handle();
  size_t needed = 0;
  check(adfast_metrics_text(engine.handle(), raw, nullptr, 0, &needed));
  std::string text(needed + 256, '\0');  // counters may have grown a digit meanwhile
  check(adfast_metrics_text(engine.handle(), raw, text.data(), text.size(), &needed));
  text.resize(std::min(needed, text.size()) - 1);
  return text;
}

}  // namespace adfast
