// The places of csrc/backends/cuda/nvinfer.h against TensorRT's own headers, where those are at
// hand; its public headers are not part of this project.
//
//   g++ -std=c++20 -I csrc -I TENSORRT/include -I CUDA/include tests/cuda/nvinfer_layout.cpp \
//     -o layout && ./layout
#include <NvInferRuntime.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

#include "backends/cuda/nvinfer.h"

namespace {

int failures = 0;

// As the ABI of Linux has it, a pointer to a virtual member is one more than its offset.
template <class Member>
int place_of(Member member) {
  std::uintptr_t word = 0;
  std::memcpy(&word, &member, sizeof(word));
  return static_cast<int>((word - 1) / sizeof(void*));
}

template <class Member>
void check(const char* name, Member member, int expected) {
  const int found = place_of(member);
  if (found == expected) return;
  std::printf("%s is at place %d, expected %d\n", name, found, expected);
  failures += 1;
}

void require(bool holds, const char* what) {
  if (holds) return;
  std::printf("%s\n", what);
  failures += 1;
}

#if NV_TENSORRT_MAJOR == 10
using Logger = adfast::cuda::nvinfer::Logger10;
#else
using Logger = adfast::cuda::nvinfer::Logger11;
#endif

struct OwnLogger final : Logger {
  std::string heard;
  void log(adfast::cuda::nvinfer::Severity severity, const char* message) noexcept override {
    heard = std::to_string(static_cast<int>(severity)) + message;
  }
};

// An object as TensorRT's are: destroyed through its public class, called through the other.
bool destroyed = false;
struct Engine final : nvinfer1::ICudaEngine {
  explicit Engine(nvinfer1::apiv::VCudaEngine* implementation) { mImpl = implementation; }
  ~Engine() noexcept override { destroyed = true; }
};

}  // namespace

int main() {
  using namespace nvinfer1;
  namespace own = adfast::cuda::nvinfer;
  const own::Places& places = own::places_of(NV_TENSORRT_MAJOR);

  ICudaEngine* (apiv::VRuntime::*deserialize)(const void*, std::size_t) noexcept =
      &apiv::VRuntime::deserializeCudaEngine;
  check("deserializeCudaEngine", deserialize, own::deserialize);
  IExecutionContext* (apiv::VCudaEngine::*create)(ExecutionContextAllocationStrategy) noexcept =
      &apiv::VCudaEngine::createExecutionContext;
  check("createExecutionContext", create, places.create_context);
  check("getTensorShape", &apiv::VCudaEngine::getTensorShape, places.tensor_shape);
  check("getTensorDataType", &apiv::VCudaEngine::getTensorDataType, places.tensor_type);
  check("getTensorIOMode", &apiv::VCudaEngine::getTensorIOMode, places.tensor_mode);
  check("getNbIOTensors", &apiv::VCudaEngine::getNbIOTensors, places.tensor_count);
  check("getIOTensorName", &apiv::VCudaEngine::getIOTensorName, places.tensor_name);
  check("getDeviceMemorySizeV2", &apiv::VCudaEngine::getDeviceMemorySizeV2, places.memory);
  check("setTensorAddress", &apiv::VExecutionContext::setTensorAddress, places.set_address);
  check("enqueueV3", &apiv::VExecutionContext::enqueueV3, places.enqueue);

  require(sizeof(Dims) == sizeof(own::Dims), "Dims is of another size");
  require(offsetof(Dims, d) == offsetof(own::Dims, sides), "Dims lies otherwise");
  require(static_cast<int>(DataType::kFLOAT) == static_cast<int>(own::DataType::f32), "kFLOAT");
  require(static_cast<int>(TensorIOMode::kINPUT) == static_cast<int>(own::TensorMode::input),
          "kINPUT");
  require(static_cast<int>(TensorIOMode::kOUTPUT) == static_cast<int>(own::TensorMode::output),
          "kOUTPUT");
  require(static_cast<int>(ExecutionContextAllocationStrategy::kSTATIC) == 0, "kSTATIC");

  // Their side calls our logger.
  OwnLogger logger;
  auto* theirs = reinterpret_cast<ILogger*>(static_cast<Logger*>(&logger));
  theirs->log(ILogger::Severity::kERROR, " heard");
  require(logger.heard == "1 heard", "the logger is not called");
#if NV_TENSORRT_MAJOR > 10
  const InterfaceInfo info = theirs->getInterfaceInfo();
  require(std::string(info.kind) == "ILogger" && info.major == 1 && info.minor == 0,
          "the logger says that it is something else");
  require(theirs->getAPILanguage() == APILanguage::kCPP, "the logger is of another language");
#endif

  // Our side finds the implementation behind an object, and destroys it.
  int word = 0;
  auto* engine = new Engine(reinterpret_cast<apiv::VCudaEngine*>(&word));
  require(reinterpret_cast<void**>(static_cast<ICudaEngine*>(engine))[1] == &word,
          "the implementation is not the object's second word");
  own::destroy(static_cast<ICudaEngine*>(engine));
  require(destroyed, "the object is not destroyed");

  std::printf("TensorRT %d.%d.%d: %d differences\n", NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR,
              NV_TENSORRT_PATCH, failures);
  return failures == 0 ? 0 : 1;
}
