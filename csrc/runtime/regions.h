// The connected parts of a map that are above a threshold.
#pragma once
#include <cstdint>
#include <limits>
#include <vector>

#include "runtime/resample.h"

namespace adfast {

struct Region {
  Rectangle box;
  int64_t area = 0;  // pixels above the threshold
  float peak = 0, mean = 0;
  int64_t peak_y = 0, peak_x = 0;
};

struct RegionRule {
  float threshold = 0;                // a pixel belongs where its value is above
  const float* thresholds = nullptr;  // each pixel's own instead, of the map's size
  float min_peak = -std::numeric_limits<float>::infinity();  // what no pixel is above is dropped
  int64_t min_area = 1;
};

// Of a map [height][width]; pixels that touch at a corner are connected. The highest peak first,
// and of equal ones that which begins further up. NaN is never above.
std::vector<Region> find_regions(const float* map, int64_t height, int64_t width,
                                 const RegionRule& rule);

}  // namespace adfast
