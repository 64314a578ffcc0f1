// Packs the matrices of `linear`, once at load.
#include "kernels.h"
#include "layout.h"

namespace adfast::kernels {

int64_t linear_panels(int64_t width) { return (width + 31) / 32; }

// Each panel holds [steps of depth][2][16][16] words of four bytes: a word is what one output
// multiplies with neighbours of depth, zeros past the last.
size_t linear_weight_bytes(int64_t width, int64_t depth, DType x_dtype) {
  const int64_t step = x_dtype == DType::u8 ? 64 : 32;
  return static_cast<size_t>(linear_panels(width) * ((depth + step - 1) / step) * 2048);
}

template <class T>
static void pack(const T* weight, int64_t width, int64_t depth, T* packed) {
  constexpr int64_t in_word = 4 / static_cast<int64_t>(sizeof(T)), step = 16 * in_word;
  const int64_t steps = (depth + step - 1) / step;
  for (int64_t panel = 0; panel < linear_panels(width); panel++) {
    for (int64_t s = 0; s < steps; s++) {
      for (int64_t half = 0; half < 2; half++) {
        for (int64_t word = 0; word < 16; word++) {
          for (int64_t column = 0; column < 16; column++) {
            const int64_t row = panel * 32 + half * 16 + column;
            for (int64_t i = 0; i < in_word; i++) {
              const int64_t at = s * step + word * in_word + i;
              *packed++ = row < width && at < depth ? weight[row * depth + at] : T{0};
            }
          }
        }
      }
    }
  }
}

void linear_weight(const void* weight, int64_t width, int64_t depth, DType x_dtype, void* packed) {
  if (x_dtype == DType::u8) {
    pack(static_cast<const int8_t*>(weight), width, depth, static_cast<int8_t*>(packed));
  } else {
    pack(static_cast<const uint16_t*>(weight), width, depth, static_cast<uint16_t*>(packed));
  }
}

}  // namespace adfast::kernels
