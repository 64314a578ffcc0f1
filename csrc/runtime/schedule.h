// Decides, once, which lane runs which step in which order, and where in the arena each value lies.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace adfast {

struct StepNeeds {
  double seconds = 0;              // estimate
  std::vector<int32_t> producers;  // steps whose results it reads
};

// Lanes are threads that walk their steps in order and meet only where one needs the other's
// result.
struct Schedule {
  std::vector<std::vector<int32_t>> lanes;  // steps in running order
  std::vector<std::vector<int32_t>> waits;  // per step: steps of other lanes to wait for
  std::vector<bool> awaited;                // per step: does another lane wait for it
  std::vector<std::vector<bool>> before;    // before[a][b]: a has always finished when b starts
};

// Steps come in an order in which they can run. A list schedule by longest remaining path; a step
// leaves the lane of its inputs only for a clear gain, so that chains stay whole.
Schedule make_schedule(const std::vector<StepNeeds>& steps, int lanes);

// All the work over the longest chain of it: how many lanes could be kept busy at best.
double parallelism(const std::vector<StepNeeds>& steps);
// Below this, a second lane idles more than it works.
inline constexpr double worthwhile_parallelism = 1.4;

struct ArenaItem {
  size_t bytes = 0;
  int32_t writer = -1;           // step that writes it, or -1: set before the first step
  std::vector<int32_t> readers;  // steps that read it
  bool kept = false;             // read after the last step
};

struct ArenaLayout {
  std::vector<size_t> offsets;  // per item, multiples of 64
  size_t bytes = 0;
};

// Two items may share memory when every use of one is always over before the other is written.
ArenaLayout plan_arena(const std::vector<ArenaItem>& items, const Schedule& schedule);

}  // namespace adfast
