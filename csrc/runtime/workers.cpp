#include "runtime/workers.h"

namespace adfast {
namespace {

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

Workers::Workers(int count) {
  for (int i = 1; i < count; ++i) threads_.emplace_back([this, i] { serve(i); });
}

Workers::~Workers() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  started_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Workers::run(int tasks, const std::function<void(int)>& task) {
  if (tasks > 1) {
    {
      const std::lock_guard lock(mutex_);
      task_ = &task;
      tasks_ = tasks;
      running_ = tasks - 1;
      ++round_;
    }
    started_.notify_all();
  }
  task(0);
  if (tasks > 1) {
    std::unique_lock lock(mutex_);
    finished_.wait(lock, [this] { return running_ == 0; });
  }
}

void Workers::serve(int index) {
  uint64_t seen = 0;
  std::unique_lock lock(mutex_);
  while (true) {
    started_.wait(lock, [&] { return stopping_ || round_ != seen; });
    if (stopping_) return;
    seen = round_;
    if (index >= tasks_) continue;
    const auto* task = task_;
    lock.unlock();
    (*task)(index);
    lock.lock();
    if (--running_ == 0) finished_.notify_one();
  }
}

void wait_for(const std::atomic<uint32_t>& flag, uint32_t value) {
  for (int i = 0; i < 1000; ++i) {
    if (flag.load(std::memory_order_acquire) == value) return;
    pause();
  }
  for (uint32_t now = flag.load(std::memory_order_acquire); now != value;
       now = flag.load(std::memory_order_acquire)) {
    flag.wait(now, std::memory_order_acquire);
  }
}

}  // namespace adfast
