// The emulator itself: what it must find wrong, and the runtime's rules that the backend relies on.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmath>
#include <string>
#include <vector>

extern __shared__ float4 adfast_shared[];

static int failures = 0;
#define CHECK(condition)                                     \
  do {                                                       \
    if (!(condition)) {                                      \
      printf("%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      failures++;                                            \
    }                                                        \
  } while (false)

namespace {

template <class... Params, class... Args>
cudaError_t launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t bytes,
                   cudaStream_t stream, Args... args) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, args...);
}

__global__ void reverse(float* x, bool barrier) {
  float* shared = reinterpret_cast<float*>(adfast_shared);
  shared[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
  if (barrier) __syncthreads();
  x[blockIdx.x * blockDim.x + threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

__global__ void lanes(int* out) {
  const int lane = static_cast<int>(threadIdx.x) % 32, value = static_cast<int>(threadIdx.x);
  out[threadIdx.x * 4] = __shfl_sync(0xffffffffu, value, 5);
  out[threadIdx.x * 4 + 1] = __shfl_xor_sync(0xffffffffu, value, 3);
  out[threadIdx.x * 4 + 2] = __shfl_down_sync(0xffffffffu, value, 2);
  out[threadIdx.x * 4 + 3] = __shfl_up_sync(0xffffffffu, lane, 1);
}

__global__ void who(int* out) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] += static_cast<int>(thread + 1);
}

__global__ void some_leave() {
  if (threadIdx.x > 40) return;
  __syncthreads();
}
__global__ void two_places() {
  if (threadIdx.x % 2) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
__global__ void half_warp() {
  if (threadIdx.x < 16) __syncwarp();
}
__global__ void beyond_shared(size_t at) { reinterpret_cast<char*>(adfast_shared)[at] = 1; }
__global__ void add(float* x, float v) { *x += v; }

void test_kernels() {
  for (auto order : {EmulatedOrder::forward, EmulatedOrder::backward}) {
    emulated_set_order(order);
    for (bool barrier : {true, false}) {
      std::vector<float> x(192), y(192);
      for (size_t i = 0; i < 192; i++) x[i] = static_cast<float>(i);
      float* device;
      CHECK(cudaMalloc(&device, 192 * 4) == cudaSuccess);
      CHECK(cudaMemcpy(device, x.data(), 192 * 4, cudaMemcpyHostToDevice) == cudaSuccess);
      CHECK(launch(reverse, 2, 96, 96 * 4, nullptr, device, barrier) == cudaSuccess);
      CHECK(cudaMemcpy(y.data(), device, 192 * 4, cudaMemcpyDeviceToHost) == cudaSuccess);
      bool right = true;
      for (size_t i = 0; i < 192; i++) right = right && y[i] == x[i / 96 * 96 + 95 - i % 96];
      CHECK(right == barrier);  // without one, half of the threads read what is not there yet
      CHECK(cudaFree(device) == cudaSuccess);
    }
    int* out;
    int got[256];
    CHECK(cudaMalloc(&out, sizeof got) == cudaSuccess);
    CHECK(launch(lanes, 1, 64, 0, nullptr, out) == cudaSuccess);
    CHECK(cudaMemcpy(got, out, sizeof got, cudaMemcpyDeviceToHost) == cudaSuccess);
    for (int t = 0; t < 64; t++) {
      CHECK(got[t * 4] == t / 32 * 32 + 5);
      CHECK(got[t * 4 + 1] == (t ^ 3));
      CHECK(got[t * 4 + 2] == (t % 32 < 30 ? t + 2 : t));
      CHECK(got[t * 4 + 3] == (t % 32 ? t % 32 - 1 : 0));
    }
    CHECK(cudaMemset(out, 0, sizeof got) == cudaSuccess);
    CHECK(launch(who, dim3(2, 3, 2), dim3(3, 2, 2), 0, nullptr, out) == cudaSuccess);
    CHECK(cudaMemcpy(got, out, sizeof got, cudaMemcpyDeviceToHost) == cudaSuccess);
    for (int i = 0; i < 144; i++) CHECK(got[i] == i % 12 + 1);
    CHECK(cudaFree(out) == cudaSuccess);
  }
}

void test_launches() {
  CHECK(launch(who, 0, 32, 0, nullptr, nullptr) == cudaErrorInvalidConfiguration);
  CHECK(launch(who, 1, 1025, 0, nullptr, nullptr) == cudaErrorInvalidConfiguration);
  CHECK(launch(who, dim3(1, 65536), 32, 0, nullptr, nullptr) == cudaErrorInvalidConfiguration);
  CHECK(launch(some_leave, 1, 32, 50000, nullptr) == cudaErrorInvalidValue);
  CHECK(cudaFuncSetAttribute(some_leave, cudaFuncAttributeMaxDynamicSharedMemorySize, 50000) ==
        cudaSuccess);
  CHECK(launch(some_leave, 1, 32, 50000, nullptr) == cudaSuccess);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  CHECK(cudaGetLastError() == cudaErrorInvalidValue);
  CHECK(cudaGetLastError() == cudaSuccess);
}

void test_memory() {
  size_t before, free, total;
  CHECK(cudaMemGetInfo(&before, &total) == cudaSuccess);
  CHECK(total == size_t{8} << 20);
  char *p, *q;
  CHECK(cudaMalloc(&p, 5 << 20) == cudaSuccess);
  CHECK(cudaMemGetInfo(&free, &total) == cudaSuccess && free == before - (5 << 20));
  CHECK(cudaMalloc(&q, 4 << 20) == cudaErrorMemoryAllocation && q == nullptr);
  CHECK(cudaMalloc(&q, 3 << 20) == cudaSuccess);
  CHECK(cudaFree(p) == cudaSuccess && cudaFree(q) == cudaSuccess);
  CHECK(cudaFree(q) == cudaErrorInvalidValue);
  CHECK(cudaFree(nullptr) == cudaSuccess);
  CHECK(cudaMemGetInfo(&free, &total) == cudaSuccess && free == before);
  char host[16];
  CHECK(cudaMemcpy(host, host, 16, cudaMemcpyHostToDevice) == cudaErrorInvalidValue);
  while (cudaGetLastError() != cudaSuccess) continue;

  // Rows of 5 bytes, 8 and 7 apart.
  char rows[24], packed[21];
  for (int i = 0; i < 24; i++) rows[i] = static_cast<char>(i);
  CHECK(cudaMalloc(&p, 24) == cudaSuccess);
  CHECK(cudaMemcpy(p, rows, 24, cudaMemcpyHostToDevice) == cudaSuccess);
  memset(packed, -1, sizeof packed);
  CHECK(cudaMemcpy2DAsync(packed, 7, p, 8, 5, 3, cudaMemcpyDeviceToHost) == cudaSuccess);
  CHECK(cudaDeviceSynchronize() == cudaSuccess);
  for (int i = 0; i < 21; i++) CHECK(packed[i] == (i % 7 < 5 ? i / 7 * 8 + i % 7 : -1));
  CHECK(cudaFree(p) == cudaSuccess);
}

void test_streams() {
  cudaStream_t stream;
  float *x, *pinned;
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  CHECK(cudaMalloc(&x, 4) == cudaSuccess && cudaMallocHost(&pinned, 4) == cudaSuccess);
  *pinned = 1;
  CHECK(cudaMemcpyAsync(x, pinned, 4, cudaMemcpyHostToDevice, stream) == cudaSuccess);
  CHECK(launch(add, 1, 1, 0, stream, x, 2.0f) == cudaSuccess);
  CHECK(cudaMemcpyAsync(pinned, x, 4, cudaMemcpyDeviceToHost, stream) == cudaSuccess);
  CHECK(*pinned == 1);  // who does not wait reads the old value
  CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
  CHECK(*pinned == 3);

  // A graph runs what was captured, as often as it is launched, and not before.
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
  CHECK(launch(add, 1, 1, 0, stream, x, 10.0f) == cudaSuccess);
  CHECK(cudaMemcpyAsync(pinned, x, 4, cudaMemcpyDeviceToHost, stream) == cudaSuccess);
  CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
  size_t nodes = 0;
  CHECK(cudaGraphGetNodes(graph, nullptr, &nodes) == cudaSuccess && nodes == 2);
  CHECK(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
  CHECK(cudaGraphDestroy(graph) == cudaSuccess);
  CHECK(cudaStreamSynchronize(stream) == cudaSuccess && *pinned == 3);
  cudaEvent_t begin, end;
  CHECK(cudaEventCreate(&begin) == cudaSuccess && cudaEventCreate(&end) == cudaSuccess);
  CHECK(cudaEventRecord(begin, stream) == cudaSuccess);
  CHECK(cudaGraphLaunch(exec, stream) == cudaSuccess);
  CHECK(cudaGraphLaunch(exec, stream) == cudaSuccess);
  CHECK(cudaEventRecord(end, stream) == cudaSuccess);
  float milliseconds = -1;
  CHECK(cudaEventElapsedTime(&milliseconds, begin, end) == cudaErrorNotReady);
  CHECK(cudaEventSynchronize(end) == cudaSuccess && *pinned == 23);
  CHECK(cudaEventElapsedTime(&milliseconds, begin, end) == cudaSuccess && milliseconds >= 0);
  CHECK(cudaEventDestroy(begin) == cudaSuccess && cudaEventDestroy(end) == cudaSuccess);
  CHECK(cudaGraphExecDestroy(exec) == cudaSuccess);

  // What would wait or allocate spoils a capture.
  for (int what = 0; what < 3; what++) {
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    float* more;
    const cudaError_t error = what == 0   ? cudaStreamSynchronize(stream)
                              : what == 1 ? cudaMalloc(&more, 4)
                                          : cudaMemcpy(pinned, x, 4, cudaMemcpyDeviceToHost);
    CHECK(error == cudaErrorStreamCaptureUnsupported);
    CHECK(launch(add, 1, 1, 0, stream, x, 1.0f) == cudaErrorStreamCaptureInvalidated);
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);
  }
  CHECK(cudaFree(x) == cudaSuccess && cudaFreeHost(pinned) == cudaSuccess);
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
  while (cudaGetLastError() != cudaSuccess) continue;
}

void test_conversions() {
  const struct {
    float value;
    uint16_t half, brain;
  } cases[] = {{0.0f, 0, 0},
               {-0.0f, 0x8000, 0x8000},
               {1.0f, 0x3c00, 0x3f80},
               {65504.0f, 0x7bff, 0x4780},
               {65519.0f, 0x7bff, 0x4780},
               {65520.0f, 0x7c00, 0x4780},
               {-1e9f, 0xfc00, 0xce6e},
               {INFINITY, 0x7c00, 0x7f80},
               {2049.0f, 0x6800, 0x4500},  // ties to even
               {2051.0f, 0x6802, 0x4500},
               {5.9604645e-8f, 1, 0x3380},  // the smallest half
               {2.9802322e-8f, 0, 0x3300},
               {2.99e-8f, 1, 0x3300},
               {6.1035156e-5f, 0x400, 0x3880},
               {1.00390625f, 0x3c04, 0x3f80},
               {1.01171875f, 0x3c0c, 0x3f82}};
  for (const auto& c : cases) {
    if (__float2half_rn(c.value).bits != c.half || __float2bfloat16_rn(c.value).bits != c.brain) {
      printf("%g: %x %x\n", static_cast<double>(c.value), __float2half_rn(c.value).bits,
             __float2bfloat16_rn(c.value).bits);
      failures++;
    }
  }
  CHECK(std::isnan(__half2float(__float2half_rn(NAN))));
  CHECK(std::isnan(__bfloat162float(__float2bfloat16_rn(NAN))));
  for (unsigned i = 0; i < 65536; i++) {
    const __half h = {static_cast<uint16_t>(i)};
    const float v = __half2float(h);
    if (!std::isnan(v)) CHECK(__float2half_rn(v).bits == i);
  }
}

// Each breaks the device for good, so each is a process of its own. True if it was noticed.
bool notices(const char* fault) {
  const auto is = [&](const char* name) { return strcmp(fault, name) == 0; };
  if (is("some_leave")) {
    launch(some_leave, 1, 64, 0, nullptr);
    return cudaDeviceSynchronize() == cudaErrorLaunchFailure &&
           cudaDeviceSynchronize() == cudaErrorLaunchFailure;
  }
  if (is("two_places")) {
    launch(two_places, 1, 64, 0, nullptr);
    return cudaDeviceSynchronize() == cudaErrorLaunchFailure;
  }
  if (is("half_warp")) {
    launch(half_warp, 1, 32, 0, nullptr);
    return cudaDeviceSynchronize() == cudaErrorLaunchFailure;
  }
  if (is("no_device")) {
    int count = -1;
    void* p;
    return cudaGetDeviceCount(&count) == cudaErrorNoDevice && count == 0 &&
           cudaMalloc(&p, 4) == cudaErrorNoDevice;
  }
  // AddressSanitizer ends the process at the store itself; without it the guards are looked at.
  if (is("shared")) {
    launch(beyond_shared, 1, 1, 64, nullptr, size_t{64});
    return cudaDeviceSynchronize() == cudaErrorLaunchFailure;
  }
  char* p;
  cudaMalloc(&p, 100);
  volatile char* at = p + 100;
  *at = 1;
  return cudaFree(p) == cudaErrorIllegalAddress;
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 1) return notices(arguments[1]) ? 42 : 0;
  setenv("ADFAST_EMULATED_MEMORY", "8", 1);
  test_conversions();
  test_kernels();
  test_launches();
  test_memory();
  test_streams();
  const std::string self = arguments[0];
  for (const char* fault :
       {"some_leave", "two_places", "half_warp", "no_device", "shared", "heap"}) {
    const bool device = strcmp(fault, "no_device") != 0;
    const int status = system(
        ((device ? "" : "ADFAST_EMULATED_DEVICES=0 ") + self + " " + fault + " >/dev/null 2>&1")
            .c_str());
    if (status == 0) {
      printf("%s goes unnoticed\n", fault);
      failures++;
    }
  }
  printf("emulator: %d failures\n", failures);
  return failures ? 1 : 0;
}
