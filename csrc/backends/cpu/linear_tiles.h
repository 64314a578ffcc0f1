// Linears, and convolutions of 1 x 1, by AMX's tiles.
#pragma once
#include <memory>

#include "backends/cpu/backend.h"

namespace adfast::cpu {

// Null where oneDNN has to do it.
std::unique_ptr<Operator> make_linear_tiles(const OperatorRequest& request, const Device& device,
                                            const nodes::Linear& linear);

}  // namespace adfast::cpu
