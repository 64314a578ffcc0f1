// Runs a plan's graph once on plain tensors: how ops are tested one by one.
#pragma once
#include <map>
#include <string>

#include "runtime/operator.h"
#include "runtime/raw_values.h"

namespace adfast {

std::map<std::string, RawOutput> run_raw(const std::string& path, const RawInputs& inputs,
                                         const CpuOptions& options, int lanes);

}  // namespace adfast
