// Linears and convolutions of 1 x 1 by AMX's tiles.
#pragma once
#include <memory>

#include "backends/cpu/backend.h"

namespace adfast::cpu {

// Null where oneDNN has to do it.
std::unique_ptr<Operator> make_linear_tiles(const OperatorRequest& request, const Device& device,
                                            const nodes::Linear& linear);
// The kernel must be 1x1, groups 1, the window dense.
std::unique_ptr<Operator> make_linear_tiles(const OperatorRequest& request, const Device& device,
                                            const nodes::Convolution& convolution);

}  // namespace adfast::cpu
