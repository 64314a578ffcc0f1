// Convolutions by Winograd's algorithm, where it is expected to be faster than oneDNN's.
#pragma once
#include <memory>

#include "backends/cpu/backend.h"

namespace adfast::cpu {

// Null where another algorithm is expected to be faster. Stride and dilation must be 1, groups 1.
std::unique_ptr<Operator> make_winograd(const OperatorRequest& request, const Device& device,
                                        const nodes::Convolution& convolution);

}  // namespace adfast::cpu
