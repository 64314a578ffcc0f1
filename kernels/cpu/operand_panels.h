// Panels of constant matrices in the order in which multiply_panel reads them, written once at
// load. Included by files that are compiled for any processor.
#pragma once
#include "layout.h"

namespace adfast::kernels {

// Rounded to the nearest, ties to even; a NaN stays one.
static inline uint16_t to_bf16(float v) {
  uint32_t bits;
  __builtin_memcpy(&bits, &v, 4);
  if (v != v) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// What output k of a panel of `words` words of depth multiplies input i with: [part of the
// panel][input][output of the part], in bf16 with two inputs next to each other for every output.
static inline void put_operand(void* panel, int64_t words, bool pairs, int64_t i, int64_t k,
                               float value) {
  const int64_t part = k / kPanelColumns, column = k % kPanelColumns;
  const int64_t word = (part * words + (pairs ? i / 2 : i)) * kPanelColumns + column;
  if (pairs) {
    static_cast<uint16_t*>(panel)[2 * word + i % 2] = to_bf16(value);
  } else {
    static_cast<float*>(panel)[word] = value;
  }
}

}  // namespace adfast::kernels
