// Runs a plan's graph once on plain tensors: how ops are tested one by one.
#pragma once
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "runtime/operator.h"
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

std::map<std::string, RawOutput> run_raw(const std::string& path, const RawInputs& inputs,
                                         const CpuOptions& options, int lanes);

}  // namespace adfast
