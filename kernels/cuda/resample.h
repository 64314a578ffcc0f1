// Where an output falls among the inputs of a bilinear resizing, as torch's interpolate places it.
#pragma once
#include "device.h"

namespace adfast::kernels::cuda {

struct Place {
  int first, next;
  float fraction;
};

// In whole numbers: at = (index + 1/2) size / out_size - 1/2 is a fraction with the denominator 2
// out_size. In f32, `at` would lose digits that the maps' differences need.
__device__ __forceinline__ Place place(int index, int size, int out_size, bool align_corners) {
  int64_t numerator, denominator;
  if (align_corners) {
    numerator = int64_t{index} * (size - 1);
    denominator = out_size > 1 ? out_size - 1 : 1;
  } else {
    numerator = (2 * int64_t{index} + 1) * size - out_size;
    denominator = 2 * int64_t{out_size};
  }
  const Division at = divide(numerator < 0 ? 0 : numerator, denominator);
  const int first = static_cast<int>(at.quotient);
  if (first >= size - 1) return {size - 1, size - 1, 0.0f};
  return {first, first + 1, static_cast<float>(at.remainder) / static_cast<float>(denominator)};
}

__device__ __forceinline__ float between(float a, float b, float fraction) {
  return a + fraction * (b - a);
}

}  // namespace adfast::kernels::cuda
