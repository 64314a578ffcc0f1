// Sizes that the kernels and the `*_scratch` functions share, so that they cannot drift apart.
// Internal linkage only: this header is compiled with every instruction set's flags.
#pragma once
#include <stddef.h>
#include <stdint.h>

namespace adfast::kernels {

constexpr int64_t kMaxLanes = 16;  // floats in the widest vector
constexpr int64_t kRows8 = 8;      // rows (tokens, groups, pixels) that are reduced together
constexpr int64_t kMaxTile = 128;  // pixels of a feature map handled at once; a multiple of kRows8
constexpr int64_t kFrameRows = 4;  // output rows of a frame resampled together
constexpr int64_t kBlurRows = 4;   // output rows of a blur computed together

constexpr int64_t kQueryRows = 6;      // queries of an attention computed together, in registers
constexpr int64_t kMaxQueryRows = 16;  // the same, in tiles
constexpr int64_t kMaxPanel = 64;      // keys computed together, at most

static constexpr int64_t round_up8(int64_t n) { return (n + 7) / 8 * 8; }

// Pixels per tile: the tile is read twice, so it should still be in the L2 cache the second time
// and leave room there for the weights; fewer than 16 pixels would not pay for the softmax between.
static constexpr int64_t tile_pixels(int64_t channels, int64_t element_size) {
  int64_t pixels = (int64_t{128} << 10) / (channels * element_size) / kRows8 * kRows8;
  return pixels < 16 ? 16 : pixels > kMaxTile ? kMaxTile : pixels;
}

static constexpr int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// A row of `width` floats with `margin` more before and after and room for one vector past its end.
static constexpr int64_t padded_row(int64_t width, int64_t margin) {
  return (width + 2 * margin + 2 * kMaxLanes - 1) / kMaxLanes * kMaxLanes;
}

// A row of a halo's table of positions, of which whole vectors are read from any place inside.
static constexpr int64_t halo_table(int64_t length) {
  return round_up(length, kMaxLanes) + kMaxLanes;
}

// The logits of a query with `columns` keys, and the distance to the next one's: a little more than
// the round number that columns often are, as rows a multiple of 4 KB apart share cache sets.
static constexpr int64_t weight_row(int64_t columns) { return columns + kMaxLanes; }

constexpr int64_t kChannelPanel = 32;  // output channels that are computed together
constexpr int64_t kPanelColumns = 16;  // those of them whose weights lie next to each other

// Words that hold a depth of operands: floats, or pairs in bf16 of which the last may be half
// empty.
static constexpr int64_t words_of(int64_t depth, bool pairs) {
  return pairs ? (depth + 1) / 2 : depth;
}

// A tile's values at one point, and the distance between points of a block of tiles. Never a
// multiple of 4 KB: rows and points that are read or written together must not share cache sets.
static constexpr int64_t winograd_row(int64_t words) {
  return round_up(words, kMaxLanes) + kMaxLanes;
}
static constexpr int64_t winograd_plane(int64_t tiles, int64_t row) {
  return round_up(tiles * row, 1024) + kMaxLanes;
}

constexpr int kStrassenProducts = 7;  // of parts of x and of the weight, or of their sums

// A row of a sum of parts of x in strassen, likewise, and all five sums of a block of pairs of
// rows.
static constexpr int64_t strassen_row(int64_t words) { return winograd_row(words); }
static constexpr int64_t strassen_sums(int64_t block, int64_t words) {
  return 5 * block * strassen_row(words);
}

// A row of an image with one more pixel on either side.
static constexpr int64_t gms_row(int64_t width, int64_t channels) { return (width + 2) * channels; }

// A row of a frame's vertical pass: up to four floats for each of its pixels, written in whole
// vectors.
static constexpr int64_t frame_row(int64_t width) { return 4 * (width + kMaxLanes); }

}  // namespace adfast::kernels
