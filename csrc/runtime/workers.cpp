#include "runtime/workers.h"

#include <unistd.h>

namespace adfast {
namespace {

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

Workers::Workers(int count) : process_(::getpid()), shared_(std::make_unique<Shared>()) {
  Shared* shared = shared_.get();
  for (int i = 1; i < count; ++i) shared->threads.emplace_back([shared, i] { shared->serve(i); });
}

Workers::~Workers() {
  if (!alive()) {
    // Nobody will ever leave the condition variables, whose destructors would wait for that.
    shared_.release();
    return;
  }
  {
    const std::lock_guard lock(shared_->mutex);
    shared_->stopping = true;
  }
  shared_->started.notify_all();
  for (std::thread& thread : shared_->threads) thread.join();
}

bool Workers::alive() const { return process_ == ::getpid(); }

void Workers::run(int tasks, const std::function<void(int)>& task) {
  Shared& shared = *shared_;
  if (tasks > 1) {
    {
      const std::lock_guard lock(shared.mutex);
      shared.task = &task;
      shared.tasks = tasks;
      shared.running = tasks - 1;
      ++shared.round;
    }
    shared.started.notify_all();
  }
  task(0);
  if (tasks > 1) {
    std::unique_lock lock(shared.mutex);
    shared.finished.wait(lock, [&] { return shared.running == 0; });
  }
}

void Workers::Shared::serve(int index) {
  uint64_t seen = 0;
  std::unique_lock lock(mutex);
  while (true) {
    started.wait(lock, [&] { return stopping || round != seen; });
    if (stopping) return;
    seen = round;
    if (index >= tasks) continue;
    const auto* work = task;
    lock.unlock();
    (*work)(index);
    lock.lock();
    if (--running == 0) finished.notify_one();
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
