// Between row-major order, as callers have it, and storage, which is channels-last.
#pragma once
#include "core/tensor.h"

namespace adfast {

// Visits (row-major index, stored index) of every element.
template <class Visit>
void for_each_element(const Shape& shape, Visit visit) {
  if (shape.size() != 4) {
    for (int64_t i = 0; i < element_count(shape); ++i) visit(i, i);
    return;
  }
  const int64_t channels = shape[1], pixels = shape[2] * shape[3];
  for (int64_t n = 0; n < shape[0]; ++n) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t p = 0; p < pixels; ++p) {
        visit((n * channels + c) * pixels + p, (n * pixels + p) * channels + c);
      }
    }
  }
}

}  // namespace adfast
