// Streams: order, policies, deadlines, closing, several producers, and that every frame is
// accounted for. Where time would decide, the callback waits at a gate instead.
#include "runtime/stream.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <thread>

#include "check.h"
#include "core/error.h"
#include "core/log.h"
#include "runtime/metrics.h"

using namespace adfast;
using namespace std::chrono_literals;

namespace {

struct Picture {
  std::vector<uint8_t> pixels;
  int64_t side;
  Picture(int64_t size, int seed) : pixels(static_cast<size_t>(size * size)), side(size) {
    for (size_t i = 0; i < pixels.size(); ++i) {
      pixels[i] = static_cast<uint8_t>(i * 7 + static_cast<size_t>(seed) * 31);
    }
  }
  Job job() const {
    Job job;
    job.frame = {pixels.data(), mono8, side, side, side, 1, 0};
    return job;
  }
};

// Closed at first; who passes waits until it is opened.
class Gate {
 public:
  void pass() {
    std::unique_lock lock(mutex_);
    ++waiting_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return open_; });
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }
  bool has_one() {
    const std::lock_guard lock(mutex_);
    return waiting_ > 0;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
  int waiting_ = 0;
};

template <class Function>
bool throws(ErrorKind kind, Function function) {
  try {
    function();
  } catch (const Error& error) {
    return error.kind() == kind;
  }
  return false;
}

void check_sum(const Stream& stream, const char* when) {
  const StreamCounters c = stream.counters();
  const uint64_t sum = c.completed + c.failed + c.dropped_oldest + c.dropped_newest + c.rejected +
                       c.expired + c.discarded + c.queued + c.working;
  CHECK(sum == c.submitted, "%s: %llu of %llu frames accounted for", when,
        static_cast<unsigned long long>(sum), static_cast<unsigned long long>(c.submitted));
}

void test_results_are_the_engines(const std::shared_ptr<Engine>& engine) {
  Stream stream(engine, {.capacity = 3});
  std::thread producer([&] {
    for (int i = 0; i < 40; ++i) {
      Picture picture(20 + i % 5, i);
      stream.submit(picture.job(), static_cast<uint64_t>(100 + i), i);
      std::fill(picture.pixels.begin(), picture.pixels.end(), uint8_t{0});  // it was copied
    }
    stream.close(true);
  });
  for (int i = 0; i < 40; ++i) {
    const auto result = stream.poll(10min);
    CHECK(result.has_value(), "result %d", i);
    if (!result) break;
    CHECK(result->ticket == static_cast<uint64_t>(i) && result->id == 100u + i &&
              result->timestamp == i && result->dropped_before == 0,
          "result %d is in its place", i);
    const Picture picture(20 + i % 5, i);
    std::vector<float> map(picture.pixels.size());
    Job job = picture.job();
    job.map = map.data();
    engine->predict(job);
    CHECK(result->score == job.score && result->map == map, "result %d has the engine's bits", i);
  }
  producer.join();
  CHECK(throws(ErrorKind::closed, [&] { stream.poll(1ms); }), "poll after the last result");
  CHECK(throws(ErrorKind::closed, [&] { stream.submit(Picture(9, 0).job(), 0, 0); }),
        "submit after close");
  check_sum(stream, "drained");
  CHECK(stream.counters().completed == 40, "all completed");
}

// A stream whose thread holds one result at the gate: the queue is empty and nothing moves.
struct Held {
  Gate gate;
  std::vector<uint64_t> tickets;
  std::vector<uint64_t> gaps;
  Stream stream;
  Held(const std::shared_ptr<Engine>& engine, StreamOptions options)
      : stream(engine, with_callback(std::move(options))) {
    stream.submit(Picture(16, 0).job(), 0, 0);
    // On a busy machine a short deadline may take the first ones.
    for (uint64_t expired = 0; !gate.has_one(); std::this_thread::sleep_for(100us)) {
      if (stream.counters().expired == expired) continue;
      ++expired;
      stream.submit(Picture(16, 0).job(), 0, 0);
    }
  }
  StreamOptions with_callback(StreamOptions options) {
    options.callback = [this](StreamResult&& result) {
      gate.pass();
      tickets.push_back(result.ticket);
      gaps.push_back(result.dropped_before);
    };
    return options;
  }
};

