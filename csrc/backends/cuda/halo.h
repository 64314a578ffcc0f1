// Halo attention on a card: by Triton's kernel where one suits the sizes, else by ours.
#pragma once
#include <cuda_runtime_api.h>

#include "backends/cuda/triton.h"
#include "kernels/cuda/kernels.h"

namespace adfast::cuda {

// The variant of kernels/triton/halo_attention.py for these sizes, or null.
const TritonKernel* triton_halo_attention(const kernels::cuda::HaloAttentionArgs& args,
                                          TritonKernels& triton);
// By `fast` where it is not null.
cudaError_t launch_halo_attention(const TritonKernel* fast,
                                  const kernels::cuda::HaloAttentionArgs& args,
                                  cudaStream_t stream);

}  // namespace adfast::cuda
