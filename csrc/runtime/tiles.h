// A large frame as overlapping tiles, each inspected by itself, and their maps as one.
#pragma once
#include <cstdint>
#include <vector>

#include "runtime/resample.h"

namespace adfast {

// Pixels of the frame; height 0: frames are inspected whole.
struct TileRule {
  int64_t height = 0, width = 0;
  int64_t overlap = 0;  // at least, of what neighbours inspect

  bool covers(int64_t frame_height, int64_t frame_width) const {
    return height == 0 || (frame_height <= height && frame_width <= width);
  }
};

// One axis. Tiles are spread evenly, the first at 0, the last at the frame's end.
struct TileAxis {
  int64_t size = 0;  // of a tile
  std::vector<int64_t> begin;
  // [tiles][size]: how much of a pixel's value is this tile's. 1 where no other tile sees it, so
  // that the map is the tile's to the bit there; ramps where tiles meet, of sum 1; 0 where none
  // sees.
  std::vector<float> weight;
};

struct Tiling {
  TileAxis rows, columns;
};

// Tiles no larger than the frame; one of the frame's size without a rule.
Tiling tiling(const TileRule& rule, const FrameGeometry& geometry, int64_t height, int64_t width);

// map[y][x] += weight of the tile at (y, x) * values[y][x], into a map of `map_width` columns.
void add_tile(const Tiling& tiling, size_t row, size_t column, const float* values, float* map,
              int64_t map_width);

// The part of a frame that some tile inspects.
Rectangle inspected_part(const TileRule& rule, const FrameGeometry& geometry, int64_t height,
                         int64_t width);

}  // namespace adfast
