#include "backends/cpu/quantise.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "backends/cpu/onednn.h"

namespace adfast::cpu {
namespace {

// Without VNNI, two products of u8 and s8 are added in 16 bits, and clipped there: 2 * 255 * 64
// just fits. (oneDNN, "Nuances of int8 computations".)
float largest_weight() { return onednn_has_vnni() ? 127.0f : 64.0f; }

}  // namespace

// Without VNNI one instruction becomes three. AVX2 still does twice the work of floats by them, as
// was measured on Zen 3; Zen and Zen 2 issue two of them half as often as products of floats, and
// with AVX-512 all three share two ports.
Int8Rates int8_rates() {
  if (onednn_has_vnni()) return {3.5, 3.5};
  if (__builtin_cpu_is("znver1") || __builtin_cpu_is("znver2")) return {1, 0.6};
  if (onednn_has(dnnl::cpu_isa::avx512_core)) return {1.3, 1.3};
  return {2.3, 2.1};
}

QuantisedWeight quantised_weight(const OperatorRequest& request) {
  const float limit = largest_weight();
  const Tensor& weight = *request.inputs[1];
  const auto* values = reinterpret_cast<const float*>(weight.data.data());
  const size_t count = weight.data.size() / sizeof(float);
  const auto rows = static_cast<size_t>(weight.shape[0]);
  const size_t width = count / rows;
  QuantisedWeight result{std::vector<int8_t>(count), std::vector<float>(rows)};
  for (size_t row = 0; row < rows; ++row) {
    const float* from = values + row * width;
    int8_t* to = result.values.data() + row * width;
    float largest = 0;
    bool finite = true;
    for (size_t i = 0; i < width; ++i) {
      finite &= std::abs(from[i]) <= std::numeric_limits<float>::max();
      largest = std::max(largest, std::abs(from[i]));
    }
    if (!finite) {
      nodes::refuse(request.node,
                    "weight '" + weight.name + "' is not finite, so it cannot be quantised");
    }
    // Rows of zeros, or of next to nothing.
    const float scale = result.scales[row] = std::max(largest, 1e-18f) / limit;
    // Adding 1.5 * 2^23 leaves no bits behind the point: to the nearest integer, ties to even.
    constexpr float whole = 12582912.0f;
    for (size_t i = 0; i < width; ++i) {
      to[i] = static_cast<int8_t>(static_cast<int>(from[i] / scale + whole - whole));
    }
  }
  return result;
}

}  // namespace adfast::cpu
