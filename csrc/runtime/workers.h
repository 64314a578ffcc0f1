// A fixed set of threads that run coarse tasks side by side, the caller being one of them.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace adfast {

class Workers {
 public:
  // `count` tasks can run at once: the caller's and those of count - 1 threads.
  explicit Workers(int count);
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  int count() const { return static_cast<int>(threads_.size()) + 1; }

  // Runs task(0) here and task(1) .. task(tasks - 1) on the threads; returns when all are done.
  // tasks <= count(). Tasks must not throw. One call at a time: the engine's lock sees to it.
  void run(int tasks, const std::function<void(int)>& task);

 private:
  void serve(int index);

  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable started_, finished_;
  const std::function<void(int)>* task_ = nullptr;
  uint64_t round_ = 0;
  int tasks_ = 0, running_ = 0;
  bool stopping_ = false;
};

// Waits until `flag` holds `value`: a short spin, since the other lane is usually about to arrive,
// then a sleep, since on a busy machine it may have been preempted.
void wait_for(const std::atomic<uint32_t>& flag, uint32_t value);

}  // namespace adfast