void test_policies(const std::shared_ptr<Engine>& engine) {
  const Picture picture(16, 1);
  {
    Held held(engine, {.capacity = 2, .policy = Policy::drop_oldest});
    for (int i = 1; i <= 5; ++i) held.stream.submit(picture.job(), 0, 0);
    check_sum(held.stream, "drop_oldest");
    CHECK(held.stream.counters().dropped_oldest == 3, "three made room");
    held.gate.open();
    held.stream.close(true);
    CHECK((held.tickets == std::vector<uint64_t>{0, 4, 5}), "the newest are kept");
    CHECK((held.gaps == std::vector<uint64_t>{0, 3, 0}), "the gap is told");
  }
  {
    Held held(engine, {.capacity = 2, .policy = Policy::drop_newest});
    for (int i = 1; i <= 5; ++i) held.stream.submit(picture.job(), 0, 0);
    CHECK(held.stream.counters().dropped_newest == 3, "three were dropped");
    held.gate.open();
    held.stream.close(true);
    CHECK((held.tickets == std::vector<uint64_t>{0, 1, 2}), "the oldest are kept");
    check_sum(held.stream, "drop_newest");
  }
  {
    Held held(engine, {.capacity = 2, .policy = Policy::error});
    held.stream.submit(picture.job(), 0, 0);
    held.stream.submit(picture.job(), 0, 0);
    CHECK(throws(ErrorKind::full, [&] { held.stream.submit(picture.job(), 0, 0); }), "full");
    CHECK(held.stream.counters().rejected == 1, "one was rejected");
    check_sum(held.stream, "error");
    held.gate.open();
  }
  {
    Held held(engine, {.capacity = 2, .policy = Policy::block});
    held.stream.submit(picture.job(), 0, 0);
    held.stream.submit(picture.job(), 0, 0);
    CHECK(!held.stream.submit_for(picture.job(), 0, 0, 1ms), "no room within a millisecond");
    std::thread producer([&] { held.stream.submit(picture.job(), 0, 0); });
    held.gate.open();
    producer.join();
    held.stream.close(true);
    CHECK((held.tickets == std::vector<uint64_t>{0, 1, 2, 3}), "none is lost");
    check_sum(held.stream, "block");
  }
}

void test_deadlines(const std::shared_ptr<Engine>& engine) {
  Held held(engine, {.capacity = 4, .deadline_ms = 1});
  const uint64_t before = held.stream.counters().expired;
  for (int i = 0; i < 3; ++i) held.stream.submit(Picture(16, i).job(), 0, 0);
  std::this_thread::sleep_for(20ms);
  held.gate.open();
  held.stream.close(true);
  const StreamCounters c = held.stream.counters();
  CHECK(c.expired == before + 3 && c.completed == 1, "three expired, %llu completed",
        static_cast<unsigned long long>(c.completed));
  check_sum(held.stream, "deadline");
}

void test_closing(const std::shared_ptr<Engine>& engine) {
  const Picture picture(16, 2);
  Held held(engine, {.capacity = 1});
  held.stream.submit(picture.job(), 0, 0);
  std::atomic<int> refused = 0;
  std::vector<std::thread> producers;
  for (int i = 0; i < 3; ++i) {
    producers.emplace_back([&] {
      if (throws(ErrorKind::closed, [&] { held.stream.submit(picture.job(), 0, 0); })) ++refused;
    });
  }
  std::thread closer([&] { held.stream.close(false); });
  // Closing wakes those that wait for room, though the thread is still held.
  for (std::thread& producer : producers) producer.join();
  CHECK(refused == 3, "%d of 3 producers were told", refused.load());
  held.gate.open();
  closer.join();
  held.stream.close(true);  // again
  CHECK(held.stream.counters().discarded == 1, "what waited was discarded");
  check_sum(held.stream, "closed");

  // A poller that waits is woken.
  Stream other(engine, {});
  std::thread poller(
      [&] { CHECK(throws(ErrorKind::closed, [&] { other.poll(10min); }), "woken"); });
  other.close(true);
  poller.join();
  {
    std::atomic<bool> told = false;
    Stream* self = nullptr;
    Gate ready;
    Stream stream(engine, {.callback = [&](StreamResult&&) {
                    ready.pass();
                    told = throws(ErrorKind::argument, [&] { self->close(true); });
                    throw std::runtime_error("counted");
                  }});
    self = &stream;
    stream.submit(picture.job(), 0, 0);
    ready.open();
    stream.close(true);
    CHECK(told.load(), "a callback must not close its stream");
    CHECK(stream.counters().callback_errors == 1, "its exception is counted");
  }
}

void test_backpressure(const std::shared_ptr<Engine>& engine) {
  Stream stream(engine, {.capacity = 2, .policy = Policy::error, .with_map = false});
  // Without polling no more than the queue, the results and those in work fit.
  const Picture picture(16, 3);
  int taken = 0;
  while (!throws(ErrorKind::full, [&] { stream.submit(picture.job(), 0, 0); }) && taken < 1000) {
    ++taken;
    std::this_thread::sleep_for(1ms);
  }
  CHECK(taken <= 2 + 2 + 2, "%d frames were taken", taken);
  check_sum(stream, "backpressure");
  int got = 0;
  stream.close(true);
  while (!throws(ErrorKind::closed, [&] {
    if (stream.poll(1s)) ++got;
  })) {
  }
  CHECK(got == taken, "%d of %d results after closing", got, taken);
}

