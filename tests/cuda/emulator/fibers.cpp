// Threads of a block as fibers on one host thread.
//
// A thread runs until it waits for others. One that never waits needs no stack of its own: the
// fiber that ran it goes on with the next. So a kernel without barriers is a plain loop, and a
// barrier is found missing at once: thread 0 is done before thread 1 begins, or, in the backward
// order, the other way round. Shared memory begins as NaN in every block.
#include "fibers.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <memory>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace {
constexpr size_t kShared = kLargestShared / sizeof(float4), kMargin = 64;
}
// Large enough for any kernel; what a launch did not ask for is off limits.
float4 adfast_shared[kShared + kMargin];

namespace {

constexpr size_t kStack = 256 << 10;
constexpr int kWarp = 32;

#if defined(__x86_64__)
// Saves what a function must preserve, and continues where `to` was saved.
extern "C" void emulated_switch(void** from, void* to);
asm(R"(
.text
.hidden emulated_switch
.globl emulated_switch
.type emulated_switch, @function
emulated_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulated_switch, .-emulated_switch
)");

struct Context {
  void* top = nullptr;
  void start(char* stack, size_t size, void (*entry)()) {
    // As if `entry` had been called: its frame begins 8 bytes off a multiple of 16.
    void** at = reinterpret_cast<void**>(stack + size) - 2;
    *at = reinterpret_cast<void*>(entry);
    top = at - 6;
    for (int i = 0; i < 6; i++) at[-1 - i] = nullptr;
    at[1] = nullptr;
  }
  void leave_for(Context& other) { emulated_switch(&top, other.top); }
};
#else
}  // namespace
#include <ucontext.h>
namespace {
struct Context {
  ucontext_t state = {};
  void start(char* stack, size_t size, void (*entry)()) {
    getcontext(&state);
    state.uc_stack.ss_sp = stack;
    state.uc_stack.ss_size = size;
    state.uc_link = nullptr;
    makecontext(&state, entry, 0);
  }
  void leave_for(Context& other) { swapcontext(&state, &other.state); }
};
#endif

void fiber_main();

struct Fiber {
  Context context;
  char* stack = nullptr;
  int thread = -1;             // that it runs
  void* fake_stack = nullptr;  // AddressSanitizer's

