// Depthwise convolutions by our kernel, where it has one.
#pragma once
#include <memory>

#include "backends/cpu/backend.h"

namespace adfast::cpu {

// Null where oneDNN has to do it. Groups must be as many as channels, dilation 1.
std::unique_ptr<Operator> make_depthwise(const OperatorRequest& request, const Device& device,
                                         const nodes::Convolution& convolution);

}  // namespace adfast::cpu
