// libnvinfer.so.10 and .11 as far as the backend calls them: objects laid out as nvinfer.h has
// them, and engines that are a line of text, "FAKE height width map_height map_width trouble". Such
// an engine's map is the mean of the image's channels, every so many pixels, and its score the
// map's maximum.
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "backends/cuda/nvinfer.h"
#include "backends/tensorrt/nvinfer_plugin.h"

using namespace adfast::cuda::nvinfer;

namespace {

constexpr int major = FAKE_TENSORRT_MAJOR;
constexpr Places places = places_of(major);
using Logger = std::conditional_t<major == 10, Logger10, Logger11>;

struct Object;
using Table = std::array<void*, 64>;

// An object as TensorRT's are: its table, then its implementation, which begins with one too.
struct Implementation {
  void** table;
  Object* object;
};
struct Object {
  void** table;
  Implementation* implementation;
  Implementation own;
  Logger* logger;
  int sides[4] = {};  // of the image, of the map
  std::string trouble{};
  float *image = nullptr, *map = nullptr, *score = nullptr;
};

Object& of(void* implementation) { return *static_cast<Implementation*>(implementation)->object; }

void unexpected() { std::abort(); }
void delete_object(void* object) { delete static_cast<Object*>(object); }

template <class Function>
void* word(Function* function) {
  return reinterpret_cast<void*>(function);
}

Object* make(Table& functions, Logger* logger) {
  static Table own = [] {
    Table table;
    table.fill(word(unexpected));
    table[1] = word(delete_object);
    return table;
  }();
  auto* object = new Object{own.data(), nullptr, {functions.data(), nullptr}, logger};
  object->own.object = object;
  object->implementation = &object->own;
  return object;
}

// A context

bool set_address(void* self, const char* name, void* address) {
  Object& context = of(self);
  const std::string which = name;
  (which == "image" ? context.image
   : which == "map" ? context.map
                    : context.score) = static_cast<float*>(address);
  return address != nullptr;
}

bool enqueue(void* self, cudaStream_t stream) {
  const Object context = of(self);
  if (context.trouble == "run") {
    context.logger->log(Severity::error, "this engine never runs");
    return false;
  }
  // Waits for the device, as some engines do, which no recording takes.
  if (context.trouble == "wait" && cudaStreamSynchronize(stream) != cudaSuccess) return false;
  return emulated_enqueue(stream, [context] {
           const auto [height, width, map_height, map_width] = context.sides;
           float highest = -std::numeric_limits<float>::infinity();
           for (int y = 0; y < map_height; ++y) {
             for (int x = 0; x < map_width; ++x) {
               const float* pixel =
                   context.image + 3 * (y * height / map_height * width + x * width / map_width);
               const float mean = (pixel[0] + pixel[1] + pixel[2]) / 3;
               context.map[y * map_width + x] = mean;
               highest = std::max(highest, mean);
             }
           }
           const bool nan = context.trouble == "nan";
           *context.score = nan ? std::numeric_limits<float>::quiet_NaN() : highest;
           if (nan) context.map[0] = *context.score;
           return cudaSuccess;
         }) == cudaSuccess;
}

// An engine

void* create_context(void* self, int32_t strategy) {
  static Table functions = [] {
    Table table;
    table.fill(word(unexpected));
    table[places.set_address] = word(set_address);
    table[places.enqueue] = word(enqueue);
    return table;
  }();
  const Object& engine = of(self);
  if (engine.trouble == "context" || strategy != 0) {
    engine.logger->log(Severity::error, "no memory for a context");
    return nullptr;
  }
  Object* context = make(functions, engine.logger);
  std::copy_n(engine.sides, 4, context->sides);
  context->trouble = engine.trouble;
  return context;
}

const char* const names[] = {"image", "score", "map"};
int32_t tensor_count(void* self) { return of(self).trouble == "names" ? 2 : 3; }
const char* tensor_name(void*, int32_t index) { return names[index]; }
Dims tensor_shape(void* self, const char* name) {
  const auto [height, width, map_height, map_width] = of(self).sides;
  const std::string which = name;
  if (which == "image") return {4, {1, height, width, 3}};
  if (which == "map") return {4, {1, 1, map_height, map_width}};
  return {1, {1}};
}
DataType tensor_type(void* self, const char*) {
  return static_cast<DataType>(of(self).trouble == "half" ? 1 : 0);
}
TensorMode tensor_mode(void*, const char* name) {
  return std::strcmp(name, "image") == 0 ? TensorMode::input : TensorMode::output;
}
int64_t memory(void*) { return 1000; }

// The registry of plugins

std::vector<adfast::tensorrt::Creator*> creators;

void* load_library(void*, const char* path) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return nullptr;
  const auto list = reinterpret_cast<decltype(&getCreators)>(dlsym(library, "getCreators"));
  int32_t count = 0;
  auto* const* found = list(count);
  creators.insert(creators.end(), found, found + count);
  return library;
}

void* get_creator(void*, const char* name, const char* version, const char* space) {
  for (adfast::tensorrt::Creator* each : creators) {
    if (std::strcmp(each->plugin_name(), name) == 0 &&
        std::strcmp(each->plugin_version(), version) == 0 &&
        std::strcmp(each->plugin_namespace(), space) == 0) {
      return each;
    }
  }
  return nullptr;
}

// A runtime

void* deserialize_engine(void* self, const void* bytes, size_t size) {
  static Table functions = [] {
    Table table;
    table.fill(word(unexpected));
    table[places.create_context] = word(create_context);
    table[places.tensor_count] = word(tensor_count);
    table[places.tensor_name] = word(tensor_name);
    table[places.tensor_shape] = word(tensor_shape);
    table[places.tensor_type] = word(tensor_type);
    table[places.tensor_mode] = word(tensor_mode);
    table[places.memory] = word(memory);
    return table;
  }();
  const Object& runtime = of(self);
  std::istringstream text(std::string(static_cast<const char*>(bytes), size));
  std::string magic;
  Object* engine = make(functions, runtime.logger);
  text >> magic;
  for (int& side : engine->sides) text >> side;
  text >> engine->trouble;
  if (magic == "FAKE" && engine->trouble != "damaged") return engine;
  runtime.logger->log(Severity::warning, "a warning, which nobody asked for");
  runtime.logger->log(Severity::error, "magic tag does not match");
  delete engine;
  return nullptr;
}

}  // namespace

extern "C" {

int32_t getInferLibVersion() {
  const char* asked = std::getenv("ADFAST_FAKE_TENSORRT");
  return asked != nullptr ? std::atoi(asked) : 10000 * major + 400;
}

// Opens plugins' libraries and asks them for their creators, as the true one does.
void* getPluginRegistry() {
  static Table functions = [] {
    Table table;
    table.fill(word(unexpected));
    table[places.load_library] = word(load_library);
    table[places.get_creator] = word(get_creator);
    return table;
  }();
  static void** registry = functions.data();
  return &registry;
}

void* createInferRuntime_INTERNAL(void* logger, int32_t version) {
  static Table functions = [] {
    Table table;
    table.fill(word(unexpected));
    table[deserialize] = word(deserialize_engine);
    return table;
  }();
  int devices = 0;
  // As the true one does.
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    return reinterpret_cast<void*>(uintptr_t{64});
  }
  return version == getInferLibVersion() ? make(functions, static_cast<Logger*>(logger)) : nullptr;
}

}  // extern "C"
