// From a map to a score where some of the map does not count, by the rule that the plan names.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "runtime/resample.h"

namespace adfast {

struct ScoreRule {
  std::string reduction = "model";  // "max", "mean", "pooled_max", or "model": known to it alone
  int64_t pool = 1;                 // side of the square of pooled_max
};

// What of a frame does not count: bytes other than 0 of rows of the frame's width.
struct IgnoreMask {
  const uint8_t* data = nullptr;  // null: everything counts
  ptrdiff_t row_stride = 0;

  explicit operator bool() const { return data != nullptr; }
  IgnoreMask from(int64_t y, int64_t x) const {
    return data == nullptr ? *this : IgnoreMask{data + y * row_stride + x, row_stride};
  }
};

// A score, and of how many elements of the map it is.
struct PartScore {
  float score = 0;
  int64_t elements = 0;
};

// The score of a map [map_height][map_width] of a frame, whose `part` it shows. An element does not
// count where half of its pixels or more do not; a pooled mean takes it as 0. `counts` is scratch.
PartScore masked_score(const ScoreRule& rule, const float* map, int64_t map_height,
                       int64_t map_width, const Rectangle& part, const IgnoreMask& mask,
                       std::vector<float>* scratch);

// Of two parts of a frame; the largest, unless the score is a mean.
PartScore combined(const ScoreRule& rule, const PartScore& a, const PartScore& b);

// Sets to 0 what does not count of a map of the frame's size.
void erase(const IgnoreMask& mask, int64_t height, int64_t width, float* map);

// Whether nothing of a frame of this size counts.
bool all_ignored(const IgnoreMask& mask, int64_t height, int64_t width);

}  // namespace adfast
