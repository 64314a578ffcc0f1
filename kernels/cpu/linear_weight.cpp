// Packs the matrices of `linear`, once at load.
#include "kernels.h"
#include "layout.h"

namespace adfast::kernels {

int64_t linear_panels(int64_t width) { return (width + kLinearPanel - 1) / kLinearPanel; }

static int64_t row_bytes(int64_t depth, DType x_dtype) {
  return depth * (x_dtype == DType::u8 ? 1 : 2);
}
constexpr int64_t kStepBytes = 64;

size_t linear_weight_bytes(int64_t width, int64_t depth, DType x_dtype) {
  const int64_t steps = (row_bytes(depth, x_dtype) + kStepBytes - 1) / kStepBytes;
  return static_cast<size_t>(linear_panels(width) * steps * 32 * kStepBytes);
}

// Each panel holds [steps of depth][2][16][16] words of four bytes: a word is what one output
// multiplies with neighbours of depth, zeros past the last.
void linear_weight(const void* weight, int64_t width, int64_t depth, DType x_dtype, void* packed) {
  const int64_t stride = row_bytes(depth, x_dtype);
  const auto* rows = static_cast<const char*>(weight);
  auto* tile = static_cast<char*>(packed);
  for (int64_t panel = 0; panel < linear_panels(width); panel++) {
    for (int64_t at = 0; at < stride; at += kStepBytes) {
      for (int64_t half = 0; half < 2; half++, tile += 16 * kStepBytes) {
        for (int64_t column = 0; column < 16; column++) {
          const int64_t row = panel * 32 + half * 16 + column;
          char line[kStepBytes] = {};
          if (row < width) {
            const int64_t left = stride - at;
            __builtin_memcpy(line, rows + row * stride + at,
                             static_cast<size_t>(left < kStepBytes ? left : kStepBytes));
          }
          for (int64_t word = 0; word < 16; word++) {
            __builtin_memcpy(tile + (word * 16 + column) * 4, line + word * 4, 4);
          }
        }
      }
    }
  }
}

}  // namespace adfast::kernels
