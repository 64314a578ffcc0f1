// Linears, and convolutions of 1 x 1, by Strassen's algorithm, where it is expected to be faster
// than oneDNN's.
#pragma once
#include <memory>

#include "backends/cpu/backend.h"

namespace adfast::cpu {

// Null where another algorithm is expected to be faster.
std::unique_ptr<Operator> make_strassen(const OperatorRequest& request, const Device& device,
                                        const nodes::Linear& linear);

}  // namespace adfast::cpu
