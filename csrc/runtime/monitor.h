// What an engine or a stream has done so far: counts, latencies, and whether scores have drifted.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <limits>
#include <mutex>
#include <span>
#include <vector>

namespace adfast {

// Times in milliseconds, in bins each 9 % wider than the last. Thread-safe.
class Histogram {
 public:
  static constexpr int bins_per_octave = 8, octaves = 27;
  static constexpr int bins = bins_per_octave * octaves;
  static constexpr double smallest = 0.01;

  struct Summary {
    uint64_t count = 0;
    double sum = 0, max = 0;
    std::array<uint64_t, bins> counts{};

    // The time that a share of all are not above: the upper end of its bin, and never above `max`.
    double quantile(double share) const;
    uint64_t at_most(double milliseconds) const;  // exact at the ends of bins
  };

  void add(double milliseconds);
  Summary summary() const;

 private:
  std::array<std::atomic<uint64_t>, bins> counts_{};
  std::atomic<double> sum_ = 0, max_ = 0;
};

// Whether the scores of good frames still come from the distribution of calibration: the two-sample
// test of Kolmogorov and Smirnov between the last scores that are not above the threshold and those
// of the calibration images.
class Drift {
 public:
  static constexpr size_t window = 256;
  static constexpr double false_alarm_rate = 1e-3;  // of one look at an unchanged line

  // `quantiles`: evenly spaced from the least to the largest of `images` good scores; none: drift
  // cannot be told.
  Drift(std::vector<double> quantiles, int64_t images, float threshold);

  void add(float score);
  struct State {
    double distance = std::numeric_limits<double>::quiet_NaN();  // NaN: too few scores, or none
    double limit = std::numeric_limits<double>::quiet_NaN();     // of the distance
    bool alarm = false;
  };
  State state() const;

 private:
  mutable std::mutex mutex_;
  std::vector<double> quantiles_;
  double images_ = 0;
  float threshold_;
  std::vector<float> scores_;
  mutable std::vector<float> sorted_;
  size_t next_ = 0;
};

// Of one engine.
class Monitor {
 public:
  Monitor(std::vector<double> quantiles, int64_t images, float threshold)
      : drift(std::move(quantiles), images, threshold), threshold_(threshold) {}

  void frame(float score, double milliseconds);
  void failure() { ++failures; }

  std::atomic<uint64_t> frames = 0, anomalous = 0, failures = 0;
  Histogram latency;
  Drift drift;

 private:
  float threshold_;
  std::atomic<bool> alarm_ = false;
};

}  // namespace adfast
