// Convolutions by Winograd's algorithm, where it is expected to be faster than oneDNN's.
#pragma once
#include <memory>

#include "backends/cpu/backend.h"

namespace adfast::cpu {

// Null where another algorithm is expected to be faster. Stride and dilation must be 1, groups 1.
std::unique_ptr<Operator> make_winograd(const OperatorRequest& request, const Device& device,
                                        const nodes::Convolution& convolution);

// Whether make_winograd takes the step, which then may write u8 as well; its input is settled.
bool runs_by_winograd(const OperatorRequest& request, const Device& device);

// Whether a step that could run in int8 is expected to be faster, and keeps more digits, as above.
bool winograd_beats_int8(const OperatorRequest& request, const Device& device);

}  // namespace adfast::cpu
