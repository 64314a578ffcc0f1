#include "backends/cuda/triton.h"

#include "backends/cuda/check.h"
#include "triton_kernels.h"

namespace adfast::cuda {
namespace {

const triton_kernels::Kernel* best(const std::string& name, int capability) {
  const triton_kernels::Kernel* found = nullptr;
  for (size_t i = 0; i < triton_kernels::kKernelCount; ++i) {
    const auto& kernel = triton_kernels::kKernels[i];
    const bool runs = kernel.exact
                          ? kernel.target == capability
                          : kernel.target / 10 == capability / 10 && kernel.target <= capability;
    if (runs && name == kernel.name && (found == nullptr || kernel.target > found->target)) {
      found = &kernel;
    }
  }
  return found;
}

}  // namespace

struct TritonKernels::Loaded {
  cudaLibrary_t library = nullptr;
  TritonKernel kernel;
};

TritonKernels::TritonKernels(int capability) : capability_(capability) {}

TritonKernels::~TritonKernels() {
  for (const auto& [name, loaded] : loaded_) {
    if (loaded != nullptr) cudaLibraryUnload(loaded->library);
  }
}

const TritonKernel* TritonKernels::find(const std::string& name) {
  const auto known = loaded_.find(name);
  if (known != loaded_.end()) return known->second == nullptr ? nullptr : &known->second->kernel;
  auto& loaded = loaded_[name];
  const triton_kernels::Kernel* kernel = best(name, capability_);
  if (kernel == nullptr) return nullptr;
  auto made = std::make_unique<Loaded>();
  check(
      cudaLibraryLoadData(&made->library, kernel->cubin, nullptr, nullptr, 0, nullptr, nullptr, 0),
      "loading a kernel");
  cudaKernel_t function = nullptr;
  check(cudaLibraryGetKernel(&function, made->library, kernel->entry), "finding a kernel");
  made->kernel.function = reinterpret_cast<const void*>(function);
  made->kernel.threads = static_cast<unsigned>(kernel->threads);
  made->kernel.shared = static_cast<size_t>(kernel->shared);
  for (const auto* c = kernel->constants; c->name != nullptr; ++c) {
    made->kernel.constants[c->name] = c->value;
  }
  // Without being asked, a block has 48 kB.
  if (kernel->shared > 48 << 10) {
    check(cudaFuncSetAttribute(made->kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               kernel->shared),
          "reserving shared memory");
  }
  loaded = std::move(made);
  return &loaded->kernel;
}

cudaError_t TritonKernel::launch(dim3 grid, std::vector<void*> arguments,
                                 cudaStream_t stream) const {
  void* none = nullptr;
  arguments.push_back(&none);
  arguments.push_back(&none);
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  return cudaLaunchKernelExC(&config, function, arguments.data());
}

}  // namespace adfast::cuda
