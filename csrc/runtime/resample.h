// The frame's way into the network: which source pixels, with which weights, make each input pixel.
#pragma once
#include <cstdint>
#include <vector>

#include "core/frame.h"
#include "runtime/pixels.h"

namespace adfast {

// How a frame becomes the network's input: stretched to `resize`, then the centre `crop`.
struct FrameGeometry {
  int64_t resize_height = 0, resize_width = 0;
  int64_t crop_height = 0, crop_width = 0;
  bool antialias = true;

  int64_t top() const { return (resize_height - crop_height) / 2; }
  int64_t left() const { return (resize_width - crop_width) / 2; }
};

struct Rectangle {
  int64_t top = 0, left = 0, bottom = 0, right = 0;  // bottom and right are outside

  bool empty() const { return top == 0 && left == 0 && bottom == 0 && right == 0; }
};

// The part of a frame that the crop shows, in frame pixels; at least one pixel.
Rectangle inspected_part(const FrameGeometry& geometry, int64_t height, int64_t width);

// Weights of a bilinear resampling of one axis, outputs `begin` to `begin + count - 1` of
// `resized`. Enlarging interpolates with half-pixel centres; reducing widens the triangle to the
// step, so that every source pixel counts (antialiasing). The arithmetic is PyTorch's
// interpolate(antialias=True).
struct ResampleWeights {
  int32_t taps = 0;
  std::vector<int32_t> first;
  std::vector<float> weight;
};
ResampleWeights resample_weights(int64_t source, int64_t resized, int64_t begin, int64_t count,
                                 bool antialias);

// A frame and the weights for its size, which are kept while the size stays.
class FrameInput {
 public:
  explicit FrameInput(const FrameGeometry& geometry) : geometry_(geometry) {}
  void set(const FrameView& frame, size_t scratch_floats);
  void resize_for(int64_t height, int64_t width);  // the weights alone

  // Readable, see pixels.h.
  const FrameView& view() const { return view_; }
  const ResampleWeights& rows() const { return rows_; }
  const ResampleWeights& columns() const { return columns_; }
  float* scratch() const { return scratch_.data(); }

 private:
  FrameGeometry geometry_;
  FrameView view_;
  std::vector<uint8_t> pixels_;  // of a frame that is not readable as it lies
  int64_t height_ = -1, width_ = -1;
  ResampleWeights rows_, columns_;
  mutable std::vector<float> scratch_;
};

}  // namespace adfast
