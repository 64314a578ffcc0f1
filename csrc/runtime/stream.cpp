#include "runtime/stream.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/log.h"
#include "runtime/pixels.h"

namespace adfast {

namespace {

constexpr int max_capacity = 4096;
constexpr std::chrono::seconds between_drop_lines{1};
constexpr std::chrono::hours for_ever{24 * 365};

double milliseconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double, std::milli>(duration).count();
}

Error closed_error(const char* who) {
  return Error(ErrorKind::closed, std::string("[") + who + "] the stream is closed");
}

}  // namespace

Stream::Stream(std::shared_ptr<Engine> engine, StreamOptions options)
    : engine_(std::move(engine)), options_(std::move(options)), process_(getpid()) {
  if (options_.capacity < 1 || options_.capacity > max_capacity) {
    throw Error(ErrorKind::argument, "[stream] capacity is " + std::to_string(options_.capacity) +
                                         ", expected 1 to " + std::to_string(max_capacity));
  }
  if (!(options_.deadline_ms >= 0) || std::isinf(options_.deadline_ms)) {
    throw Error(ErrorKind::argument, "[stream] the deadline is " +
                                         std::to_string(options_.deadline_ms) +
                                         " ms, expected 0 (none) or more");
  }
  thread_ = std::thread([this] { serve(); });
  log(Severity::info, "[stream] opened, capacity " + std::to_string(options_.capacity));
}

Stream::~Stream() {
  if (getpid() != process_) {
    // The thread stayed in the process that was forked; there is nothing to join.
    thread_.detach();
    signals_.release();  // destroying them would wait for it
    return;
  }
  close(false);
}

void Stream::check_process() const {
  if (getpid() != process_) {
    throw Error(ErrorKind::run,
                "[stream] the stream was opened before this process was forked, and its thread "
                "stayed behind; open one in the new process");
  }
}

// As it lies, less what is between rows and pixels: of a mosaic the bytes that were seen.
void Stream::copy(const Job& job, Entry* entry) const {
  const FrameView& from = job.frame;
  entry->job = job;
  entry->job.map = entry->job.network_map = nullptr;
  FrameView& to = entry->job.frame;
  // Neither interpolated nor in another order: what pack_row does to mosaics waits for its turn.
  FrameView raw = from;
  if (from.format.bayer != Bayer::none) raw.format = mono8;
  const int64_t row = packed_row_bytes(raw);
  entry->pixels.resize(static_cast<size_t>(row * from.height));
  for (int64_t y = 0; y < from.height; ++y) {
    pack_row(raw, y, entry->pixels.data() + y * row, nullptr);
  }
  to.data = entry->pixels.data();
  to.row_stride = row;
  to.channel_stride = from.format.bytes();
  to.pixel_stride = from.format.channels() * from.format.bytes();
  if (job.ignore) {
    entry->ignore.resize(static_cast<size_t>(from.width * from.height));
    for (int64_t y = 0; y < from.height; ++y) {
      std::memcpy(entry->ignore.data() + y * from.width,
                  job.ignore.data + y * job.ignore.row_stride, static_cast<size_t>(from.width));
    }
    entry->job.ignore = {entry->ignore.data(), from.width};
  }
}

size_t Stream::room() const {
  const size_t taken = queue_.size() + reserved_;
  return static_cast<size_t>(options_.capacity) - std::min<size_t>(taken, options_.capacity);
}

Stream::EntryPointer Stream::take_spare() {
  if (spare_.empty()) return std::make_unique<Entry>();
  EntryPointer entry = std::move(spare_.back());
  spare_.pop_back();
  return entry;
}

void Stream::note_drop(const char* what) {
  ++drops_since_line_;
  const auto now = Clock::now();
  if (!logs(Severity::warning) || now - last_drop_line_ < between_drop_lines) return;
  log(Severity::warning,
      "[stream] " + std::to_string(drops_since_line_) + " frames dropped: " + what);
  last_drop_line_ = now;
  drops_since_line_ = 0;
}

uint64_t Stream::submit(const Job& job, uint64_t id, int64_t timestamp) {
  return *submit_for(job, id, timestamp, for_ever);
}

