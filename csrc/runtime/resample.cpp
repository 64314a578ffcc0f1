#include "runtime/resample.h"

#include <algorithm>
#include <cmath>

namespace adfast {

Rectangle inspected_part(const FrameGeometry& geometry, int64_t height, int64_t width) {
  const auto edge = [](int64_t position, int64_t frame, int64_t resized) {
    // Half up, in integers, so that every language computes the same pixel.
    return (2 * position * frame + resized) / (2 * resized);
  };
  Rectangle part;
  part.top = std::min(edge(geometry.top(), height, geometry.resize_height), height - 1);
  part.left = std::min(edge(geometry.left(), width, geometry.resize_width), width - 1);
  part.bottom = edge(geometry.top() + geometry.crop_height, height, geometry.resize_height);
  part.right = edge(geometry.left() + geometry.crop_width, width, geometry.resize_width);
  part.bottom = std::clamp(part.bottom, part.top + 1, height);
  part.right = std::clamp(part.right, part.left + 1, width);
  return part;
}

ResampleWeights resample_weights(int64_t source, int64_t resized, int64_t begin, int64_t count,
                                 bool antialias) {
  const float scale = static_cast<float>(source) / static_cast<float>(resized);
  const float support = antialias ? std::max(scale, 1.0f) : 1.0f;
  const float inverse = 1.0f / support;
  ResampleWeights axis;
  axis.taps = static_cast<int32_t>(
      std::min<int64_t>(source, static_cast<int64_t>(std::ceil(support)) * 2 + 1));
  axis.first.resize(count);
  axis.weight.assign(count * axis.taps, 0.0f);
  for (int64_t i = 0; i < count; ++i) {
    const float centre = scale * (static_cast<float>(begin + i) + 0.5f);
    const auto low = std::max<int64_t>(static_cast<int64_t>(centre - support + 0.5f), 0);
    const auto high = std::min<int64_t>(static_cast<int64_t>(centre + support + 0.5f), source);
    // The window may be shorter than `taps`: it is moved inside the source, its weights with it.
    const int64_t first = std::min<int64_t>(low, source - axis.taps);
    float* weight = axis.weight.data() + i * axis.taps + (low - first);
    float sum = 0;
    for (int64_t j = low; j < high; ++j) {
      const float distance = std::abs((static_cast<float>(j) - centre + 0.5f) * inverse);
      weight[j - low] = std::max(0.0f, 1.0f - distance);
      sum += weight[j - low];
    }
    for (int64_t j = low; j < high; ++j) weight[j - low] /= sum;
    axis.first[i] = static_cast<int32_t>(first);
  }
  return axis;
}

void FrameInput::set(const FrameView& frame, size_t scratch_floats) {
  view_ = made_readable(frame, &pixels_);
  if (scratch_.size() < scratch_floats) scratch_.resize(scratch_floats);
  resize_for(frame.height, frame.width);
}

void FrameInput::resize_for(int64_t height, int64_t width) {
  if (height == height_ && width == width_) return;
  rows_ = resample_weights(height, geometry_.resize_height, geometry_.top(), geometry_.crop_height,
                           geometry_.antialias);
  columns_ = resample_weights(width, geometry_.resize_width, geometry_.left(), geometry_.crop_width,
                              geometry_.antialias);
  height_ = height;
  width_ = width;
}

}  // namespace adfast
