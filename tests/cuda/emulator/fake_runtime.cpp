// The CUDA runtime on the host's memory.
//
// Work enqueued on a stream waits until someone synchronises (with anything: all streams share one
// queue, in the order of enqueueing, which every program that orders its streams rightly must
// allow), so a host that reads a result too early reads the old one. Captured work is kept as a
// list of closures and replayed. Calls that real captures forbid are refused and spoil the capture.
//
// Environment: ADFAST_EMULATED_MEMORY=<MB> of device memory (default 4096), ADFAST_EMULATED_DEVICES
// (default 1).
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "fibers.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

using Work = std::function<cudaError_t()>;

struct CUgraph_st {
  std::vector<Work> nodes;
  cudaStream_t origin = nullptr;
  std::set<cudaStream_t> loose;  // streams that joined and have work that origin does not wait for
};
struct CUgraphExec_st {
  std::vector<Work> nodes;
};
struct CUstream_st {
  CUgraph_st* capture = nullptr;  // what is being recorded
  cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
  bool spoilt = false;
};
struct CUevent_st {
  std::chrono::steady_clock::time_point time;
  bool timed = true, recorded = false;
  cudaStream_t stream = nullptr;  // of its last record, and what that was part of
  CUgraph_st* capture = nullptr;
};

namespace {

constexpr size_t kGuard = 256;
constexpr unsigned char kGuardByte = 0xd7;

struct Allocation {
  char* base;
  size_t bytes;
};

std::recursive_mutex mutex;
using Lock = std::lock_guard<std::recursive_mutex>;
std::deque<Work> queue;
std::map<const char*, Allocation> device_memory, pinned_memory;
size_t used = 0;
std::map<const void*, int> shared_limit;  // of kernels that asked for more
std::map<cudaStream_t, CUstream_st*> streams;
cudaError_t broken = cudaSuccess;  // what a kernel did; stays
thread_local cudaError_t last = cudaSuccess;

cudaError_t returned(cudaError_t error) {
  if (error != cudaSuccess) last = error;
  return error;
}

size_t memory_limit() {
  const char* text = getenv("ADFAST_EMULATED_MEMORY");
  return (text ? strtoull(text, nullptr, 10) : 4096) << 20;
}
int devices() {
  const char* text = getenv("ADFAST_EMULATED_DEVICES");
  return text ? atoi(text) : 1;
}
// Before anything else a program must have a device.
cudaError_t start() { return devices() > 0 ? broken : cudaErrorNoDevice; }

cudaError_t drain() {
  while (!queue.empty()) {
    Work work = std::move(queue.front());
    queue.pop_front();
    if (broken != cudaSuccess) continue;
    broken = work();
  }
  return broken;
}

// A call that may not happen while a stream is captured.
bool forbidden() {
  bool any = false;
  for (auto& [handle, stream] : streams) {
    if (!stream->capture || stream->mode == cudaStreamCaptureModeRelaxed) continue;
    stream->spoilt = any = true;
  }
  return any;
}

bool holds(const std::map<const char*, Allocation>& memory, const void* pointer) {
  const char* p = static_cast<const char*>(pointer);
  auto after = memory.upper_bound(p);
  if (after == memory.begin()) return false;
  const auto& [begin, allocation] = *--after;
  return p < begin + allocation.bytes || p == begin;
}

// Between guards; every byte is 0xff: floats of any width read NaN.
char* allocate(size_t bytes, Allocation& allocation) {
  const size_t whole = (bytes + 255) / 256 * 256 + 2 * kGuard;
  char* base = static_cast<char*>(aligned_alloc(256, whole));
  if (!base) return nullptr;
  memset(base, kGuardByte, whole);
  memset(base + kGuard, 0xff, bytes);
#if defined(__SANITIZE_ADDRESS__)
  ASAN_POISON_MEMORY_REGION(base, kGuard);
  ASAN_POISON_MEMORY_REGION(base + kGuard + bytes, whole - kGuard - bytes);
#endif
  allocation = {base, bytes};
  return base + kGuard;
}

bool release(const Allocation& allocation) {
  const size_t whole = (allocation.bytes + 255) / 256 * 256 + 2 * kGuard;
#if defined(__SANITIZE_ADDRESS__)
  ASAN_UNPOISON_MEMORY_REGION(allocation.base, whole);
#endif
  bool intact = true;
  for (size_t i = 0; i < whole; i++) {
    if (i >= kGuard && i < kGuard + allocation.bytes) continue;
    if (static_cast<unsigned char>(allocation.base[i]) != kGuardByte) intact = false;
  }
  if (!intact) {
    fprintf(stderr, "emulated CUDA: bytes before or behind an allocation of %zu were written\n",
            allocation.bytes);
  }
  free(allocation.base);
  return intact;
}

// The queue is empty then. A program that never looks at the error of its last free must still
// notice an overrun.
cudaError_t free_from(std::map<const char*, Allocation>& memory, void* pointer, bool counted) {
  if (!pointer) return cudaSuccess;
  Lock lock(mutex);
  if (forbidden()) return returned(cudaErrorStreamCaptureUnsupported);
  drain();
  auto found = memory.find(static_cast<char*>(pointer));
  if (found == memory.end()) return returned(cudaErrorInvalidValue);
  if (counted) used -= found->second.bytes;
  const bool intact = release(found->second);
  memory.erase(found);
  if (!intact) broken = cudaErrorIllegalAddress;
  return returned(broken);
}

cudaError_t copy_2d(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                    size_t height) {
  for (size_t y = 0; y < height; y++) {
    memmove(static_cast<char*>(to) + y * to_pitch, static_cast<const char*>(from) + y * from_pitch,
            width);
  }
  return cudaSuccess;
}

// Copies to and from memory that the driver knows happen later; those of other memory at once, as a
// program may use it again when the call returns.
cudaError_t enqueue_copy(cudaStream_t stream, void* to, size_t to_pitch, const void* from,
                         size_t from_pitch, size_t width, size_t height, cudaMemcpyKind kind) {
  Lock lock(mutex);
  if (width == 0 || height == 0) return cudaSuccess;
  if (to_pitch < width || from_pitch < width) return returned(cudaErrorInvalidValue);
  const bool to_device = holds(device_memory, to), from_device = holds(device_memory, from);
  const bool sound = kind == cudaMemcpyDefault ||
                     (kind == cudaMemcpyHostToDevice && to_device && !from_device) ||
                     (kind == cudaMemcpyDeviceToHost && !to_device && from_device) ||
                     (kind == cudaMemcpyDeviceToDevice && to_device && from_device) ||
                     (kind == cudaMemcpyHostToHost && !to_device && !from_device);
  if (!sound) return returned(cudaErrorInvalidValue);
  const cudaError_t error = emulated_enqueue(
      stream, [=] { return copy_2d(to, to_pitch, from, from_pitch, width, height); });
  const bool known =
      (to_device || holds(pinned_memory, to)) && (from_device || holds(pinned_memory, from));
  if (error != cudaSuccess || known || (stream && stream->capture)) return returned(error);
  return returned(drain());
}

template <class Handle>
cudaError_t destroy(Handle handle) {
  delete handle;
  return cudaSuccess;
}

}  // namespace

