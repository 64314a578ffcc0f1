#include "runtime/monitor.h"

#include <algorithm>
#include <cmath>

#include "core/log.h"

namespace adfast {

namespace {

double upper_end(int bin) {
  return Histogram::smallest * std::exp2(static_cast<double>(bin + 1) / Histogram::bins_per_octave);
}

int bin_of(double milliseconds) {
  if (!(milliseconds > Histogram::smallest)) return 0;
  const double octave = std::log2(milliseconds / Histogram::smallest);
  const double bin = std::ceil(octave * Histogram::bins_per_octave) - 1;
  return static_cast<int>(std::clamp(bin, 0.0, static_cast<double>(Histogram::bins - 1)));
}

// The share of the calibration's scores that are not above `score`, linear between quantiles.
double share_at(const std::vector<double>& quantiles, double score) {
  const auto above = std::upper_bound(quantiles.begin(), quantiles.end(), score);
  if (above == quantiles.begin()) return 0;
  if (above == quantiles.end()) return 1;
  const double low = *(above - 1), part = (score - low) / (*above - low);
  const double index = static_cast<double>(above - quantiles.begin() - 1) + part;
  return index / static_cast<double>(quantiles.size() - 1);
}

// Before this many scores nothing can be told apart.
constexpr size_t fewest_scores = 32;
// Frames between two looks of the alarm.
constexpr uint64_t look_every = 32;

}  // namespace

void Histogram::add(double milliseconds) {
  counts_[bin_of(milliseconds)].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(milliseconds, std::memory_order_relaxed);
  double seen = max_.load(std::memory_order_relaxed);
  while (milliseconds > seen &&
         !max_.compare_exchange_weak(seen, milliseconds, std::memory_order_relaxed)) {
  }
}

Histogram::Summary Histogram::summary() const {
  Summary summary;
  for (int i = 0; i < bins; ++i) {
    summary.counts[i] = counts_[i].load(std::memory_order_relaxed);
    summary.count += summary.counts[i];
  }
  summary.sum = sum_.load(std::memory_order_relaxed);
  summary.max = max_.load(std::memory_order_relaxed);
  return summary;
}

double Histogram::Summary::quantile(double share) const {
  if (count == 0) return 0;
  const auto wanted = static_cast<uint64_t>(std::ceil(share * static_cast<double>(count)));
  uint64_t seen = 0;
  for (int i = 0; i < bins; ++i) {
    seen += counts[i];
    if (seen >= std::max<uint64_t>(wanted, 1)) return std::min(upper_end(i), max);
  }
  return max;
}

uint64_t Histogram::Summary::at_most(double milliseconds) const {
  uint64_t seen = 0;
  for (int i = 0; i < bins && upper_end(i) <= milliseconds * (1 + 1e-9); ++i) seen += counts[i];
  return seen;
}

Drift::Drift(std::vector<double> quantiles, int64_t images, float threshold)
    : quantiles_(std::move(quantiles)),
      images_(static_cast<double>(images)),
      threshold_(threshold) {
  if (quantiles_.size() < 2 || images < 2 ||
      !std::is_sorted(quantiles_.begin(), quantiles_.end())) {
    quantiles_.clear();
  }
  scores_.reserve(window);
  sorted_.reserve(window);
}

void Drift::add(float score) {
  if (quantiles_.empty() || score > threshold_) return;
  const std::lock_guard lock(mutex_);
  if (scores_.size() < window) {
    scores_.push_back(score);
  } else {
    scores_[next_] = score;
  }
  next_ = (next_ + 1) % window;
}

Drift::State Drift::state() const {
  State state;
  const std::lock_guard lock(mutex_);
  std::vector<float>& scores = sorted_;
  scores = scores_;
  if (scores.size() < fewest_scores) return state;
  std::sort(scores.begin(), scores.end());
  const auto count = static_cast<double>(scores.size());
  // Of the calibration's scores too those above the threshold are left out.
  const double kept = std::isnan(threshold_) ? 1 : share_at(quantiles_, threshold_);
  if (!(kept > 0)) return state;
  state.distance = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    const double share = std::min(1.0, share_at(quantiles_, scores[i]) / kept);
    const double below = static_cast<double>(i) / count, upto = static_cast<double>(i + 1) / count;
    state.distance = std::max({state.distance, std::abs(share - below), std::abs(share - upto)});
  }
  // The asymptotic critical value (Smirnov 1948).
  const double images = images_ * kept;
  state.limit =
      std::sqrt(-std::log(false_alarm_rate / 2) / 2 * (count + images) / (count * images));
  state.alarm = state.distance > state.limit;
  return state;
}

void Monitor::frame(float score, double milliseconds) {
  const uint64_t number = ++frames;
  if (score > threshold_) ++anomalous;
  latency.add(milliseconds);
  drift.add(score);
  if (number % look_every != 0) return;
  const Drift::State state = drift.state();
  if (alarm_.exchange(state.alarm) == state.alarm) return;
  log(state.alarm ? Severity::warning : Severity::info,
      state.alarm ? "[drift] scores of good frames are no longer those of calibration: distance " +
                        std::to_string(state.distance) + ", limit " + std::to_string(state.limit) +
                        "; look at the camera and the light, or run adfast calibrate"
                  : std::string("[drift] scores of good frames are those of calibration again"));
}

}  // namespace adfast
