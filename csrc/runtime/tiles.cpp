#include "runtime/tiles.h"

#include <algorithm>

namespace adfast {

namespace {

// `low` to `high`: what a tile of `size` inspects of itself.
TileAxis tile_axis(int64_t length, int64_t size, int64_t low, int64_t high, int64_t overlap) {
  TileAxis axis;
  axis.size = size;
  const int64_t shared = std::min(overlap, high - low - 1);  // a tile must bring something new
  const int64_t step = high - low - shared, rest = length - size;
  const int64_t count = (rest + step - 1) / step + 1;
  for (int64_t i = 0; i < count; ++i) {
    axis.begin.push_back(count == 1 ? 0 : (2 * i * rest + count - 1) / (2 * (count - 1)));
  }
  axis.weight.resize(static_cast<size_t>(count * size));
  std::vector<float> sum(static_cast<size_t>(length));
  const auto ramp = [&](int64_t distance) {
    if (shared == 0) return 1.0f;
    return std::min(1.0f, (static_cast<float>(distance) + 0.5f) / static_cast<float>(shared));
  };
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t k = low; k < high; ++k) {
      const float left = i == 0 ? 1.0f : ramp(k - low);
      const float right = i == count - 1 ? 1.0f : ramp(high - 1 - k);
      sum[axis.begin[i] + k] += axis.weight[i * size + k] = std::min(left, right);
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t k = low; k < high; ++k) axis.weight[i * size + k] /= sum[axis.begin[i] + k];
  }
  return axis;
}

}  // namespace

Tiling tiling(const TileRule& rule, const FrameGeometry& geometry, int64_t height, int64_t width) {
  const int64_t tile_height = rule.height == 0 ? height : std::min(rule.height, height);
  const int64_t tile_width = rule.height == 0 ? width : std::min(rule.width, width);
  const Rectangle part = inspected_part(geometry, tile_height, tile_width);
  return {tile_axis(height, tile_height, part.top, part.bottom, rule.overlap),
          tile_axis(width, tile_width, part.left, part.right, rule.overlap)};
}

void add_tile(const Tiling& tiling, size_t row, size_t column, const float* values, float* map,
              int64_t map_width) {
  const int64_t height = tiling.rows.size, width = tiling.columns.size;
  const float* down = tiling.rows.weight.data() + row * height;
  const float* across = tiling.columns.weight.data() + column * width;
  map += tiling.rows.begin[row] * map_width + tiling.columns.begin[column];
  for (int64_t y = 0; y < height; ++y, map += map_width, values += width) {
    if (down[y] == 0) continue;
    for (int64_t x = 0; x < width; ++x) map[x] += down[y] * across[x] * values[x];
  }
}

Rectangle inspected_part(const TileRule& rule, const FrameGeometry& geometry, int64_t height,
                         int64_t width) {
  if (rule.covers(height, width)) return inspected_part(geometry, height, width);
  const int64_t tile_height = std::min(rule.height, height);
  const int64_t tile_width = std::min(rule.width, width);
  const Rectangle tile = inspected_part(geometry, tile_height, tile_width);
  return {tile.top, tile.left, height - tile_height + tile.bottom, width - tile_width + tile.right};
}

}  // namespace adfast
