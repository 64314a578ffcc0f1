// CUDA's C++ as plain C++: kernels are functions, a launch becomes work that the emulated runtime
// runs thread by thread (fibers.cpp).
//
// Static __shared__ variables are not emulated: kernels take all their shared memory dynamically,
// through the one array `adfast_shared`, whose size the emulator knows and whose bounds it checks.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#include <functional>
#include <tuple>
#include <utility>

#include "cuda_runtime_api.h"

#define __global__
#define __device__
#define __host__
#define __shared__
#define __forceinline__ inline
#define __launch_bounds__(...)

// Which thread runs at the moment.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// Runs `work` when its turn comes on the stream, or records it if the stream is being captured.
// What it returns becomes the error of the next synchronisation.
cudaError_t emulated_enqueue(cudaStream_t stream, std::function<cudaError_t()> work);

// Checks the configuration and enqueues the kernel.
cudaError_t emulated_launch(const cudaLaunchConfig_t& config, const void* kernel,
                            size_t parameter_bytes, std::function<void()> thread);

// In which order the threads of a block run between barriers: kernels must not depend on it.
enum class EmulatedOrder { forward, backward };
void emulated_set_order(EmulatedOrder order);

void emulated_syncthreads(const char* file, int line);
void emulated_syncwarp(const char* file, int line);
// Every lane gives a value and takes that of lane `from`.
uint32_t emulated_shuffle(unsigned mask, uint32_t value, int from, const char* file, int line);
int emulated_lane();

inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulated_syncthreads(file, line);
}
inline void __syncwarp(unsigned = 0xffffffffu, const char* file = __builtin_FILE(),
                       int line = __builtin_LINE()) {
  emulated_syncwarp(file, line);
}

template <class T>
T emulated_shuffle_as(unsigned mask, T value, int from, const char* file, int line) {
  static_assert(sizeof(T) == 4, "only 32 bits are exchanged");
  uint32_t bits;
  memcpy(&bits, &value, 4);
  bits = emulated_shuffle(mask, bits, from, file, line);
  memcpy(&value, &bits, 4);
  return value;
}
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32, const char* file = __builtin_FILE(),
              int line = __builtin_LINE()) {
  const int lane = emulated_lane(), base = lane / width * width;
  return emulated_shuffle_as(mask, value, base + (from & (width - 1)), file, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32,
                  const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const int lane = emulated_lane(), from = lane ^ flip, last = lane / width * width + width - 1;
  return emulated_shuffle_as(mask, value, from > last ? lane : from, file, line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32,
                   const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const int lane = emulated_lane(), last = lane / width * width + width - 1;
  const int from = lane + static_cast<int>(by);
  return emulated_shuffle_as(mask, value, from > last ? lane : from, file, line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32,
                 const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  const int lane = emulated_lane(), first = lane / width * width;
  const int from = lane - static_cast<int>(by);
  return emulated_shuffle_as(mask, value, from < first ? lane : from, file, line);
}

inline float __expf(float v) { return expf(v); }
inline float __fdividef(float a, float b) { return a / b; }
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

template <class T>
T __ldg(const T* p) {
  return *p;
}

template <class T>
cudaError_t cudaMalloc(T** pointer, size_t bytes) {
  return cudaMalloc(reinterpret_cast<void**>(pointer), bytes);
}
template <class T>
cudaError_t cudaMallocHost(T** pointer, size_t bytes, unsigned = 0) {
  return cudaMallocHost(reinterpret_cast<void**>(pointer), bytes);
}
template <class... Params>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Params...), cudaFuncAttribute attribute,
                                 int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
template <class... Params, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...),
                               Args&&... args) {
  std::tuple<Params...> values(std::forward<Args>(args)...);
  return emulated_launch(*config, reinterpret_cast<const void*>(kernel), sizeof(values),
                         [kernel, values] { std::apply(kernel, values); });
}
