#include "backends/cuda/device.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace adfast::cuda {
namespace {

// Of a device whose steps need none.
const Cudnn no_cudnn{};
const CublasLt no_cublaslt{};

// What cuBLASLt's own documentation asks for on Hopper.
constexpr size_t least_workspace = size_t{32} << 20;

uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

// To the nearest, ties to even; what is too large becomes infinite.
uint16_t to_f16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return sign | 0x7E00;
  if (magnitude >= 0x477FF000) return sign | 0x7C00;
  if (magnitude < 0x38800000) {
    // Subnormal: whole multiples of 2^-24.
    const float scaled = std::bit_cast<float>(magnitude) * 16777216.0f;
    return sign | static_cast<uint16_t>(std::nearbyint(scaled));
  }
  const uint32_t rounded = magnitude + 0xFFF + ((magnitude >> 13) & 1);
  return sign | static_cast<uint16_t>((rounded - 0x38000000) >> 13);
}

}  // namespace

void check_cudnn(const Cudnn& cudnn, cudnn::Status status, const char* what) {
  if (status == 0) return;
  throw Error(ErrorKind::run,
              std::string("[cuda] cuDNN: ") + what + " failed: " + cudnn.GetErrorString(status));
}

void check_cublas(cublas::Status status, const char* what) {
  if (status == 0) return;
  throw Error(ErrorKind::run, std::string("[cuda] cuBLASLt: ") + what + " failed with status " +
                                  std::to_string(status));
}

Buffer::Buffer(size_t bytes) : bytes_(bytes) {
  void* pointer = nullptr;
  check(cudaMalloc(&pointer, std::max<size_t>(bytes, 256)), "reserving memory");
  data_.reset(pointer);
}

Pinned::Pinned(size_t bytes) : bytes_(bytes) {
  void* pointer = nullptr;
  check(cudaMallocHost(&pointer, std::max<size_t>(bytes, 256)), "reserving pinned host memory");
  data_.reset(pointer);
}

// A copy from pageable memory returns once the bytes are staged, and the session's stream does not
// wait for the default stream that brings them over.
void copy_to_device(void* to, const void* from, size_t bytes) {
  check(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice), "copying to the device");
  check(cudaStreamSynchronize(cudaStreamLegacy), "copying to the device");
}

Buffer uploaded_as(std::span<const float> values, DType type) {
  if (type == DType::f32) return uploaded(values);
  std::vector<uint16_t> rounded(values.size());
  std::transform(values.begin(), values.end(), rounded.begin(),
                 type == DType::f16 ? to_f16 : to_bf16);
  return uploaded(std::span<const uint16_t>(rounded));
}

Event::Event() { check(cudaEventCreate(&event_), "making an event"); }
Event::~Event() { cudaEventDestroy(event_); }
void Event::record(cudaStream_t stream) const {
  check(cudaEventRecord(event_, stream), "recording an event");
}
double Event::since(const Event& earlier) const {
  float elapsed = 0;
  check(cudaEventElapsedTime(&elapsed, earlier.event_, event_), "reading a clock");
  return elapsed;
}

Device::Device(int number, DType features, const std::string& folders, const EngineImage* image)
    : number(number),
      features(features),
      // cuDNN finds cuBLASLt among the libraries that are open already.
      cublas(image == nullptr ? open_cublaslt(folders) : no_cublaslt),
      cudnn(image == nullptr ? open_cudnn(folders) : no_cudnn) {
  check(cudaSetDevice(number), "choosing the device");
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, number), "reading the device's properties");
  name = properties.name;
  multiprocessors = properties.multiProcessorCount;
  if (properties.major < 8) {
    throw Error(ErrorKind::argument,
                "[cuda] " + name + " has compute capability " + std::to_string(properties.major) +
                    "." + std::to_string(properties.minor) +
                    ", expected 8.0 (Ampere) or newer; load with device='cpu'");
  }
  triton = std::make_unique<TritonKernels>(10 * properties.major + properties.minor);
  if (image == nullptr) {
    workspace_bytes_ = least_workspace;
  } else {
    const std::string capability =
        std::to_string(properties.major) + "." + std::to_string(properties.minor);
    engine = std::make_unique<TensorRtEngine>(*image, capability, folders);
  }
  add_lanes();
  lane = lanes[0].get();
}

Lane::Lane(const Cudnn& cudnn, const CublasLt& cublas) {
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
  close_stream_ = Deferred([this] { cudaStreamDestroy(stream); });
  if (cudnn.Create == nullptr) return;
  check_cublas(cublas.Create(&cublas_handle), "making a handle");
  close_cublas_ = Deferred([this, &cublas] { cublas.Destroy(cublas_handle); });
  check_cudnn(cudnn, cudnn.Create(&cudnn_handle), "making a handle");
  close_cudnn_ = Deferred([this, &cudnn] { cudnn.Destroy(cudnn_handle); });
  check_cudnn(cudnn, cudnn.SetStream(cudnn_handle, stream), "setting the stream");
}

void Device::reserve_workspace(size_t bytes) {
  workspace_bytes_ = std::max(workspace_bytes_, bytes);
  for (const auto& each : lanes) {
    if (each->workspace.bytes() < bytes) each->workspace = Buffer(bytes);
  }
}

size_t Device::add_lanes() {
  std::vector<std::unique_ptr<Lane>> added;
  for (size_t i = 0; i < lanes_per_frame; ++i) {
    added.push_back(std::make_unique<Lane>(cudnn, cublas));
    added.back()->workspace = Buffer(workspace_bytes_);
  }
  const size_t first = lanes.size();
  for (auto& each : added) lanes.push_back(std::move(each));
  return first;
}

void Device::enter() const { check(cudaSetDevice(number), "choosing the device"); }

}  // namespace adfast::cuda
