// Streams, counters and the log for Python. Waits release the GIL and end for signals.
#include "runtime/stream.h"

#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include "core/log.h"
#include "python/frames.h"
#include "python/module.h"
#include "runtime/metrics.h"

namespace py = pybind11;

namespace adfast::python {

namespace {

// So often a wait looks for Ctrl-C.
constexpr std::chrono::milliseconds slice{50};

// The thread that a stream waits for as it ends may be about to say a line to Python.
struct WithoutGil {
  void operator()(Stream* stream) const {
    py::gil_scoped_release release;
    delete stream;
  }
};

Policy policy_of(const std::string& name) {
  if (name == "block") return Policy::block;
  if (name == "drop_oldest") return Policy::drop_oldest;
  if (name == "drop_newest") return Policy::drop_newest;
  if (name == "error") return Policy::error;
  throw Error(ErrorKind::argument,
              "[stream] policy is '" + name +
                  "', expected 'block', 'drop_oldest', 'drop_newest' or 'error'");
}

// Calls `attempt(wait)` without the GIL until it gives something or `seconds` (negative: for ever)
// are over.
template <class Attempt>
auto in_slices(double seconds, Attempt attempt) -> decltype(attempt(slice)) {
  using Clock = std::chrono::steady_clock;
  const auto begun = Clock::now();
  while (true) {
    std::chrono::nanoseconds wait = slice;
    if (seconds >= 0) {
      const std::chrono::duration<double> left =
          std::chrono::duration<double>(seconds) - (Clock::now() - begun);
      wait = std::min(wait, std::chrono::duration_cast<std::chrono::nanoseconds>(left));
      wait = std::max(wait, std::chrono::nanoseconds(0));
    }
    {
      py::gil_scoped_release release;
      if (auto found = attempt(wait)) return found;
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    if (seconds >= 0 && Clock::now() - begun >= std::chrono::duration<double>(seconds)) return {};
  }
}

py::dict quantiles(const Histogram& histogram) {
  const Histogram::Summary s = histogram.summary();
  py::dict times;
  times["mean"] = s.count == 0 ? 0 : s.sum / static_cast<double>(s.count);
  times["p50"] = s.quantile(0.5);
  times["p90"] = s.quantile(0.9);
  times["p99"] = s.quantile(0.99);
  times["p99.9"] = s.quantile(0.999);
  times["max"] = s.max;
  return times;
}

py::dict engine_counters(const Engine& engine) {
  const Monitor& monitor = engine.monitor();
  const Drift::State drift = monitor.drift.state();
  py::dict counters, state;
  counters["frames"] = monitor.frames.load();
  counters["anomalous"] = monitor.anomalous.load();
  counters["failures"] = monitor.failures.load();
  counters["latency_ms"] = quantiles(monitor.latency);
  state["distance"] = drift.distance;
  state["limit"] = drift.limit;
  state["alarm"] = drift.alarm;
  counters["drift"] = state;
  return counters;
}

py::dict stream_counters(const Stream& stream) {
  const StreamCounters c = stream.counters();
  py::dict counters;
  counters["submitted"] = c.submitted;
  counters["completed"] = c.completed;
  counters["failed"] = c.failed;
  counters["dropped_oldest"] = c.dropped_oldest;
  counters["dropped_newest"] = c.dropped_newest;
  counters["rejected"] = c.rejected;
  counters["expired"] = c.expired;
  counters["discarded"] = c.discarded;
  counters["queued"] = c.queued;
  counters["working"] = c.working;
  counters["waiting"] = c.waiting;
  counters["latency_ms"] = quantiles(stream.latency());
  counters["queue_ms"] = quantiles(stream.queueing());
  return counters;
}

py::object result_of(StreamResult&& result) {
  py::dict d;
  d["ticket"] = result.ticket;
  d["id"] = result.id;
  d["timestamp"] = result.timestamp;
  d["dropped_before"] = result.dropped_before;
  d["error"] = result.error;
  d["score"] = result.score;
  d["queue_ms"] = result.queue_ms;
  d["total_ms"] = result.total_ms;
  d["timings"] = timings_of(result.timings);
  d["inspected"] = box_of(result.inspected);
  if (result.map.empty()) {
    d["map"] = py::none();
  } else {
    // The array keeps the vector.
    auto* kept = new std::vector<float>(std::move(result.map));
    const py::capsule owner(kept, [](void* p) { delete static_cast<std::vector<float>*>(p); });
    d["map"] = py::array_t<float>({result.height, result.width}, kept->data(), owner);
  }
  return d;
}

}  // namespace

void define_streams(py::module_& m, py::class_<Engine, std::shared_ptr<Engine>>& engine) {
  engine.def("counters", &engine_counters)
      .def(
          "metrics_text",
          [](const Engine& self, const Stream* stream) { return metrics_text(self, stream); },
          py::arg("stream") = nullptr);

  py::class_<Stream, std::unique_ptr<Stream, WithoutGil>>(m, "Stream")
      .def(py::init([](const std::shared_ptr<Engine>& engine, int capacity,
                       const std::string& policy, double deadline_ms, bool with_map) {
             StreamOptions options{capacity, policy_of(policy), deadline_ms, with_map, {}};
             py::gil_scoped_release release;
             return std::unique_ptr<Stream, WithoutGil>(new Stream(engine, std::move(options)));
           }),
           py::arg("engine"), py::arg("capacity"), py::arg("policy"), py::arg("deadline_ms"),
           py::arg("with_map"))
      .def(
          "submit",
          [](Stream& self, const py::object& image, uint64_t id, int64_t timestamp,
             const std::string& pixel_format, const py::object& roi, const py::object& ignore) {
            Job job;
            const py::object kept = fill_job(image, pixel_format, roi, ignore, &job);
            return *in_slices(-1,
                              [&](auto wait) { return self.submit_for(job, id, timestamp, wait); });
          },
          py::arg("image"), py::arg("id"), py::arg("timestamp"), py::arg("pixel_format") = "",
          py::arg("roi") = py::none(), py::arg("ignore") = py::none())
      .def(
          "poll",
          [](Stream& self, double seconds) -> py::object {
            auto result = in_slices(seconds, [&](auto wait) { return self.poll(wait); });
            return result ? result_of(std::move(*result)) : py::none();
          },
          py::arg("seconds"))
      .def("close", &Stream::close, py::arg("drain"), py::call_guard<py::gil_scoped_release>())
      .def("counters", &stream_counters);

  m.def(
      "set_log",
      [](const py::object& callback, int least) {
        Log log;
        if (!callback.is_none()) {
          // Leaked: a line may come while Python ends, when nothing can be released any more.
          auto* kept = new py::object(callback);
          log = [kept](Severity severity, const std::string& line) {
            if (!Py_IsInitialized()) return;
            py::gil_scoped_acquire acquire;
            try {
              (*kept)(static_cast<int>(severity), line);
            } catch (py::error_already_set& error) {
              error.discard_as_unraisable("adfast log");
            }
          };
        }
        py::gil_scoped_release release;
        set_log(std::move(log), static_cast<Severity>(least));
      },
      py::arg("callback"), py::arg("least"));
}

}  // namespace adfast::python
