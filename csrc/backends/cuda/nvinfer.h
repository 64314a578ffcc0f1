// TensorRT's objects, called without its headers or its library at hand when this is compiled.
//
// Its public classes are thin: a table of virtual functions, then a pointer to an implementation
// whose own virtual functions do the work. Within a major version these keep their places and new
// ones come behind; docs/nvidia.md says against which headers the places were checked, by
// tests/cuda/nvinfer_layout.cpp.
#pragma once
#include <cstddef>
#include <cstdint>

namespace adfast::cuda::nvinfer {

struct Dims {
  int32_t rank;
  int64_t sides[8];
};

enum class DataType : int32_t { f32 = 0 };
enum class TensorMode : int32_t { input = 1, output = 2 };
enum class Severity : int32_t { internal_error = 0, error = 1, warning = 2 };

// What TensorRT calls back, in the order of its virtual functions: from 11 on a logger tells first
// what it is.
class Logger10 {
 public:
  virtual void log(Severity severity, const char* message) noexcept = 0;
  virtual ~Logger10() = default;
};

struct InterfaceInfo {
  const char* kind;
  int32_t major, minor;
};

class Logger11 {
 public:
  virtual int32_t api_language() const noexcept { return 0; }
  virtual InterfaceInfo interface_info() const noexcept { return {"ILogger", 1, 0}; }
  virtual ~Logger11() = default;
  virtual void log(Severity severity, const char* message) noexcept = 0;
};

// Of a runtime.
inline constexpr int deserialize = 3;
// Of an engine, of a context, and of the registry of plugins.
struct Places {
  int create_context, tensor_shape, tensor_type, tensor_mode, tensor_count, tensor_name, memory;
  int set_address, enqueue;
  int load_library, get_creator;
};
inline constexpr Places places_10 = {5, 19, 20, 23, 30, 31, 52, 24, 37, 10, 14};
inline constexpr Places places_11 = {5, 15, 16, 19, 26, 27, 44, 23, 36, 6, 10};

// The oldest minor version of a major one that has all of them; -1 where the major is unknown.
constexpr int least_minor(int major) { return major == 10 ? 2 : major == 11 ? 0 : -1; }
constexpr const Places& places_of(int major) { return major == 10 ? places_10 : places_11; }

// Calls a function of an object by its place: the registry's.
template <class Result, class... Args>
Result call_own(void* object, int place, Args... args) {
  void* function = (*static_cast<void***>(object))[place];
  return reinterpret_cast<Result (*)(void*, Args...)>(function)(object, args...);
}

// Calls a function of an object's implementation: all others'.
template <class Result, class... Args>
Result call(void* object, int place, Args... args) {
  return call_own<Result>(static_cast<void**>(object)[1], place, args...);
}

// `delete`: the second of the two destructors that head the object's own table.
inline void destroy(void* object) { call_own<void>(object, 1); }

// What the library exports.
using Version = int32_t (*)();
using CreateRuntime = void* (*)(void* logger, int32_t version);
using Registry = void* (*)();
inline constexpr char version_symbol[] = "getInferLibVersion";
inline constexpr char create_runtime_symbol[] = "createInferRuntime_INTERNAL";
inline constexpr char registry_symbol[] = "getPluginRegistry";

}  // namespace adfast::cuda::nvinfer