cudaError_t emulated_enqueue(cudaStream_t stream, Work work) {
  Lock lock(mutex);
  if (cudaError_t error = start(); error != cudaSuccess) return error;
  if (stream && !streams.count(stream)) return cudaErrorInvalidResourceHandle;
  if (stream && stream->capture) {
    if (stream->spoilt) return cudaErrorStreamCaptureInvalidated;
    stream->capture->nodes.push_back(std::move(work));
    if (stream != stream->capture->origin) stream->capture->loose.insert(stream);
    return cudaSuccess;
  }
  // The default stream would join a capture.
  if (!stream && forbidden()) return cudaErrorStreamCaptureUnsupported;
  queue.push_back(std::move(work));
  return cudaSuccess;
}

cudaError_t emulated_launch(const cudaLaunchConfig_t& config, const void* kernel,
                            size_t parameter_bytes, std::function<void()> thread) {
  Lock lock(mutex);
  const dim3 grid = config.gridDim, threads = config.blockDim;
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 ||
      !threads.x || !threads.y || !threads.z || threads.z > 64 ||
      size_t{1} * threads.x * threads.y * threads.z > 1024) {
    return returned(cudaErrorInvalidConfiguration);
  }
  auto asked = shared_limit.find(kernel);
  const size_t limit = asked == shared_limit.end() ? 48 << 10 : static_cast<size_t>(asked->second);
  if (config.dynamicSmemBytes > limit || parameter_bytes > 4096) {
    return returned(cudaErrorInvalidValue);
  }
  return returned(emulated_enqueue(config.stream, [config, thread] {
    return emulated_run(config, thread) ? cudaSuccess : cudaErrorLaunchFailure;
  }));
}

