// Kernels that Triton compiled ahead of time (kernels/triton): attention on tensor cores.
#pragma once
#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace adfast::cuda {

// One variant on the device.
struct TritonKernel {
  const void* function = nullptr;  // what cudaLaunchKernelExC takes
  unsigned threads = 0;
  size_t shared = 0;                         // bytes
  std::map<std::string, int64_t> constants;  // by the names of manifest.json

  // `arguments` points to each argument in order, Triton's two scratch pointers left out.
  cudaError_t launch(dim3 grid, std::vector<void*> arguments, cudaStream_t stream) const;
};

class TritonKernels {
 public:
  // `capability`: 90 for compute capability 9.0.
  explicit TritonKernels(int capability);
  ~TritonKernels();
  TritonKernels(const TritonKernels&) = delete;
  TritonKernels& operator=(const TritonKernels&) = delete;

  // The variant of that name, loaded when first asked for; null where none suits the device.
  const TritonKernel* find(const std::string& name);

 private:
  struct Loaded;
  int capability_;
  std::map<std::string, std::unique_ptr<Loaded>> loaded_;
};

}  // namespace adfast::cuda