void test_many(const std::shared_ptr<Engine>& engine) {
  for (const Policy policy : {Policy::block, Policy::drop_oldest, Policy::drop_newest}) {
    Stream stream(engine, {.capacity = 3, .policy = policy});
    std::vector<std::thread> producers;
    for (int p = 0; p < 4; ++p) {
      producers.emplace_back([&, p] {
        for (int i = 0; i < 25; ++i) {
          const Picture picture(10 + (i * 7 + p) % 23, i);
          stream.submit(picture.job(), static_cast<uint64_t>(p), i);
        }
      });
    }
    std::vector<StreamResult> results;
    std::thread poller([&] {
      try {
        while (true) {
          if (auto result = stream.poll(1s)) results.push_back(std::move(*result));
        }
      } catch (const Error&) {
      }
    });
    for (std::thread& producer : producers) producer.join();
    stream.close(true);
    poller.join();
    check_sum(stream, "many");
    uint64_t seen = 0, last_of[4] = {};
    bool ordered = true, in_turn = true;
    for (const StreamResult& result : results) {
      ordered &= result.ticket == seen + result.dropped_before;
      seen = result.ticket + 1;
      in_turn &= static_cast<uint64_t>(result.timestamp) >= last_of[result.id];
      last_of[result.id] = static_cast<uint64_t>(result.timestamp);
    }
    CHECK(ordered && in_turn, "results are in order, gaps told");
    const StreamCounters c = stream.counters();
    CHECK(c.submitted == 100 && results.size() == c.completed, "%zu results", results.size());
    if (policy == Policy::block) CHECK(results.size() == 100, "none is lost");
  }
}

void test_what_is_refused(const std::shared_ptr<Engine>& engine) {
  for (const int capacity : {0, -1, 4097}) {
    CHECK(throws(ErrorKind::argument, [&] { Stream(engine, {.capacity = capacity}); }), "capacity");
  }
  CHECK(throws(ErrorKind::argument, [&] { Stream(engine, {.deadline_ms = -1}); }), "deadline");
  Stream stream(engine, {});
  const Picture picture(4, 0);
  Job job = picture.job();
  job.frame.height = 0;
  CHECK(throws(ErrorKind::frame, [&] { stream.submit(job, 0, 0); }), "an empty frame");
  CHECK(stream.counters().submitted == 0, "and is not counted");
}

void test_counters(const std::shared_ptr<Engine>& engine) {
  Histogram histogram;
  for (int i = 1; i <= 1000; ++i) histogram.add(i * 0.1);
  const Histogram::Summary summary = histogram.summary();
  CHECK(summary.count == 1000 && summary.max == 100.0, "count and maximum");
  for (const double share : {0.5, 0.9, 0.99}) {
    const double exact = share * 100, got = summary.quantile(share);
    CHECK(got >= exact * 0.999 && got <= exact * 1.1, "quantile %g is %g", share, got);
  }
  CHECK(summary.quantile(1) == 100.0 && histogram.summary().at_most(1e9) == 1000, "the ends");

  // Scores of calibration from 0 to 1; the same ones raise no alarm, others do.
  std::vector<double> quantiles;
  for (int i = 0; i <= 100; ++i) quantiles.push_back(i / 100.0);
  Drift drift(quantiles, 500, 0.9f);
  CHECK(std::isnan(drift.state().distance), "nothing is said of no scores");
  for (int i = 0; i < 300; ++i) drift.add(static_cast<float>((i * 37) % 100) / 100.0f);
  CHECK(!drift.state().alarm && drift.state().distance < 0.1, "the same scores");
  for (int i = 0; i < 300; ++i) drift.add(0.4f + static_cast<float>((i * 37) % 50) / 100.0f);
  CHECK(drift.state().alarm, "other scores");
  Drift none({}, 0, 1.0f);
  for (int i = 0; i < 300; ++i) none.add(0.5f);
  CHECK(std::isnan(none.state().distance) && !none.state().alarm, "nothing to compare with");

  const uint64_t before = engine->monitor().frames;
  engine->warmup(2);
  const Picture picture(30, 1);
  Job job = picture.job();
  engine->predict(job);
  job.counted = false;
  engine->predict(job);
  CHECK(engine->monitor().frames == before + 1, "one frame counts");
  const std::string page = metrics_text(*engine, nullptr);
  CHECK(page.find("adfast_frames_total{model=") != std::string::npos, "the page");
}

void test_log(const std::shared_ptr<Engine>& engine) {
  std::vector<std::string> lines;
  set_log([&](Severity, const std::string& line) { lines.push_back(line); }, Severity::info);
  {
    Stream stream(engine, {});
  }
  set_log({}, Severity::info);
  {
    Stream stream(engine, {});
  }
  CHECK(lines.size() == 2, "%zu lines of opening and closing", lines.size());
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  const Plan plan = Plan::open(argv[1]);
  const auto engine = std::make_shared<Engine>(plan, EngineOptions{.threads = 2});
  test_results_are_the_engines(engine);
  test_policies(engine);
  test_deadlines(engine);
  test_closing(engine);
  test_backpressure(engine);
  test_many(engine);
  test_what_is_refused(engine);
  test_counters(engine);
  test_log(engine);
  return report("stream");
}
