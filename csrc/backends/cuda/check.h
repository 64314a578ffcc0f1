// What becomes of a status of CUDA's.
#pragma once
#include <cuda_runtime_api.h>

namespace adfast::cuda {

// Throws ErrorKind::run naming what was done, except where memory ran out: the message says so.
void check(cudaError_t status, const char* what);

}  // namespace adfast::cuda