  Fiber() {
    stack = static_cast<char*>(mmap(nullptr, kStack, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (stack == MAP_FAILED) abort();
    restart();
  }
  Fiber(const Fiber&) = delete;
  ~Fiber() { munmap(stack, kStack); }
  void restart() {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(stack, kStack);
#endif
    fake_stack = nullptr;
    thread = -1;
    context.start(stack, kStack, fiber_main);
  }
};

enum class State : uint8_t { unstarted, running, at_barrier, in_warp, finished };

struct Thread {
  State state = State::unstarted;
  Fiber* fiber = nullptr;
  uint32_t round = 0;  // of its warp's exchanges
};

struct Warp {
  int arrived = 0;
  uint32_t value[2][kWarp];  // of two rounds: the next may begin while this one is read
  const char* file = nullptr;
  int line = 0;
  int ready[kWarp];  // threads that may go on: `waiting` of them, the first one at `front`
  int front = 0, waiting = 0;
};

struct Block {
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  size_t last_warp = 0;  // that ran
  int started = 0, finished = 0, at_barrier = 0;
  const char* file = nullptr;  // of the barrier
  int line = 0;
  const std::function<void()>* body = nullptr;
  std::string error;
};

Block block;
Context scheduler;
#if defined(__SANITIZE_ADDRESS__)
void* scheduler_fake_stack = nullptr;
const void* scheduler_stack = nullptr;
size_t scheduler_stack_size = 0;
#endif
Fiber* current = nullptr;
EmulatedOrder order = EmulatedOrder::forward;
std::vector<std::unique_ptr<Fiber>> fibers;
std::vector<Fiber*> idle;

int in_order(int i, int count) { return order == EmulatedOrder::forward ? i : count - 1 - i; }

void become(int thread) {
  const unsigned t = static_cast<unsigned>(thread);
  threadIdx = {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
}

void to_scheduler() {
  Fiber* me = current;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&me->fake_stack, scheduler_stack, scheduler_stack_size);
#endif
  me->context.leave_for(scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(me->fake_stack, &scheduler_stack, &scheduler_stack_size);
#endif
}

void resume(Fiber* fiber) {
  current = fiber;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&scheduler_fake_stack, fiber->stack, kStack);
#endif
  scheduler.leave_for(fiber->context);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
}

void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_stack, &scheduler_stack_size);
#endif
  for (;;) {
    const int count = static_cast<int>(block.threads.size());
    while (block.started < count) {
      const int thread = in_order(block.started++, count);
      current->thread = thread;
      block.threads[static_cast<size_t>(thread)] = {State::running, current, 0};
      become(thread);
      (*block.body)();
      block.threads[static_cast<size_t>(current->thread)].state = State::finished;
      block.finished++;
    }
    current->thread = -1;
    to_scheduler();
  }
}

Thread& self() { return block.threads[static_cast<size_t>(current->thread)]; }

void fail(const std::string& what) {
  if (block.error.empty()) block.error = what;
}

std::string place(const char* file, int line) {
  return std::string(file ? file : "?") + ":" + std::to_string(line);
}

// Makes those of `count` threads from `first` that are in `state` go on, in order.
void release(int first, int count, State state) {
  for (int i = 0; i < count; i++) {
    const int thread = first + in_order(i, count);
    Thread& t = block.threads[static_cast<size_t>(thread)];
    if (t.state != state) continue;
    t.state = State::running;
    Warp& warp = block.warps[static_cast<size_t>(thread / kWarp)];
    warp.ready[(warp.front + warp.waiting++) % kWarp] = thread;
  }
}

// The thread to go on, or -1. The warp that ran last goes first, then the first in order: warps get
// as far ahead of each other as barriers allow.
int next_ready() {
  const size_t count = block.warps.size();
  for (size_t i = 0; i <= count; i++) {
    const size_t w =
        i == 0 ? block.last_warp
               : static_cast<size_t>(in_order(static_cast<int>(i) - 1, static_cast<int>(count)));
    Warp& warp = block.warps[w];
    if (warp.waiting == 0) continue;
    block.last_warp = w;
    const int thread = warp.ready[warp.front];
    warp.front = (warp.front + 1) % kWarp;
    warp.waiting--;
    return thread;
  }
  return -1;
}

// All lanes of the warp wait for each other; returns the round that this was.
uint32_t warp_round(uint32_t value, const char* file, int line) {
  Thread& me = self();
  const int thread = current->thread, first = thread / kWarp * kWarp;
  Warp& warp = block.warps[static_cast<size_t>(thread / kWarp)];
  if (warp.arrived > 0 && (warp.line != line || warp.file != file)) {
    fail("lanes of a warp wait at " + place(warp.file, warp.line) + " and " + place(file, line));
  }
  warp.file = file;
  warp.line = line;
  const uint32_t round = me.round++ % 2;
  warp.value[round][thread % kWarp] = value;
  me.state = State::in_warp;
  if (++warp.arrived == kWarp) {
    warp.arrived = 0;
    release(first, kWarp, State::in_warp);
  }
  to_scheduler();
  return round;
}

std::string stuck() {
  int waiting = 0;
  for (const Thread& t : block.threads) waiting += t.state == State::at_barrier;
  std::string text = std::to_string(block.finished) + " threads of " +
                     std::to_string(block.threads.size()) + " have returned, ";
  if (waiting) {
    text +=
        std::to_string(waiting) + " wait in vain at the barrier " + place(block.file, block.line);
  }
  for (size_t w = 0; w < block.warps.size(); w++) {
    const Warp& warp = block.warps[w];
    if (warp.arrived == 0) continue;
    text += ", " + std::to_string(warp.arrived) + " lanes of warp " + std::to_string(w) + " at " +
            place(warp.file, warp.line);
  }
  return text;
}

void run_block() {
  const int count = static_cast<int>(block.threads.size());
  while (block.finished < count && block.error.empty()) {
    if (const int thread = next_ready(); thread >= 0) {
      become(thread);
      resume(block.threads[static_cast<size_t>(thread)].fiber);
    } else if (block.started < count) {
      if (idle.empty()) {
        fibers.push_back(std::make_unique<Fiber>());
        idle.push_back(fibers.back().get());
      }
      Fiber* fiber = idle.back();
      idle.pop_back();
      resume(fiber);
    } else {
      fail(stuck());
    }
    if (current->thread < 0) idle.push_back(current);
  }
  if (block.error.empty()) return;
  // The threads that wait are given up, wherever they are.
  idle.clear();
  for (auto& fiber : fibers) {
    fiber->restart();
    idle.push_back(fiber.get());
  }
}

}  // namespace

