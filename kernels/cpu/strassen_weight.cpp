// The right operands of Strassen's seven products, once at load.
#include "kernels.h"
#include "operand_panels.h"

namespace adfast::kernels {

int64_t strassen_panels(int64_t width) { return winograd_panels(width / 2); }

size_t strassen_weight_size(int64_t width, int64_t depth, DType operands) {
  return kStrassenProducts * winograd_weight_size(width / 2, depth / 2, 1, 1, operands);
}

// packed[panel][product]; zero past the last output.
void strassen_weight(const float* weight, int64_t width, int64_t depth, DType operands,
                     void* packed) {
  const bool pairs = operands == DType::bf16;
  const int64_t outputs = width / 2, inputs = depth / 2, words = words_of(inputs, pairs);
  auto* to = static_cast<uint32_t*>(packed);
  for (int64_t panel = 0; panel < strassen_panels(width); panel++) {
    for (int64_t i = 0; i < inputs; i++) {
      for (int64_t k = 0; k < kChannelPanel; k++) {
        const int64_t output = panel * kChannelPanel + k;
        // Halves of the outputs and of the inputs.
        float low_low = 0, low_high = 0, high_low = 0, high_high = 0;
        if (output < outputs) {
          const float *low = weight + output * depth + i, *high = low + outputs * depth;
          low_low = low[0];
          low_high = low[inputs];
          high_low = high[0];
          high_high = high[inputs];
        }
        // In the order of left_parts in strassen.h.
        const float parts[kStrassenProducts] = {
            low_low + high_high, low_low,   high_low - high_high,
            low_high - low_low,  high_high, low_low + high_low,
            low_high + high_high};
        for (int64_t p = 0; p < kStrassenProducts; p++) {
          put_operand(to + (panel * kStrassenProducts + p) * words * kChannelPanel, words, pairs, i,
                      k, parts[p]);
        }
      }
    }
  }
}

}  // namespace adfast::kernels
