#include "runtime/metrics.h"

#include <charconv>
#include <cmath>

#include "runtime/engine.h"
#include "runtime/stream.h"

namespace adfast {

namespace {

std::string number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  char text[32];
  const auto end = std::to_chars(text, text + sizeof(text), value).ptr;
  return {text, end};
}

std::string escaped(const std::string& text) {
  std::string result;
  for (const char c : text) {
    if (c == '\\' || c == '"') result += '\\';
    result += c == '\n' ? std::string("\\n") : std::string(1, c);
  }
  return result;
}

class Page {
 public:
  explicit Page(std::string labels) : labels_(std::move(labels)) {}

  void begin(const std::string& name, const char* type, const char* help) {
    name_ = name;
    text_ += "# HELP " + name + " " + help + "\n# TYPE " + name + " " + type + "\n";
  }
  void value(double value, const std::string& labels = "", const char* suffix = "") {
    text_ += name_ + suffix + "{" + labels_ + labels + "} " + number(value) + "\n";
  }
  void one(const std::string& name, const char* type, const char* help, double v) {
    begin(name, type, help);
    value(v);
  }
  void histogram(const std::string& name, const char* help, const Histogram::Summary& summary) {
    begin(name, "histogram", help);
    // Ends of the histogram's own bins, two an octave from 0.16 ms to 5 s.
    for (int half = 8; half <= 38; ++half) {
      const double end = Histogram::smallest * std::exp2(half / 2.0);
      value(static_cast<double>(summary.at_most(end)), ",le=\"" + number(end * 1e-3) + "\"",
            "_bucket");
    }
    value(static_cast<double>(summary.count), ",le=\"+Inf\"", "_bucket");
    value(summary.sum * 1e-3, "", "_sum");
    value(static_cast<double>(summary.count), "", "_count");
  }
  std::string take() { return std::move(text_); }

 private:
  std::string labels_, name_, text_;
};

void write_stream(const Stream& stream, Page* page) {
  const StreamCounters c = stream.counters();
  const auto count = [](uint64_t value) { return static_cast<double>(value); };
  page->one("adfast_stream_submitted_total", "counter", "Frames handed to the stream.",
            count(c.submitted));
  page->begin("adfast_stream_frames_total", "counter", "Frames by what became of them.");
  const std::pair<const char*, uint64_t> outcomes[] = {{"completed", c.completed},
                                                       {"failed", c.failed},
                                                       {"dropped_oldest", c.dropped_oldest},
                                                       {"dropped_newest", c.dropped_newest},
                                                       {"rejected", c.rejected},
                                                       {"expired", c.expired},
                                                       {"discarded", c.discarded}};
  for (const auto& [name, value] : outcomes) {
    page->value(count(value), std::string(",outcome=\"") + name + "\"");
  }
  page->one("adfast_stream_queued", "gauge", "Frames that wait for work.", count(c.queued));
  page->one("adfast_stream_working", "gauge", "Frames in work.", count(c.working));
  page->one("adfast_stream_waiting", "gauge", "Results that wait to be polled.", count(c.waiting));
  page->one("adfast_stream_callback_errors_total", "counter", "Exceptions of the callback.",
            count(c.callback_errors));
  page->histogram("adfast_stream_latency_seconds", "Time from submit to the result.",
                  stream.latency().summary());
  page->histogram("adfast_stream_queue_seconds", "Time from submit to the beginning of work.",
                  stream.queueing().summary());
}

}  // namespace

std::string metrics_text(const Engine& engine, const Stream* stream) {
  Page page("model=\"" + escaped(engine.model()) + "\",name=\"" + escaped(engine.name()) + "\"");
  const Monitor& monitor = engine.monitor();
  const Drift::State drift = monitor.drift.state();
  page.one("adfast_frames_total", "counter", "Frames inspected.",
           static_cast<double>(monitor.frames));
  page.one("adfast_anomalous_total", "counter", "Frames with a score above the threshold.",
           static_cast<double>(monitor.anomalous));
  page.one("adfast_failures_total", "counter", "Calls that failed.",
           static_cast<double>(monitor.failures));
  page.one("adfast_threshold", "gauge", "The plan's threshold on the score.", engine.threshold());
  page.histogram("adfast_latency_seconds", "Time of a frame in the engine.",
                 monitor.latency.summary());
  page.one("adfast_drift_distance", "gauge",
           "Kolmogorov-Smirnov distance of the last good scores to calibration's.", drift.distance);
  page.one("adfast_drift_limit", "gauge", "The distance that raises the alarm.", drift.limit);
  page.one("adfast_drift_alarm", "gauge", "1 while scores have drifted.", drift.alarm ? 1 : 0);
  if (stream != nullptr) write_stream(*stream, &page);
  return page.take();
}

}  // namespace adfast