extern "C" {

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  Lock lock(mutex);
  *pointer = nullptr;
  if (cudaError_t error = start(); error != cudaSuccess) return returned(error);
  if (forbidden()) return returned(cudaErrorStreamCaptureUnsupported);
  if (bytes == 0) return cudaSuccess;
  Allocation allocation;
  char* p = bytes > memory_limit() - std::min(used, memory_limit()) ? nullptr
                                                                    : allocate(bytes, allocation);
  if (!p) return returned(cudaErrorMemoryAllocation);
  used += bytes;
  device_memory[p] = allocation;
  *pointer = p;
  return cudaSuccess;
}

cudaError_t cudaFree(void* pointer) { return free_from(device_memory, pointer, true); }

cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  Lock lock(mutex);
  *pointer = nullptr;
  if (cudaError_t error = start(); error != cudaSuccess) return returned(error);
  if (forbidden()) return returned(cudaErrorStreamCaptureUnsupported);
  if (bytes == 0) return cudaSuccess;
  Allocation allocation;
  char* p = allocate(bytes, allocation);
  if (!p) return returned(cudaErrorMemoryAllocation);
  pinned_memory[p] = allocation;
  *pointer = p;
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  return cudaMallocHost(pointer, bytes);
}
cudaError_t cudaFreeHost(void* pointer) { return free_from(pinned_memory, pointer, false); }

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  Lock lock(mutex);
  if (cudaError_t error = start(); error != cudaSuccess) return returned(error);
  *total = memory_limit();
  *free = *total - std::min(used, *total);
  return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream) {
  return enqueue_copy(stream, to, to_pitch, from, from_pitch, width, height, kind);
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  return enqueue_copy(stream, to, bytes, from, bytes, bytes, 1, kind);
}
cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                         size_t width, size_t height, cudaMemcpyKind kind) {
  Lock lock(mutex);
  if (forbidden()) return returned(cudaErrorStreamCaptureUnsupported);
  cudaError_t error = enqueue_copy(nullptr, to, to_pitch, from, from_pitch, width, height, kind);
  return error == cudaSuccess ? returned(drain()) : error;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  return cudaMemcpy2D(to, bytes, from, bytes, bytes, 1, kind);
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  Lock lock(mutex);
  if (bytes == 0) return cudaSuccess;
  if (!holds(device_memory, to)) return returned(cudaErrorInvalidValue);
  return returned(emulated_enqueue(stream, [=] {
    memset(to, value, bytes);
    return cudaSuccess;
  }));
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  Lock lock(mutex);
  if (forbidden()) return returned(cudaErrorStreamCaptureUnsupported);
  cudaError_t error = cudaMemsetAsync(to, value, bytes, nullptr);
  return error == cudaSuccess ? returned(drain()) : error;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, 0); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  Lock lock(mutex);
  if (cudaError_t error = start(); error != cudaSuccess) return returned(error);
  *stream = new CUstream_st;
  streams[*stream] = *stream;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Lock lock(mutex);
  if (!streams.erase(stream)) return returned(cudaErrorInvalidResourceHandle);
  drain();
  delete stream->capture;
  return destroy(stream);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Lock lock(mutex);
  if (stream && !streams.count(stream)) return returned(cudaErrorInvalidResourceHandle);
  if (stream && stream->capture) {
    stream->spoilt = true;
    return returned(cudaErrorStreamCaptureUnsupported);
  }
  return returned(drain());
}
cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaStreamSynchronize(stream); }
// A stream that waits for captured work becomes part of the capture.
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  Lock lock(mutex);
  if (!stream || !streams.count(stream)) return returned(cudaErrorInvalidResourceHandle);
  if (!event->capture) return cudaSuccess;
  if (!stream->capture) {
    stream->capture = event->capture;
    stream->spoilt = false;
    event->capture->loose.insert(stream);
  }
  if (stream == event->capture->origin) event->capture->loose.erase(event->stream);
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
  Lock lock(mutex);
  if (!stream || !streams.count(stream) || stream->capture) {
    return returned(cudaErrorInvalidValue);
  }
  stream->capture = new CUgraph_st;
  stream->capture->origin = stream;
  stream->mode = mode;
  stream->spoilt = false;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  Lock lock(mutex);
  *graph = nullptr;
  if (!stream || !streams.count(stream) || !stream->capture) {
    return returned(cudaErrorInvalidValue);
  }
  CUgraph_st* captured = stream->capture;
  bool spoilt = captured->origin != stream || !captured->loose.empty();
  for (auto& [handle, each] : streams) {
    if (each->capture != captured) continue;
    each->capture = nullptr;
    spoilt = spoilt || each->spoilt;
  }
  if (spoilt) {
    delete captured;
    return returned(cudaErrorStreamCaptureInvalidated);
  }
  *graph = captured;
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  Lock lock(mutex);
  *status = !stream || !stream->capture ? cudaStreamCaptureStatusNone
            : stream->spoilt            ? cudaStreamCaptureStatusInvalidated
                                        : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  return returned(emulated_enqueue(stream, [=] {
    function(data);
    return cudaSuccess;
  }));
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new CUgraphExec_st{graph->nodes};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  Lock lock(mutex);
  for (const Work& work : exec->nodes) {
    cudaError_t error = emulated_enqueue(stream, work);
    if (error != cudaSuccess) return returned(error);
  }
  return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t* nodes, size_t* count) {
  if (nodes) return returned(cudaErrorInvalidValue);  // nodes have no handles here
  *count = graph->nodes.size();
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return destroy(graph); }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  Lock lock(mutex);
  drain();
  return destroy(exec);
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  Lock lock(mutex);
  if (cudaError_t error = start(); error != cudaSuccess) return returned(error);
  *event = new CUevent_st;
  (*event)->timed = !(flags & cudaEventDisableTiming);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Lock lock(mutex);
  event->stream = stream;
  event->capture = stream && streams.count(stream) ? stream->capture : nullptr;
  return returned(emulated_enqueue(stream, [event] {
    event->time = std::chrono::steady_clock::now();
    event->recorded = true;
    return cudaSuccess;
  }));
}
cudaError_t cudaEventSynchronize(cudaEvent_t) {
  Lock lock(mutex);
  if (forbidden()) return returned(cudaErrorStreamCaptureUnsupported);
  return returned(drain());
}
cudaError_t cudaEventQuery(cudaEvent_t event) { return cudaEventSynchronize(event); }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  Lock lock(mutex);
  if (!begin->timed || !end->timed) return returned(cudaErrorInvalidResourceHandle);
  if (!begin->recorded || !end->recorded) return returned(cudaErrorNotReady);
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - begin->time).count();
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  Lock lock(mutex);
  drain();
  return destroy(event);
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = devices();
  return returned(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}
