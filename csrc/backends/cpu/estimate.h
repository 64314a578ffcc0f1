// What the algorithms for a step are compared by: seconds on one core, as far as they are needed to
// choose. The rates are those of a processor with AVX-512 at 2.5 GHz; what is chosen must not
// depend on what else a machine does at that moment.
#pragma once
#include <cstddef>

namespace adfast::cpu {

constexpr double flops_per_second = 1.5e11;
constexpr double bytes_per_second = 1e10;  // of weights, which come from memory

// By oneDNN, with operands of `size` bytes that it multiplies `rate` times as fast as floats.
inline double direct_seconds(double flops, double weights, double rate, size_t size) {
  return flops / (0.9 * flops_per_second * rate) +
         weights * static_cast<double>(size) / bytes_per_second;
}

}  // namespace adfast::cpu