void emulated_set_order(EmulatedOrder value) { order = value; }

int emulated_lane() { return current->thread % kWarp; }

void emulated_syncthreads(const char* file, int line) {
  if (block.at_barrier > 0 && (block.line != line || block.file != file)) {
    fail("threads of a block wait at the barriers " + place(block.file, block.line) + " and " +
         place(file, line));
  }
  block.file = file;
  block.line = line;
  self().state = State::at_barrier;
  const int count = static_cast<int>(block.threads.size());
  if (++block.at_barrier == count) {
    block.at_barrier = 0;
    release(0, count, State::at_barrier);
  }
  to_scheduler();
}

void emulated_syncwarp(const char* file, int line) { warp_round(0, file, line); }

uint32_t emulated_shuffle(unsigned mask, uint32_t value, int from, const char* file, int line) {
  if (mask != 0xffffffffu) fail("only whole warps exchange values here: " + place(file, line));
  const uint32_t round = warp_round(value, file, line);
  return block.warps[static_cast<size_t>(current->thread / kWarp)].value[round][from];
}

bool emulated_run(const cudaLaunchConfig_t& config, const std::function<void()>& thread) {
  gridDim = config.gridDim;
  blockDim = config.blockDim;
  const size_t threads = size_t{1} * blockDim.x * blockDim.y * blockDim.z;
  const size_t shared = (config.dynamicSmemBytes + 15) / 16;
  // Beyond what was asked for lies a pattern that must stay.
  const unsigned char* margin = reinterpret_cast<unsigned char*>(adfast_shared + shared);
  memset(adfast_shared + shared, 0xa5, kMargin * sizeof(float4));
  for (unsigned z = 0; z < gridDim.z; z++) {
    for (unsigned y = 0; y < gridDim.y; y++) {
      for (unsigned x = 0; x < gridDim.x; x++) {
        blockIdx = {x, y, z};
        block.threads.assign(threads, Thread{});
        block.warps.assign((threads + kWarp - 1) / kWarp, Warp{});
        block.last_warp = static_cast<size_t>(in_order(0, static_cast<int>(block.warps.size())));
        block.started = block.finished = block.at_barrier = 0;
        block.error.clear();
        block.body = &thread;
        memset(adfast_shared, 0xff, shared * sizeof(float4));
#if defined(__SANITIZE_ADDRESS__)
        ASAN_POISON_MEMORY_REGION(margin, (kShared + kMargin - shared) * sizeof(float4));
#endif
        run_block();
#if defined(__SANITIZE_ADDRESS__)
        ASAN_UNPOISON_MEMORY_REGION(margin, (kShared + kMargin - shared) * sizeof(float4));
#endif
        for (size_t i = 0; i < kMargin * sizeof(float4); i++) {
          if (margin[i] != 0xa5) {
            fail("shared memory was written beyond the " + std::to_string(config.dynamicSmemBytes) +
                 " bytes asked for");
          }
        }
        if (block.error.empty()) continue;
        fprintf(stderr, "emulated CUDA: block (%u, %u, %u): %s\n", x, y, z, block.error.c_str());
        return false;
      }
    }
  }
  return true;
}
