// What csrc/backends/cuda/nvinfer.h and csrc/backends/tensorrt/nvinfer_plugin.h know, against
// TensorRT's own headers, where those are at
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
#include "backends/tensorrt/nvinfer_plugin.h"

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

// A function of a plugin's interface has its place in both.
template <class Theirs, class Ours>
void same(const char* name, Theirs theirs, Ours ours) {
  check(name, theirs, place_of(ours));
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

void check_plugins(const adfast::cuda::nvinfer::Places& places) {
  using namespace nvinfer1;
  namespace own = adfast::tensorrt;
  check("loadLibrary", &IPluginRegistry::loadLibrary, places.load_library);
  check("getCreator", &IPluginRegistry::getCreator, places.get_creator);

  same("getInterfaceInfo", &IVersionedInterface::getInterfaceInfo, &own::Versioned::interface_info);
  same("getAPILanguage", &IVersionedInterface::getAPILanguage, &own::Versioned::api_language);
  same("getCapabilityInterface", &IPluginV3::getCapabilityInterface, &own::Plugin::capability);
  same("clone", &IPluginV3::clone, &own::Plugin::clone);

  using TheirCore = IPluginV3OneCore;
  same("core getPluginName", &TheirCore::getPluginName, &own::Core::plugin_name);
  same("core getPluginVersion", &TheirCore::getPluginVersion, &own::Core::plugin_version);
  same("core getPluginNamespace", &TheirCore::getPluginNamespace, &own::Core::plugin_namespace);

  using TheirBuild = v_1_0::IPluginV3OneBuild;
  same("configurePlugin", &TheirBuild::configurePlugin, &own::Build::configure);
  same("getOutputDataTypes", &TheirBuild::getOutputDataTypes, &own::Build::output_types);
  same("getOutputShapes", &TheirBuild::getOutputShapes, &own::Build::output_shapes);
  same("supportsFormatCombination", &TheirBuild::supportsFormatCombination, &own::Build::supports);
  same("getNbOutputs", &TheirBuild::getNbOutputs, &own::Build::output_count);
  same("getWorkspaceSize", &TheirBuild::getWorkspaceSize, &own::Build::workspace_bytes);
  same("getValidTactics", &TheirBuild::getValidTactics, &own::Build::valid_tactics);
  same("getNbTactics", &TheirBuild::getNbTactics, &own::Build::tactic_count);
  same("getTimingCacheID", &TheirBuild::getTimingCacheID, &own::Build::timing_cache_id);
  same("getFormatCombinationLimit", &TheirBuild::getFormatCombinationLimit,
       &own::Build::format_combination_limit);
  same("getMetadataString", &TheirBuild::getMetadataString, &own::Build::metadata);

  using TheirRuntime = IPluginV3OneRuntime;
  same("setTactic", &TheirRuntime::setTactic, &own::Runtime::set_tactic);
  same("onShapeChange", &TheirRuntime::onShapeChange, &own::Runtime::on_shape_change);
  same("enqueue", &TheirRuntime::enqueue, &own::Runtime::enqueue);
  same("attachToContext", &TheirRuntime::attachToContext, &own::Runtime::attach_to_context);
  same("getFieldsToSerialize", &TheirRuntime::getFieldsToSerialize,
       &own::Runtime::fields_to_serialize);

  using TheirCreator = IPluginCreatorV3One;
  same("createPlugin", &TheirCreator::createPlugin, &own::Creator::create);
  same("getFieldNames", &TheirCreator::getFieldNames, &own::Creator::field_names);
  same("creator getPluginName", &TheirCreator::getPluginName, &own::Creator::plugin_name);
  same("creator getPluginVersion", &TheirCreator::getPluginVersion, &own::Creator::plugin_version);
  same("creator getPluginNamespace", &TheirCreator::getPluginNamespace,
       &own::Creator::plugin_namespace);

  // Which interface an object is, by the text that TensorRT asks it for.
  struct Theirs final : IPluginCreatorV3One {
    IPluginV3* createPlugin(const char*, const PluginFieldCollection*,
                            TensorRTPhase) noexcept override {
      return nullptr;
    }
    const PluginFieldCollection* getFieldNames() noexcept override { return nullptr; }
    const char* getPluginName() const noexcept override { return ""; }
    const char* getPluginVersion() const noexcept override { return ""; }
    const char* getPluginNamespace() const noexcept override { return ""; }
  } theirs;
  const auto& as_ours = reinterpret_cast<const own::Creator&>(theirs);
  const auto info = as_ours.own::Creator::interface_info(), said = as_ours.interface_info();
  require(
      std::string(info.kind) == said.kind && info.major == said.major && info.minor == said.minor,
      "the creator's interface has another name");

  require(sizeof(PluginTensorDesc) == sizeof(own::TensorDesc), "PluginTensorDesc");
  require(offsetof(PluginTensorDesc, type) == offsetof(own::TensorDesc, type), "type");
  require(offsetof(PluginTensorDesc, format) == offsetof(own::TensorDesc, format), "format");
  require(sizeof(DynamicPluginTensorDesc) == sizeof(own::DynamicTensorDesc), "dynamic");
  require(sizeof(DimsExprs) == sizeof(own::SymbolicDims), "DimsExprs");
  require(offsetof(DimsExprs, d) == offsetof(own::SymbolicDims, sides), "DimsExprs.d");
  require(sizeof(PluginField) == sizeof(own::Field), "PluginField");
  require(offsetof(PluginField, type) == offsetof(own::Field, type), "PluginField.type");
  require(sizeof(PluginFieldCollection) == sizeof(own::Fields), "PluginFieldCollection");
  require(offsetof(PluginFieldCollection, fields) == offsetof(own::Fields, fields), "fields");
  require(static_cast<int>(PluginFieldType::kFLOAT32) == static_cast<int>(own::FieldType::f32) &&
              static_cast<int>(PluginFieldType::kINT32) == static_cast<int>(own::FieldType::i32),
          "PluginFieldType");
  require(static_cast<int>(DataType::kHALF) == static_cast<int>(own::ElementType::f16) &&
              static_cast<int>(DataType::kBF16) == static_cast<int>(own::ElementType::bf16) &&
              static_cast<int>(TensorFormat::kLINEAR) == static_cast<int>(own::Format::linear),
          "DataType or TensorFormat");
  require(static_cast<int>(PluginCapabilityType::kBUILD) ==
                  static_cast<int>(own::CapabilityType::build) &&
              static_cast<int>(PluginCapabilityType::kRUNTIME) ==
                  static_cast<int>(own::CapabilityType::runtime),
          "PluginCapabilityType");
}

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

  check_plugins(places);

  std::printf("TensorRT %d.%d.%d: %d differences\n", NV_TENSORRT_MAJOR, NV_TENSORRT_MINOR,
              NV_TENSORRT_PATCH, failures);
  return failures == 0 ? 0 : 1;
}
