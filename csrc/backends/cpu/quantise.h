// Weights in int8.
#pragma once
#include <vector>

#include "runtime/operator.h"

namespace adfast::cpu {

// Input 1 as s8, with one scale for each of its rows (output channels): value = scale * s8.
struct QuantisedWeight {
  std::vector<int8_t> values;
  std::vector<float> scales;
};
// Throws ErrorKind::plan where a weight is not finite.
QuantisedWeight quantised_weight(const OperatorRequest& request);

// Products in int8 for every one in f32, as measured in the networks, not at their best.
struct Int8Rates {
  double convolutions, linears;
};
Int8Rates int8_rates();

}  // namespace adfast::cpu
