// adfast for C++17 and later: a header-only skin over adfast.h.
//
//   adfast::Engine engine("part.plan");
//   adfast::Result result = engine.predict(pixels, width, height, ADFAST_BGR8);
//   if (result.is_anomalous()) reject();
#pragma once
#include <cmath>
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

struct Result {
  float score = 0;
  float threshold = NAN;   // NaN when the plan is not calibrated
  std::vector<float> map;  // height x width, row by row
  int width = 0, height = 0;
  double milliseconds = 0;

  bool calibrated() const { return !std::isnan(threshold); }
  bool is_anomalous() const { return calibrated() && score > threshold; }
};

// What each is stands at adfast_options. In C++20: Engine("part.plan", {.device = "cuda"}).
struct Options {
  int threads = 0;
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
    const adfast_options raw{sizeof(adfast_options), options.threads, options.precision,
                             options.tactics,        options.device,  options.folders,
                             options.public_key};
    adfast_engine* engine = nullptr;
    check(adfast_load(path.c_str(), &raw, &engine));
    engine_.reset(engine);
  }

  // `row_stride` in bytes; 0 when rows follow each other.
  Result predict(const uint8_t* data, int width, int height, adfast_pixel_format format,
                 ptrdiff_t row_stride = 0) const {
    const adfast_frame frame{sizeof(adfast_frame), data, width, height, row_stride, format};
    if (width < 0 || height < 0) {
      throw Failure(ADFAST_ERROR_FRAME, "[predict] width and height must be positive");
    }
    Result result;
    result.width = width;
    result.height = height;
    result.map.resize(static_cast<size_t>(width) * static_cast<size_t>(height));
    adfast_result raw{};
    raw.struct_size = sizeof(raw);
    raw.map = result.map.data();
    check(adfast_predict(engine_.get(), &frame, &raw));
    result.score = raw.score;
    result.threshold = raw.threshold;
    result.milliseconds = raw.total_ms;
    return result;
  }

  adfast_info info() const {
    adfast_info info{};
    info.struct_size = sizeof(info);
    check(adfast_get_info(engine_.get(), &info));
    return info;
  }

 private:
  struct Destroy {
    void operator()(adfast_engine* engine) const { adfast_destroy(engine); }
  };
  static void check(adfast_status status) {
    if (status != ADFAST_OK) throw Failure(status, adfast_last_error());
  }

  std::unique_ptr<adfast_engine, Destroy> engine_;
};

}  // namespace adfast
