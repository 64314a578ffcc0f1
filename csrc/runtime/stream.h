// Frames that come at their own pace: a bounded queue, a thread that works, results in order.
//
// Thread safety: everything may be called from any thread, and from several at once.
#pragma once
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "runtime/engine.h"

namespace adfast {

// What becomes of a frame that comes when the queue is full: the producer waits, the oldest frame
// makes room, the new one is dropped, or submit() throws.
enum class Policy { block, drop_oldest, drop_newest, error };

struct StreamResult {
  uint64_t ticket = 0;  // of submit(); results come in this order
  uint64_t id = 0;      // the caller's, as is the time stamp
  int64_t timestamp = 0;
  uint64_t dropped_before = 0;  // frames between the last result and this one that gave none
  std::string error;            // empty: the rest is valid
  ErrorKind error_kind = ErrorKind::run;
  float score = 0;
  int64_t height = 0, width = 0;
  std::vector<float> map;  // [height][width], if asked for
  Rectangle inspected;
  double queue_ms = 0, total_ms = 0;  // from submit() to the beginning of work, and to its end
  Timings timings;
};

struct StreamOptions {
  int capacity = 4;  // frames that wait at most, and results that wait to be polled
  Policy policy = Policy::block;
  double deadline_ms = 0;  // a frame that waited longer is dropped; 0: none is
  bool with_map = true;
  // Called by the stream's thread; may submit, must not close. Empty: results wait for poll().
  std::function<void(StreamResult&&)> callback = {};
};

// Every submitted frame is in exactly one of those up to `working`.
struct StreamCounters {
  uint64_t submitted = 0;
  uint64_t completed = 0, failed = 0;               // with a result
  uint64_t dropped_oldest = 0, dropped_newest = 0;  // for want of room
  uint64_t rejected = 0;                            // by Policy::error
  uint64_t expired = 0;                             // the deadline passed
  uint64_t discarded = 0;                           // by close(false)
  uint64_t queued = 0, working = 0;
  uint64_t waiting = 0;          // results to be polled
  uint64_t callback_errors = 0;  // exceptions of the callback
};

class Stream {
 public:
  Stream(std::shared_ptr<Engine> engine, StreamOptions options);
  ~Stream();  // close(false)
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Copies frame and mask, so that a camera's buffer may be given back at once; the job's outputs
  // are not used. Returns the ticket. Throws what Engine::check_job throws; ErrorKind::full by
  // Policy::error; ErrorKind::closed after close(), and to whoever waits for room then.
  uint64_t submit(const Job& job, uint64_t id, int64_t timestamp);
  // As submit(), but waits for room at most so long; none: it was not enough, and nothing counted.
  std::optional<uint64_t> submit_for(const Job& job, uint64_t id, int64_t timestamp,
                                     std::chrono::nanoseconds wait);

  // The next result, or none within `wait`. Throws ErrorKind::closed when there will be none any
  // more, ErrorKind::argument of a stream with a callback.
  std::optional<StreamResult> poll(std::chrono::nanoseconds wait);

  // Takes no more frames; works off those that wait, or discards them; returns when the thread has
  // ended. Results stay to be polled. The second call does nothing.
  void close(bool drain);

  StreamCounters counters() const;
  const Histogram& latency() const { return latency_; }  // from submit() to the result
  const Histogram& queueing() const { return queueing_; }
  Engine& engine() const { return *engine_; }

 private:
  using Clock = std::chrono::steady_clock;  // which no one sets
  struct Entry {
    Job job;
    std::vector<uint8_t> pixels, ignore;
    uint64_t ticket = 0, id = 0;
    int64_t timestamp = 0;
    Clock::time_point arrived;
  };
  using EntryPointer = std::unique_ptr<Entry>;

  void copy(const Job& job, Entry* entry) const;
  void check_process() const;
  size_t room() const;
  void drop_expired(Clock::time_point now);
  void note_drop(const char* what);
  EntryPointer take_spare();
  void serve();
  void work(std::vector<EntryPointer>* batch, std::vector<StreamResult>* results);
  void deliver(std::vector<StreamResult>* results);

  const std::shared_ptr<Engine> engine_;
  const StreamOptions options_;
  const int process_;
  mutable std::mutex mutex_;
  struct Signals {
    std::condition_variable work, room, result;
  };
  std::unique_ptr<Signals> signals_ = std::make_unique<Signals>();
  std::deque<EntryPointer> queue_;
  std::vector<EntryPointer> spare_;
  std::deque<StreamResult> results_;
  size_t reserved_ = 0;  // places of frames that are being copied
  uint64_t next_ticket_ = 0, next_result_ = 0;
  StreamCounters counters_;
  bool closing_ = false, ended_ = false;
  Clock::time_point last_drop_line_{};
  uint64_t drops_since_line_ = 0;
  Histogram latency_, queueing_;
  std::mutex close_mutex_;
  std::thread thread_;
};

}  // namespace adfast
