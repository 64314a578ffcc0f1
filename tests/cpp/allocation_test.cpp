// Engine::predict and predict_batch allocate nothing once they are warm: allocation_test TACTICS
// PLAN...
//
// Counts every call of malloc and its kin in this process. oneDNN 3.2 keeps a small map of its
// arguments during each call of a primitive and gives it back; those are counted apart.
#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>
#include <span>
#include <string>
#include <vector>

#include "check.h"
#include "runtime/engine.h"

namespace {

std::atomic<bool> counting = false;
std::atomic<long> ours = 0, onednn = 0;

void count(void* caller) {
  if (!counting.load(std::memory_order_relaxed)) return;
  Dl_info info;
  const bool theirs = dladdr(caller, &info) != 0 && info.dli_fname != nullptr &&
                      std::strstr(info.dli_fname, "libdnnl") != nullptr;
  ++(theirs ? onednn : ours);
}

}  // namespace

extern "C" {
void* __libc_malloc(size_t);
void __libc_free(void*);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

void* malloc(size_t bytes) {
  count(__builtin_return_address(0));
  return __libc_malloc(bytes);
}
void* calloc(size_t number, size_t bytes) {
  count(__builtin_return_address(0));
  return __libc_calloc(number, bytes);
}
void* realloc(void* old, size_t bytes) {
  count(__builtin_return_address(0));
  return __libc_realloc(old, bytes);
}
void* aligned_alloc(size_t alignment, size_t bytes) {
  count(__builtin_return_address(0));
  return __libc_memalign(alignment, bytes);
}
void* memalign(size_t alignment, size_t bytes) {
  count(__builtin_return_address(0));
  return __libc_memalign(alignment, bytes);
}
int posix_memalign(void** result, size_t alignment, size_t bytes) {
  count(__builtin_return_address(0));
  *result = __libc_memalign(alignment, bytes);
  return *result == nullptr;
}
}

// Called from where `new` stands, so that its module is known; the library's calls malloc itself.
void* operator new(size_t bytes) {
  count(__builtin_return_address(0));
  void* result = __libc_malloc(bytes == 0 ? 1 : bytes);
  if (result == nullptr) throw std::bad_alloc();
  return result;
}
void* operator new[](size_t bytes) {
  count(__builtin_return_address(0));
  void* result = __libc_malloc(bytes == 0 ? 1 : bytes);
  if (result == nullptr) throw std::bad_alloc();
  return result;
}
void operator delete(void* p) noexcept { __libc_free(p); }
void operator delete(void* p, size_t) noexcept { __libc_free(p); }
void operator delete[](void* p) noexcept { __libc_free(p); }
void operator delete[](void* p, size_t) noexcept { __libc_free(p); }

using namespace adfast;

namespace {

void check_plan(const char* path, const char* tactics) {
  const Plan plan = Plan::open(path);
  constexpr int64_t side = 400;  // large enough for a map written by several threads
  const std::vector<uint8_t> pixels(side * side, 99);
  std::vector<uint8_t> mask(side * side);
  std::fill_n(mask.begin(), side * side / 3, uint8_t{1});
  std::vector<Job> jobs(4);
  std::vector<std::vector<float>> maps(jobs.size(), std::vector<float>(side * side));
  for (size_t i = 0; i < jobs.size(); ++i) {
    jobs[i].frame = {pixels.data(), mono8, side, side, side, 1, 0};
    jobs[i].map = maps[i].data();
  }
  jobs[2].frame.format = *find_format("BayerRG8");
  // Of one size all of them: another needs other weights of the resampling.
  jobs[3].roi = {0, 0, side, side};
  jobs[3].ignore = {mask.data(), side};
  int engines = 0;
  // The last engine uses our own convolutions wherever they can do a step.
  for (int threads : {1, 2, 3, 2}) {
    EngineOptions options{.threads = threads, .precision = "f32"};
    if (++engines == 4) options.tactics = tactics;
    Engine engine(plan, options);
    const std::span<Job> batch(jobs.data(), 2);
    const auto one_by_one = [&] {
      for (Job& job : jobs) engine.predict(job);
    };
    // A thread takes what it needs in its first frame, which comes late where others are faster.
    counting = true;
    for (int quiet = 0, round = 0; quiet < 10 && round < 500; ++round) {
      ours = 0;
      one_by_one();
      engine.predict_batch(batch);
      quiet = ours == 0 ? quiet + 1 : 0;
    }
    constexpr int frames = 50;
    ours = onednn = 0;
    for (int i = 0; i < frames; ++i) one_by_one();
    counting = false;
    CHECK(ours == 0, "%s, %d threads: %ld in %d frames", path, threads, ours.load(), frames);
    std::printf("%s, %d threads: %.1f allocations a frame by oneDNN\n", path, threads,
                static_cast<double>(onednn) / frames);
    ours = 0;
    counting = true;
    for (int i = 0; i < frames; ++i) engine.predict_batch(batch);
    counting = false;
    CHECK(ours == 0, "%s, %d threads: %ld in %d batches", path, threads, ours.load(), frames);
  }
}

}  // namespace

int main(int argc, char** argv) {
  counting = true;
  std::free(std::malloc(1));
  delete new int(1);
  counting = false;
  CHECK(ours + onednn >= 1, "allocations are not counted");
  CHECK(argc > 2, "no plans were given");
  for (int i = 2; i < argc; ++i) check_plan(argv[i], argv[1]);
  return report("allocation");
}
