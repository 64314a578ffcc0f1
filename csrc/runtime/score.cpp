#include "runtime/score.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace adfast {

namespace {

constexpr float lowest = std::numeric_limits<float>::lowest();

// Whether half of the pixels of a cell or more do not count.
bool mostly_ignored(const IgnoreMask& mask, int64_t top, int64_t bottom, int64_t left,
                    int64_t right) {
  int64_t ignored = 0;
  for (int64_t y = top; y < bottom; ++y) {
    const uint8_t* row = mask.data + y * mask.row_stride;
    for (int64_t x = left; x < right; ++x) ignored += row[x] != 0;
  }
  return 2 * ignored >= (bottom - top) * (right - left);
}

// The largest mean of a pool x pool square. Sums along the rows take the map's place.
float pooled_max(float* map, int64_t height, int64_t width, int64_t pool) {
  const int64_t tall = std::min(pool, height), wide = std::min(pool, width);
  for (int64_t y = 0; y < height; ++y) {
    float* row = map + y * width;
    for (int64_t x = 0; x + wide <= width; ++x)
      row[x] = std::accumulate(row + x, row + x + wide, 0.0f);
  }
  float best = lowest;
  for (int64_t y = 0; y + tall <= height; ++y) {
    for (int64_t x = 0; x + wide <= width; ++x) {
      float sum = 0;
      for (int64_t i = 0; i < tall; ++i) sum += map[(y + i) * width + x];
      best = std::max(best, sum);
    }
  }
  return best / static_cast<float>(tall * wide);
}

}  // namespace

PartScore masked_score(const ScoreRule& rule, const float* map, int64_t map_height,
                       int64_t map_width, const Rectangle& part, const IgnoreMask& mask,
                       std::vector<float>* scratch) {
  const int64_t height = part.bottom - part.top, width = part.right - part.left;
  scratch->assign(map, map + map_height * map_width);
  PartScore result{lowest, 0};
  double sum = 0;
  for (int64_t i = 0; i < map_height; ++i) {
    const int64_t top = part.top + i * height / map_height;
    const int64_t bottom = std::max(top + 1, part.top + (i + 1) * height / map_height);
    for (int64_t j = 0; j < map_width; ++j) {
      const int64_t left = part.left + j * width / map_width;
      const int64_t right = std::max(left + 1, part.left + (j + 1) * width / map_width);
      float& value = (*scratch)[i * map_width + j];
      if (mostly_ignored(mask, top, bottom, left, right)) {
        value = 0;
        continue;
      }
      ++result.elements;
      sum += value;
      result.score = std::max(result.score, value);
    }
  }
  if (result.elements == 0) return {};
  if (rule.reduction == "mean") {
    result.score = static_cast<float>(sum / static_cast<double>(result.elements));
  } else if (rule.reduction == "pooled_max") {
    result.score = pooled_max(scratch->data(), map_height, map_width, rule.pool);
  }
  return result;
}

PartScore combined(const ScoreRule& rule, const PartScore& a, const PartScore& b) {
  if (a.elements == 0 || b.elements == 0) return a.elements == 0 ? b : a;
  const int64_t elements = a.elements + b.elements;
  if (rule.reduction != "mean") return {std::max(a.score, b.score), elements};
  const double sum = static_cast<double>(a.score) * static_cast<double>(a.elements) +
                     static_cast<double>(b.score) * static_cast<double>(b.elements);
  return {static_cast<float>(sum / static_cast<double>(elements)), elements};
}

void erase(const IgnoreMask& mask, int64_t height, int64_t width, float* map) {
  for (int64_t y = 0; y < height; ++y, map += width) {
    const uint8_t* row = mask.data + y * mask.row_stride;
    for (int64_t x = 0; x < width; ++x) map[x] = row[x] != 0 ? 0.0f : map[x];
  }
}

bool all_ignored(const IgnoreMask& mask, int64_t height, int64_t width) {
  if (!mask) return false;
  for (int64_t y = 0; y < height; ++y) {
    const uint8_t* row = mask.data + y * mask.row_stride;
    if (std::find(row, row + width, uint8_t{0}) != row + width) return false;
  }
  return true;
}

}  // namespace adfast
