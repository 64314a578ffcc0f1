// Without Triton's kernels, as on the emulator: every caller has another way.
#include "backends/cuda/triton.h"

namespace adfast::cuda {

struct TritonKernels::Loaded {};

TritonKernels::TritonKernels(int capability) : capability_(capability) {}
TritonKernels::~TritonKernels() = default;
const TritonKernel* TritonKernels::find(const std::string&) { return nullptr; }

cudaError_t TritonKernel::launch(dim3, std::vector<void*>, cudaStream_t) const {
  return cudaErrorUnknown;
}

}  // namespace adfast::cuda
