// Depthwise convolutions by our own kernel.
#pragma once
#include <memory>
#include <optional>
#include <vector>

#include "backends/cpu/backend.h"

namespace adfast::cpu {

// Null where the kernel has no such convolution, or is not to be used.
std::unique_ptr<Operator> make_depthwise(const OperatorRequest& request, const Device& device,
                                         const nodes::Convolution& convolution);

// What the kernel is told of a convolution, without addresses and for all rows; none: as above.
std::optional<kernels::DepthwiseArgs> depthwise_args(const OperatorRequest& request,
                                                     const Device& device,
                                                     const nodes::Convolution& convolution);
// [channels][1][kernel][kernel] to [kernel][kernel][channels].
std::vector<float> depthwise_weight(const Tensor& weight);

}  // namespace adfast::cpu