cudaError_t cudaSetDevice(int device) {
  if (devices() <= 0) return returned(cudaErrorNoDevice);
  return returned(device >= 0 && device < devices() ? cudaSuccess : cudaErrorInvalidDevice);
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return returned(devices() > 0 ? cudaSuccess : cudaErrorNoDevice);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (cudaError_t error = cudaSetDevice(device); error != cudaSuccess) return error;
  *properties = {};
  snprintf(properties->name, sizeof properties->name, "emulated");
  properties->totalGlobalMem = memory_limit();
  properties->sharedMemPerBlock = 48 << 10;
  properties->sharedMemPerBlockOptin = kLargestShared;
  properties->regsPerBlock = 65536;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->major = 9;
  properties->multiProcessorCount = 1;
  properties->l2CacheSize = 1 << 20;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (cudaError_t error = cudaSetDevice(device); error != cudaSuccess) return error;
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = 1024;
      return cudaSuccess;
    case cudaDevAttrWarpSize:
      *value = 32;
      return cudaSuccess;
    case cudaDevAttrMultiProcessorCount:
      *value = 1;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(kLargestShared);
      return cudaSuccess;
  }
  return returned(cudaErrorInvalidValue);
}
cudaError_t cudaDeviceSynchronize(void) {
  Lock lock(mutex);
  if (cudaError_t error = start(); error != cudaSuccess) return returned(error);
  if (forbidden()) return returned(cudaErrorStreamCaptureUnsupported);
  return returned(drain());
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = devices() > 0 ? CUDART_VERSION : 0;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  Lock lock(mutex);
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || static_cast<size_t>(value) > kLargestShared) {
    return returned(cudaErrorInvalidValue);
  }
  shared_limit[function] = value;
  return cudaSuccess;
}

cudaError_t cudaGetLastError(void) {
  cudaError_t error = last;
  last = broken;
  return error;
}
cudaError_t cudaPeekAtLastError(void) { return last; }

static const struct {
  cudaError_t error;
  const char *name, *text;
} kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInitializationError, "cudaErrorInitializationError", "initialization error"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration",
     "invalid configuration argument"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated",
     "operation failed due to a previous error during capture"},
};
const char* cudaGetErrorName(cudaError_t error) {
  for (auto& e : kErrors) {
    if (e.error == error) return e.name;
  }
  return "cudaErrorUnknown";
}
const char* cudaGetErrorString(cudaError_t error) {
  for (auto& e : kErrors) {
    if (e.error == error) return e.text;
  }
  return "unknown error";
}

}  // extern "C"
