// Plain tensors, as callers have them, on their way into a program's memory and out of it.
#pragma once
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "runtime/program.h"

namespace adfast {

struct RawInput {
  Shape shape;
  std::span<const float> values;  // row-major, rank 4 as NCHW
};
struct RawOutput {
  Shape shape;
  std::vector<float> values;
};
using RawInputs = std::map<std::string, RawInput>;

// Throws ErrorKind::argument when they are not the graph's.
void check_inputs(const Program& program, const RawInputs& inputs);

// In the order in which a program stores elements: rank 4 channels-last.
std::vector<float> in_storage(const RawInput& input);
// `stored`: the elements of a tensor of that shape.
RawOutput in_row_major(const Shape& shape, const float* stored);

}  // namespace adfast
