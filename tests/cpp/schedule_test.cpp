// On random graphs: every step runs once and after its producers; `before` claims nothing that the
// lanes and waits do not enforce; items that may be alive together never share memory.
#include "runtime/schedule.h"

#include <algorithm>
#include <random>

#include "check.h"

using namespace adfast;

namespace {

std::vector<StepNeeds> random_steps(std::mt19937& random, int count) {
  std::vector<StepNeeds> steps(count);
  for (int i = 0; i < count; ++i) {
    steps[i].seconds = std::uniform_real_distribution<double>(0, 1e-3)(random);
    for (int p = std::max(0, i - 8); p < i; ++p) {
      if (random() % 4 == 0) steps[i].producers.push_back(p);
    }
  }
  return steps;
}

// The order that lanes and waits enforce, by brute force.
std::vector<std::vector<bool>> enforced_order(const Schedule& schedule, int count) {
  std::vector<std::vector<bool>> before(count, std::vector<bool>(count, false));
  for (const auto& lane : schedule.lanes) {
    for (size_t i = 1; i < lane.size(); ++i) before[lane[i - 1]][lane[i]] = true;
  }
  for (int step = 0; step < count; ++step) {
    for (int other : schedule.waits[step]) before[other][step] = true;
  }
  for (int k = 0; k < count; ++k) {
    for (int i = 0; i < count; ++i) {
      for (int j = 0; before[i][k] && j < count; ++j) {
        if (before[k][j]) before[i][j] = true;
      }
    }
  }
  return before;
}

void check_schedule(const std::vector<StepNeeds>& steps, const Schedule& schedule) {
  const int count = static_cast<int>(steps.size());
  std::vector<int> runs(count, 0);
  for (const auto& lane : schedule.lanes) {
    for (int step : lane) ++runs[step];
  }
  CHECK(std::all_of(runs.begin(), runs.end(), [](int n) { return n == 1; }), "%d steps", count);
  const auto before = enforced_order(schedule, count);
  CHECK(before == schedule.before, "%d steps, %zu lanes", count, schedule.lanes.size());
  for (int step = 0; step < count; ++step) {
    CHECK(!before[step][step], "step %d waits for itself", step);
    for (int p : steps[step].producers) CHECK(before[p][step], "step %d before its input", step);
    for (int other : schedule.waits[step]) CHECK(schedule.awaited[other], "step %d", other);
  }
}

void check_arena(const std::vector<StepNeeds>& steps, const Schedule& schedule,
                 std::mt19937& random) {
  const int count = static_cast<int>(steps.size());
  std::vector<ArenaItem> items(count);
  size_t sum = 0;
  for (int i = 0; i < count; ++i) {
    items[i].bytes = random() % 5000;
    items[i].writer = i;
    items[i].kept = random() % 10 == 0;
    sum += items[i].bytes + 64;
    for (int p : steps[i].producers) items[p].readers.push_back(i);
  }
  const ArenaLayout layout = plan_arena(items, schedule);
  CHECK(layout.bytes <= sum, "%zu bytes of %zu", layout.bytes, sum);
  const auto over = [&](int a, int b) {  // a's last use is before b is written
    if (items[a].kept) return false;
    bool all = !items[a].readers.empty() || bool(schedule.before[a][b]);
    for (int reader : items[a].readers) all = all && bool(schedule.before[reader][b]);
    return all;
  };
  for (int a = 0; a < count; ++a) {
    CHECK(layout.offsets[a] % 64 == 0, "item %d", a);
    for (int b = a + 1; b < count; ++b) {
      const bool apart = layout.offsets[a] + items[a].bytes <= layout.offsets[b] ||
                         layout.offsets[b] + items[b].bytes <= layout.offsets[a];
      CHECK(apart || over(a, b) || over(b, a), "items %d and %d", a, b);
    }
  }
}

}  // namespace

int main() {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    const auto steps = random_steps(random, 1 + static_cast<int>(random() % 60));
    for (int lanes = 1; lanes <= 3; ++lanes) {
      const Schedule schedule = make_schedule(steps, lanes);
      check_schedule(steps, schedule);
      check_arena(steps, schedule, random);
    }
  }

  // Two equal chains that join: each keeps a lane, and they meet once.
  std::vector<StepNeeds> chains(21);
  for (int i = 0; i < 20; ++i) {
    chains[i].seconds = 1e-3;
    if (i >= 2) chains[i].producers = {i - 2};
  }
  chains[20] = {1e-3, {18, 19}};
  const Schedule schedule = make_schedule(chains, 2);
  size_t joins = 0;
  for (const auto& waits : schedule.waits) joins += waits.size();
  CHECK(joins == 1, "%zu joins", joins);
  const double both = parallelism(chains);
  CHECK(both > 1.9 && both < 2, "parallelism %g", both);
  return report("schedule");
}
