#include "backends/cuda/check.h"

#include <string>

#include "core/error.h"

namespace adfast::cuda {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  if (status == cudaErrorMemoryAllocation) {
    throw Error(ErrorKind::run, std::string("[cuda] out of device memory while ") + what +
                                    "; close what else uses the card, or load fewer plans on it");
  }
  throw Error(ErrorKind::run,
              std::string("[cuda] ") + what + " failed: " + cudaGetErrorString(status));
}

}  // namespace adfast::cuda