std::optional<uint64_t> Stream::submit_for(const Job& job, uint64_t id, int64_t timestamp,
                                           std::chrono::nanoseconds wait) {
  check_process();
  const auto arrived = Clock::now();
  engine_->check_job(job);
  if (job.frame.on_device) {
    throw Error(ErrorKind::frame, "[stream] a frame on a card, expected one in host memory");
  }
  EntryPointer entry;
  {
    std::unique_lock lock(mutex_);
    if (closing_) throw closed_error("submit");
    const auto fits = [&] { return closing_ || room() > 0; };
    if (room() == 0 && options_.policy == Policy::drop_newest) {
      ++counters_.submitted;
      ++counters_.dropped_newest;
      note_drop("the queue was full");
      return next_ticket_++;
    }
    if (room() == 0 && options_.policy == Policy::error) {
      ++counters_.submitted;
      ++counters_.rejected;
      throw Error(ErrorKind::full, "[submit] the stream's queue of " +
                                       std::to_string(options_.capacity) +
                                       " frames is full; wait, or open it with another policy");
    }
    if (room() == 0 && options_.policy == Policy::drop_oldest && !queue_.empty()) {
      ++counters_.dropped_oldest;
      note_drop("the queue was full");
      spare_.push_back(std::move(queue_.front()));
      queue_.pop_front();
    }
    // With drop_oldest only where all places are being filled, which takes no longer than a copy.
    if (!signals_->room.wait_for(lock, wait, fits)) return std::nullopt;
    if (closing_) throw closed_error("submit");
    ++reserved_;
    ++counters_.submitted;
    entry = take_spare();
  }
  try {
    copy(job, entry.get());
  } catch (...) {
    const std::lock_guard lock(mutex_);
    --reserved_;
    --counters_.submitted;
    signals_->room.notify_one();
    signals_->work.notify_one();
    throw;
  }
  entry->id = id;
  entry->timestamp = timestamp;
  entry->arrived = arrived;
  const std::lock_guard lock(mutex_);
  --reserved_;
  entry->ticket = next_ticket_++;
  const uint64_t ticket = entry->ticket;
  if (closing_) {
    // Closed meanwhile: it is told apart from those that were refused.
    ++counters_.discarded;
    spare_.push_back(std::move(entry));
  } else {
    queue_.push_back(std::move(entry));
  }
  signals_->work.notify_one();
  return ticket;
}

std::optional<StreamResult> Stream::poll(std::chrono::nanoseconds wait) {
  check_process();
  if (options_.callback) {
    throw Error(ErrorKind::argument, "[poll] results of this stream go to its callback");
  }
  std::unique_lock lock(mutex_);
  signals_->result.wait_for(lock, wait, [&] { return !results_.empty() || ended_; });
  if (results_.empty()) {
    if (ended_) throw closed_error("poll");
    return std::nullopt;
  }
  StreamResult result = std::move(results_.front());
  results_.pop_front();
  signals_->work.notify_one();  // there is room for another
  return result;
}

void Stream::close(bool drain) {
  check_process();
  if (std::this_thread::get_id() == thread_.get_id()) {
    throw Error(ErrorKind::argument,
                "[close] called by the stream's own callback, which it would wait for; close it "
                "from another thread");
  }
  const std::lock_guard alone(close_mutex_);
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    if (!drain) {
      counters_.discarded += queue_.size();
      queue_.clear();
    }
    signals_->work.notify_all();
    signals_->room.notify_all();
  }
  if (!thread_.joinable()) return;
  thread_.join();
  log(Severity::info, "[stream] closed");
}

StreamCounters Stream::counters() const {
  const std::lock_guard lock(mutex_);
  StreamCounters counters = counters_;
  counters.queued = queue_.size() + reserved_;
  counters.waiting = results_.size();
  return counters;
}

void Stream::drop_expired(Clock::time_point now) {
  if (options_.deadline_ms == 0) return;
  while (!queue_.empty() && milliseconds(now - queue_.front()->arrived) > options_.deadline_ms) {
    ++counters_.expired;
    note_drop("the deadline passed");
    spare_.push_back(std::move(queue_.front()));
    queue_.pop_front();
    signals_->room.notify_one();
  }
}

