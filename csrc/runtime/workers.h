// A fixed set of threads that run coarse tasks side by side, the caller being one of them.
#pragma once
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
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

  // False in a process forked from the one that made the threads, which then do not exist.
  bool alive() const;

  int count() const { return static_cast<int>(shared_->threads.size()) + 1; }

  // Runs task(0) here and task(1) .. task(tasks - 1) on the threads; returns when all are done.
  // tasks <= count(). Tasks must not throw. One call at a time: the engine's lock sees to it.
  void run(int tasks, const std::function<void(int)>& task);

 private:
  struct Shared {
    std::vector<std::thread> threads;
    std::mutex mutex;
    std::condition_variable started, finished;
    const std::function<void(int)>* task = nullptr;
    uint64_t round = 0;
    int tasks = 0, running = 0;
    bool stopping = false;

    void serve(int index);
  };

  int process_;
  std::unique_ptr<Shared> shared_;
};

// Waits until `flag` holds `value`: a short spin, since the other lane is usually about to arrive,
// then a sleep, since on a busy machine it may have been preempted.
void wait_for(const std::atomic<uint32_t>& flag, uint32_t value);

}  // namespace adfast
