#include "runtime/regions.h"

#include <algorithm>
#include <cmath>

namespace adfast {

namespace {

// A stretch of a row that is above the threshold.
struct Run {
  int64_t y, begin, end;
  int32_t parent;
};

int32_t root(std::vector<Run>* runs, int32_t i) {
  while ((*runs)[i].parent != i) {
    (*runs)[i].parent = (*runs)[(*runs)[i].parent].parent;
    i = (*runs)[i].parent;
  }
  return i;
}

void append_runs(const float* map, int64_t y, int64_t width, const RegionRule& rule,
                 std::vector<Run>* runs) {
  const float* row = map + y * width;
  const float* own = rule.thresholds == nullptr ? nullptr : rule.thresholds + y * width;
  const auto above = [&](int64_t x) { return row[x] > (own ? own[x] : rule.threshold); };
  for (int64_t x = 0; x < width; ++x) {
    if (!above(x)) continue;
    const int64_t begin = x;
    while (x < width && above(x)) ++x;
    runs->push_back({y, begin, x, static_cast<int32_t>(runs->size())});
  }
}

}  // namespace

std::vector<Region> find_regions(const float* map, int64_t height, int64_t width,
                                 const RegionRule& rule) {
  std::vector<Run> runs;
  size_t above = 0, above_end = 0;  // the runs of the row above
  for (int64_t y = 0; y < height; ++y) {
    append_runs(map, y, width, rule, &runs);
    size_t other = above;
    for (size_t i = above_end; i < runs.size(); ++i) {
      // Corners touch. The last run that touches this one may touch the next one too.
      while (other < above_end && runs[other].end < runs[i].begin) ++other;
      for (size_t j = other; j < above_end && runs[j].begin <= runs[i].end; ++j) {
        const int32_t a = root(&runs, static_cast<int32_t>(i));
        const int32_t b = root(&runs, static_cast<int32_t>(j));
        // The first run of a region stays its root.
        runs[std::max(a, b)].parent = std::min(a, b);
      }
    }
    above = above_end;
    above_end = runs.size();
  }

  std::vector<Region> regions;
  std::vector<double> sums;
  std::vector<int32_t> index(runs.size(), -1);
  for (size_t i = 0; i < runs.size(); ++i) {
    const Run& run = runs[i];
    int32_t& at = index[root(&runs, static_cast<int32_t>(i))];
    if (at < 0) {
      at = static_cast<int32_t>(regions.size());
      Region region;
      region.box = {run.y, run.begin, run.y + 1, run.end};
      region.peak = -std::numeric_limits<float>::infinity();
      regions.push_back(region);
      sums.push_back(0);
    }
    Region& region = regions[at];
    region.box.left = std::min(region.box.left, run.begin);
    region.box.right = std::max(region.box.right, run.end);
    region.box.bottom = run.y + 1;
    region.area += run.end - run.begin;
    const float* row = map + run.y * width;
    for (int64_t x = run.begin; x < run.end; ++x) {
      sums[at] += row[x];
      if (row[x] > region.peak) {
        region.peak = row[x];
        region.peak_y = run.y;
        region.peak_x = x;
      }
    }
  }
  for (size_t i = 0; i < regions.size(); ++i) {
    regions[i].mean = static_cast<float>(sums[i] / static_cast<double>(regions[i].area));
  }
  std::erase_if(regions, [&](const Region& region) {
    return region.area < rule.min_area || !(region.peak > rule.min_peak);
  });
  std::stable_sort(regions.begin(), regions.end(),
                   [](const Region& a, const Region& b) { return a.peak > b.peak; });
  return regions;
}

}  // namespace adfast
