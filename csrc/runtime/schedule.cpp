#include "runtime/schedule.h"

#include <algorithm>
#include <numeric>

namespace adfast {
namespace {

// A hop between lanes costs a wake-up and cold caches.
constexpr double hop_seconds = 30e-6;
constexpr size_t alignment = 64;

std::vector<double> remaining_path(const std::vector<StepNeeds>& steps) {
  std::vector<double> path(steps.size(), 0);
  for (size_t i = steps.size(); i-- > 0;) {
    path[i] += steps[i].seconds;
    for (int32_t p : steps[i].producers) path[p] = std::max(path[p], path[i]);
  }
  return path;
}

}  // namespace

Schedule make_schedule(const std::vector<StepNeeds>& steps, int lane_count) {
  const auto count = static_cast<int32_t>(steps.size());
  Schedule schedule;
  schedule.lanes.resize(lane_count);
  schedule.waits.resize(count);
  schedule.awaited.assign(count, false);
  schedule.before.assign(count, std::vector<bool>(count, false));

  // Longest remaining path first; ties in the given order, which keeps producers ahead.
  const std::vector<double> path = remaining_path(steps);
  std::vector<int32_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return path[a] > path[b]; });

  std::vector<int32_t> lane_of(count, -1), position(count, 0);
  std::vector<double> finish(count, 0), free_at(lane_count, 0);
  for (int32_t step : order) {
    int32_t home = -1;  // lane of the input that arrives last
    double latest = -1;
    for (int32_t p : steps[step].producers) {
      if (finish[p] > latest) {
        latest = finish[p];
        home = lane_of[p];
      }
    }
    int32_t best = 0;
    double best_cost = 0, best_start = 0;
    for (int32_t lane = 0; lane < lane_count; ++lane) {
      double start = free_at[lane];
      for (int32_t p : steps[step].producers) {
        start = std::max(start, finish[p] + (lane_of[p] == lane ? 0 : hop_seconds));
      }
      const double cost = start + (home < 0 || lane == home ? 0 : hop_seconds);
      if (lane == 0 || cost < best_cost) {
        best = lane;
        best_cost = cost;
        best_start = start;
      }
    }
    lane_of[step] = best;
    position[step] = static_cast<int32_t>(schedule.lanes[best].size());
    schedule.lanes[best].push_back(step);
    finish[step] = free_at[best] = best_start + steps[step].seconds;
  }

  // `order` runs producers first and each lane in its own order, so `before` is complete for every
  // earlier step when a later one is reached.
  for (int32_t step : order) {
    const auto follow = [&](int32_t earlier) {
      schedule.before[earlier][step] = true;
      for (int32_t i = 0; i < count; ++i) {
        if (schedule.before[i][earlier]) schedule.before[i][step] = true;
      }
    };
    const auto& lane = schedule.lanes[lane_of[step]];
    if (position[step] > 0) follow(lane[position[step] - 1]);
    std::vector<int32_t> last(lane_count, -1);  // the latest producer of each other lane
    for (int32_t p : steps[step].producers) {
      if (lane_of[p] == lane_of[step]) continue;
      int32_t& known = last[lane_of[p]];
      if (known < 0 || position[p] > position[known]) known = p;
    }
    for (int32_t p : last) {
      if (p < 0 || schedule.before[p][step]) continue;
      schedule.waits[step].push_back(p);
      schedule.awaited[p] = true;
      follow(p);
    }
  }
  return schedule;
}

double parallelism(const std::vector<StepNeeds>& steps) {
  if (steps.empty()) return 1;
  double work = 0;
  for (const StepNeeds& step : steps) work += step.seconds;
  const std::vector<double> path = remaining_path(steps);
  return work / *std::max_element(path.begin(), path.end());
}

ArenaLayout plan_arena(const std::vector<ArenaItem>& items, const Schedule& schedule) {
  // Is every use of `a` over before `b` is written?
  const auto precedes = [&](const ArenaItem& a, const ArenaItem& b) {
    if (a.kept || b.writer < 0) return false;
    if (a.readers.empty() && a.writer >= 0) return bool(schedule.before[a.writer][b.writer]);
    return std::all_of(a.readers.begin(), a.readers.end(),
                       [&](int32_t reader) { return schedule.before[reader][b.writer]; });
  };
  std::vector<size_t> order(items.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return items[a].bytes > items[b].bytes; });

  ArenaLayout layout;
  layout.offsets.assign(items.size(), 0);
  std::vector<size_t> placed;
  for (size_t item : order) {
    std::vector<std::pair<size_t, size_t>> taken;  // ranges that this item must not touch
    for (size_t other : placed) {
      if (precedes(items[item], items[other]) || precedes(items[other], items[item])) continue;
      taken.emplace_back(layout.offsets[other], layout.offsets[other] + items[other].bytes);
    }
    std::sort(taken.begin(), taken.end());
    size_t offset = 0;
    for (const auto& [begin, end] : taken) {
      if (offset + items[item].bytes <= begin) break;
      offset = std::max(offset, (end + alignment - 1) / alignment * alignment);
    }
    layout.offsets[item] = offset;
    layout.bytes = std::max(layout.bytes, offset + items[item].bytes);
    placed.push_back(item);
  }
  return layout;
}

}  // namespace adfast