void Stream::serve() {
  const auto at_once = static_cast<size_t>(std::max(1, engine_->info().frames_at_once));
  std::vector<EntryPointer> batch;
  std::vector<StreamResult> results;
  std::unique_lock lock(mutex_);
  while (true) {
    // Whoever closes does not poll: what is left then may exceed the capacity once.
    const auto outlet = [&]() -> size_t {
      if (options_.callback || closing_) return at_once;
      return static_cast<size_t>(options_.capacity) - results_.size();
    };
    signals_->work.wait(lock, [&] { return closing_ || (!queue_.empty() && outlet() > 0); });
    drop_expired(Clock::now());
    if (queue_.empty()) {
      if (closing_ && reserved_ == 0) break;
      if (closing_) signals_->work.wait(lock, [&] { return reserved_ == 0; });
      continue;
    }
    const size_t count = std::min({at_once, queue_.size(), outlet()});
    for (size_t i = 0; i < count; ++i) {
      batch.push_back(std::move(queue_.front()));
      queue_.pop_front();
    }
    counters_.working = count;
    signals_->room.notify_all();
    lock.unlock();
    work(&batch, &results);
    lock.lock();
    counters_.working = 0;
    for (const StreamResult& result : results) {
      ++(result.error.empty() ? counters_.completed : counters_.failed);
    }
    for (EntryPointer& entry : batch) spare_.push_back(std::move(entry));
    batch.clear();
    if (options_.callback) {
      lock.unlock();
      deliver(&results);
      lock.lock();
    } else {
      for (StreamResult& result : results) results_.push_back(std::move(result));
      signals_->result.notify_all();
    }
    results.clear();
  }
  ended_ = true;
  signals_->result.notify_all();
}

void Stream::work(std::vector<EntryPointer>* batch, std::vector<StreamResult>* results) {
  const auto begun = Clock::now();
  std::vector<Job> jobs;
  for (const EntryPointer& entry : *batch) {
    StreamResult result;
    result.ticket = entry->ticket;
    result.id = entry->id;
    result.timestamp = entry->timestamp;
    result.dropped_before = entry->ticket - next_result_;
    next_result_ = entry->ticket + 1;
    result.queue_ms = milliseconds(begun - entry->arrived);
    result.height = entry->job.frame.height;
    result.width = entry->job.frame.width;
    results->push_back(std::move(result));
  }
  const auto fail = [&](size_t i, ErrorKind kind, const char* what) {
    (*results)[i].error = what;
    (*results)[i].error_kind = kind;
  };
  const auto attempt = [&](size_t i) {
    try {
      engine_->predict(jobs[i]);
    } catch (const Error& error) {
      fail(i, error.kind(), error.what());
    } catch (const std::exception& error) {
      fail(i, ErrorKind::run, error.what());
    }
  };
  try {
    for (size_t i = 0; i < batch->size(); ++i) {
      Job job = (*batch)[i]->job;
      StreamResult& result = (*results)[i];
      if (options_.with_map) {
        result.map.resize(static_cast<size_t>(result.height * result.width));
        job.map = result.map.data();
      }
      jobs.push_back(job);
    }
    if (jobs.size() > 1) {
      try {
        engine_->predict_batch(jobs);
      } catch (const std::exception&) {
        // One by one, to tell which it was.
        for (size_t i = 0; i < jobs.size(); ++i) attempt(i);
      }
    } else {
      attempt(0);
    }
  } catch (const std::exception& error) {  // no memory for the maps
    for (size_t i = 0; i < results->size(); ++i) fail(i, ErrorKind::run, error.what());
  }
  const auto now = Clock::now();
  for (size_t i = 0; i < results->size(); ++i) {
    StreamResult& result = (*results)[i];
    result.total_ms = milliseconds(now - (*batch)[i]->arrived);
    if (!result.error.empty()) {
      result.map.clear();
      continue;
    }
    result.score = jobs[i].score;
    result.timings = jobs[i].timings;
    result.inspected = engine_->inspected(jobs[i]);
    latency_.add(result.total_ms);
    queueing_.add(result.queue_ms);
  }
}

void Stream::deliver(std::vector<StreamResult>* results) {
  for (StreamResult& result : *results) {
    try {
      options_.callback(std::move(result));
    } catch (...) {
      const std::lock_guard lock(mutex_);
      ++counters_.callback_errors;
    }
  }
}

}  // namespace adfast
