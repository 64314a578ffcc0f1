// What TensorRT asks of a plugin, laid out as it calls it, without its headers: the order of the
// virtual functions of each interface is TensorRT's own, the same in 10 and 11.
// tests/cuda/nvinfer_layout.cpp compares it with the headers where those are at hand.
#pragma once
#include <cstddef>
#include <cstdint>

#include "backends/cuda/nvinfer.h"

namespace adfast::tensorrt {

using cuda::nvinfer::Dims;
using cuda::nvinfer::InterfaceInfo;

enum class ElementType : int32_t { f32 = 0, f16 = 1, bf16 = 7 };
enum class Format : int32_t { linear = 0 };

struct TensorDesc {
  Dims dims;
  ElementType type;
  Format format;
  float scale;
};

struct DynamicTensorDesc {
  TensorDesc desc;
  Dims min, max, opt;
};

// Symbolic dimensions, while an engine is built; only handed on here.
struct SymbolicDims {
  int32_t rank;
  const void* sides[8];
};

enum class FieldType : int32_t { f32 = 1, i32 = 5 };

struct Field {
  const char* name;
  const void* data;
  FieldType type;
  int32_t length;
};

struct Fields {
  int32_t count;
  const Field* fields;
};

class Versioned {
 public:
  virtual int32_t api_language() const noexcept { return 0; }
  virtual InterfaceInfo interface_info() const noexcept = 0;
  virtual ~Versioned() = default;
};

enum class CapabilityType : int32_t { core = 0, build = 1, runtime = 2 };

class Capability : public Versioned {};

class Plugin : public Versioned {
 public:
  InterfaceInfo interface_info() const noexcept override { return {"PLUGIN", 1, 0}; }
  virtual Capability* capability(CapabilityType type) noexcept = 0;
  virtual Plugin* clone() noexcept = 0;
};

class Core : public Capability {
 public:
  InterfaceInfo interface_info() const noexcept override { return {"PLUGIN_V3ONE_CORE", 1, 0}; }
  virtual const char* plugin_name() const noexcept = 0;
  virtual const char* plugin_version() const noexcept = 0;
  virtual const char* plugin_namespace() const noexcept = 0;
};

class Build : public Capability {
 public:
  InterfaceInfo interface_info() const noexcept override { return {"PLUGIN_V3ONE_BUILD", 1, 0}; }
  virtual int32_t configure(const DynamicTensorDesc* in, int32_t inputs,
                            const DynamicTensorDesc* out, int32_t outputs) noexcept = 0;
  virtual int32_t output_types(ElementType* out, int32_t outputs, const ElementType* in,
                               int32_t inputs) const noexcept = 0;
  virtual int32_t output_shapes(const SymbolicDims* in, int32_t inputs,
                                const SymbolicDims* shape_in, int32_t shape_inputs,
                                SymbolicDims* out, int32_t outputs, void* builder) noexcept = 0;
  // Whether value `position` may be as it is, those before it being as they are.
  virtual bool supports(int32_t position, const DynamicTensorDesc* values, int32_t inputs,
                        int32_t outputs) noexcept = 0;
  virtual int32_t output_count() const noexcept = 0;
  virtual size_t workspace_bytes(const DynamicTensorDesc*, int32_t, const DynamicTensorDesc*,
                                 int32_t) const noexcept {
    return 0;
  }
  virtual int32_t valid_tactics(int32_t*, int32_t) noexcept { return 0; }
  virtual int32_t tactic_count() noexcept { return 0; }
  virtual const char* timing_cache_id() noexcept { return nullptr; }
  virtual int32_t format_combination_limit() noexcept { return 100; }
  virtual const char* metadata() noexcept { return nullptr; }
};

class Runtime : public Capability {
 public:
  InterfaceInfo interface_info() const noexcept override { return {"PLUGIN_V3ONE_RUNTIME", 1, 0}; }
  virtual int32_t set_tactic(int32_t) noexcept { return 0; }
  virtual int32_t on_shape_change(const TensorDesc* in, int32_t inputs, const TensorDesc* out,
                                  int32_t outputs) noexcept = 0;
  virtual int32_t enqueue(const TensorDesc* in, const TensorDesc* out, const void* const* inputs,
                          void* const* outputs, void* workspace, void* stream) noexcept = 0;
  virtual Plugin* attach_to_context(void* resources) noexcept = 0;
  virtual const Fields* fields_to_serialize() noexcept = 0;
};

class Creator : public Versioned {
 public:
  InterfaceInfo interface_info() const noexcept override { return {"PLUGIN CREATOR_V3ONE", 1, 0}; }
  // Null where the fields are not what the plugin takes.
  virtual Plugin* create(const char* name, const Fields* fields, int32_t phase) noexcept = 0;
  virtual const Fields* field_names() noexcept = 0;
  virtual const char* plugin_name() const noexcept = 0;
  virtual const char* plugin_version() const noexcept = 0;
  virtual const char* plugin_namespace() const noexcept = 0;
};

}  // namespace adfast::tensorrt

// What libadfast_trt.so exports, by the names that TensorRT looks for.
extern "C" {
void setLoggerFinder(void* finder);
adfast::tensorrt::Creator* const* getCreators(int32_t& count);
}
