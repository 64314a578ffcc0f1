// Bilinear resizing of f32 maps, horizontally first: a source row is stretched once and serves
// every output row between itself and its neighbour.
#pragma once

namespace adfast::kernels::ADFAST_ISA {

constexpr int64_t kBlockColumns = 256;  // output columns at a time: the stretched rows stay in L1

// Where output `index` falls among `size` inputs, as torch.nn.functional.interpolate places it.
struct Place {
  int32_t first;
  float fraction;
};
static inline Place place(int32_t index, int32_t size, int32_t out_size, bool align_corners) {
  double at;
  if (align_corners) {
    at = out_size > 1 ? index * (static_cast<double>(size - 1) / (out_size - 1)) : 0;
  } else {
    at = (index + 0.5) * (static_cast<double>(size) / out_size) - 0.5;
  }
  at = at < 0 ? 0 : at;
  int32_t first = static_cast<int32_t>(smaller(static_cast<int64_t>(at), size - 1));
  return {first, static_cast<float>(at - first)};
}

// A block of output columns of one map, and the two stretched rows last asked for.
struct Stretch {
  const float* src;
  int32_t height, width, out_height;
  bool align_corners;
  bool dense;  // kLanes outputs span at most kLanes inputs: shuffles instead of single loads
  int32_t begin, span;  // inputs this block uses
  int64_t columns;
  int32_t held[2];  // source rows in row[0] and row[1]
  float* row[2];
  int32_t first[kBlockColumns];   // from the map's left edge
  int32_t offset[kBlockColumns];  // from the first of the same vector
  float fraction[kBlockColumns];
  float rows[2][kBlockColumns];
  float segment[kBlockColumns + 3 * kMaxLanes];

  void start(const float* map, int32_t map_height, int32_t map_width, int32_t height_out,
             int32_t width_out, bool corners, int64_t column, int64_t count) {
    src = map;
    height = map_height;
    width = map_width;
    out_height = height_out;
    align_corners = corners;
    columns = (count + kLanes - 1) / kLanes * kLanes;
    for (int64_t i = 0; i < columns; i++) {
      Place at = place(static_cast<int32_t>(column + smaller(i, count - 1)), width, width_out,
                       align_corners);
      first[i] = at.first;
      fraction[i] = at.fraction;
      offset[i] = at.first - first[i / kLanes * kLanes];
    }
    dense = width <= width_out;
    begin = first[0];
    span = first[columns - 1] - begin + 2;
    held[0] = held[1] = -1;
    row[0] = rows[0];
    row[1] = rows[1];
  }

  void stretch(int32_t y, float* out) {
    const float* line = src + static_cast<int64_t>(y) * width;
    if (dense) {
      for (int64_t i = 0; i < span; i++) segment[i] = line[smaller(begin + i, width - 1)];
      for (int64_t i = 0; i < kMaxLanes; i++) segment[span + i] = 0.0f;
      for (int64_t i = 0; i < columns; i += kLanes) {
        const float* from = segment + (first[i] - begin);
        Vec a = lookup(from, offset + i), b = lookup(from + 1, offset + i);
        store(out + i, fma(load(fraction + i), b - a, a));
      }
      return;
    }
    for (int64_t i = 0; i < columns; i++) {
      float a = line[first[i]], b = line[smaller(first[i] + 1, width - 1)];
      out[i] = a + fraction[i] * (b - a);
    }
  }

  // Makes row[0] and row[1] the stretched neighbours of output row y; returns the lower one's
  // share.
  float at(int32_t y) {
    Place p = place(y, height, out_height, align_corners);
    int32_t below = static_cast<int32_t>(smaller(p.first + 1, height - 1));
    if (held[0] != p.first) {
      if (held[1] == p.first) {
        float* swap = row[0];
        row[0] = row[1];
        row[1] = swap;
        held[1] = held[0];
      } else {
        stretch(p.first, row[0]);
      }
      held[0] = p.first;
    }
    if (held[1] != below) {
      stretch(below, row[1]);
      held[1] = below;
    }
    return p.fraction;
  }

  Vec value(int64_t i, Vec share) const {
    Vec top = load(row[0] + i);
    return fma(share, load(row[1] + i) - top, top);
  }
};

static void resize_plane(const ResizeBilinearArgs& a) {
  Stretch map;
  for (int64_t column = 0; column < a.dst_width; column += kBlockColumns) {
    int64_t count = smaller(kBlockColumns, a.dst_width - column);
    map.start(a.src, a.height, a.width, a.dst_height, a.dst_width, a.align_corners, column, count);
    for (int32_t y = a.row_begin; y < a.row_end; y++) {
      Vec share = set1(map.at(y));
      float* out = a.dst + y * a.dst_row_stride + column;
      over(count, [&](int64_t i, auto lanes) { store(out + i, map.value(i, share), lanes); });
    }
  }
}

static void resize_bilinear(const ResizeBilinearArgs& a) {
  if (a.channels == 1) return resize_plane(a);
  int64_t channels = a.channels, line = a.width * channels;
  for (int32_t y = a.row_begin; y < a.row_end; y++) {
    Place row = place(y, a.height, a.dst_height, a.align_corners);
    const float* top = a.src + row.first * line;
    const float* bottom = a.src + smaller(row.first + 1, a.height - 1) * line;
    Vec down = set1(row.fraction);
    for (int32_t x = 0; x < a.dst_width; x++) {
      Place column = place(x, a.width, a.dst_width, a.align_corners);
      int64_t left = column.first * channels;
      int64_t right = smaller(column.first + 1, a.width - 1) * channels;
      Vec across = set1(column.fraction);
      float* out = a.dst + y * a.dst_row_stride + x * channels;
      over(channels, [&](int64_t c, auto lanes) {
        Vec a0 = load(top + left + c, lanes), a1 = load(top + right + c, lanes);
        Vec b0 = load(bottom + left + c, lanes), b1 = load(bottom + right + c, lanes);
        Vec above = fma(across, a1 - a0, a0);
        store(out + c, fma(down, fma(across, b1 - b0, b0) - above, above), lanes);
      });
    }
  }
}

}  // namespace adfast::kernels::ADFAST_ISA
