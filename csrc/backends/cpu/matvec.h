// Convolutions of a single pixel: the gates of squeeze-and-excite.
#pragma once
#include <memory>

#include "backends/cpu/backend.h"

namespace adfast::cpu {

// Null where oneDNN has to do it. The kernel must be 1x1, groups 1.
std::unique_ptr<Operator> make_matvec(const OperatorRequest& request, const Device& device,
                                      const nodes::Convolution& convolution);

}  // namespace adfast::cpu
