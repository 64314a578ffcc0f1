// Convolutions by Winograd's algorithm, where it is expected to be faster than oneDNN's.
#pragma once
#include <memory>

#include "backends/cpu/backend.h"

namespace adfast::cpu {

// A convolution that was checked; x and y are [1,C,H,W].
struct SquareConvolution {
  const Tensor& weight;    // [O,I,k,k]
  const Tensor* bias;      // [O] or null
  const Tensor* residual;  // as y, or null
  const Shape& x;
  const Shape& y;
  int64_t top, left;
};

// Null where another algorithm is expected to be faster. Stride and dilation must be 1, groups 1.
std::unique_ptr<Operator> make_winograd(const OperatorRequest& request, const Device& device,
                                        const SquareConvolution& convolution);

}  // namespace adfast::cpu
