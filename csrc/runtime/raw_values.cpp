#include "runtime/raw_values.h"

#include "core/error.h"

namespace adfast {
namespace {

// Visits (row-major index, stored index) of every element.
template <class Visit>
void for_each_element(const Shape& shape, Visit visit) {
  if (shape.size() != 4) {
    for (int64_t i = 0; i < element_count(shape); ++i) visit(i, i);
    return;
  }
  const int64_t channels = shape[1], pixels = shape[2] * shape[3];
  for (int64_t n = 0; n < shape[0]; ++n) {
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t p = 0; p < pixels; ++p) {
        visit((n * channels + c) * pixels + p, (n * pixels + p) * channels + c);
      }
    }
  }
}

}  // namespace

void check_inputs(const Program& program, const RawInputs& inputs) {
  if (inputs.size() != program.inputs().size()) {
    throw Error(ErrorKind::argument, "the graph has " + std::to_string(program.inputs().size()) +
                                         " inputs, got " + std::to_string(inputs.size()));
  }
  for (int32_t id : program.inputs()) {
    const Tensor& tensor = program.tensors()[id];
    const auto given = inputs.find(tensor.name);
    if (given == inputs.end() || given->second.shape != tensor.shape) {
      throw Error(ErrorKind::argument,
                  "input '" + tensor.name + "': expected " + to_string(tensor.shape) + ", got " +
                      (given == inputs.end() ? "nothing" : to_string(given->second.shape)));
    }
  }
}

std::vector<float> in_storage(const RawInput& input) {
  std::vector<float> stored(input.values.size());
  for_each_element(input.shape,
                   [&](int64_t plain, int64_t place) { stored[place] = input.values[plain]; });
  return stored;
}

RawOutput in_row_major(const Shape& shape, const float* stored) {
  RawOutput output{shape, std::vector<float>(static_cast<size_t>(element_count(shape)))};
  for_each_element(shape,
                   [&](int64_t plain, int64_t place) { output.values[plain] = stored[place]; });
  return output;
}

}  // namespace adfast
