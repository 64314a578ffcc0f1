// Inverted bottlenecks up to their gates, a convolution of 1x1 and a depthwise one, in one step.
#pragma once
#include <memory>

#include "backends/cpu/backend.h"

namespace adfast::cpu {

// Two nodes conv2d of which the second alone reads the first's result. Null where they are not such
// a pair, or where it is faster to compute them apart.
std::unique_ptr<Operator> make_expand_depthwise(const OperatorRequest& expand,
                                                const OperatorRequest& depthwise,
                                                const Device& device);

}  // namespace adfast::cpu
