// libadfast_trt.so: the fused pieces that have no good counterpart among TensorRT's layers, as
// plugins over the same kernels. TensorRT loads it while an engine is built, and when one that has
// them is opened.
#include <cuda_runtime_api.h>

#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>

#include "backends/cuda/halo.h"
#include "backends/tensorrt/nvinfer_plugin.h"
#include "kernels/cuda/kernels.h"

namespace adfast::tensorrt {
namespace {

namespace kernels = adfast::kernels::cuda;

constexpr char name[] = "AdfastHaloAttention";
constexpr char version[] = "1";

// Kernels of the current card, kept until the process ends: its runtime may be gone before statics.
cuda::TritonKernels& triton_of_card(int card) {
  static auto& cards = *new std::map<int, cuda::TritonKernels*>;
  cuda::TritonKernels*& found = cards[card];
  if (found == nullptr) {
    int major = 0, minor = 0;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, card);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, card);
    found = new cuda::TritonKernels(10 * major + minor);
  }
  return *found;
}

kernels::Type kernel_type(ElementType type) {
  return type == ElementType::f32   ? kernels::Type::f32
         : type == ElementType::f16 ? kernels::Type::f16
                                    : kernels::Type::bf16;
}

// q, k, v, [1,H,W,C] each, and the tables of rows and columns, [2*(block+2*halo)-1,C/heads] in f32;
// gives [1,H,W,C of v]. As the op halo_attention, channels last.
class HaloAttention final : public Plugin, public Core, public Build, public Runtime {
 public:
  struct Numbers {
    int32_t block = 0, halo = 0, heads = 0, legacy_mask = 0;
    float scale = 0;
  };
  static constexpr int32_t inputs = 5;

  explicit HaloAttention(const Numbers& numbers) : numbers_(numbers) {}

  static std::array<Field, 5> fields(const Numbers& n) {
    return {{{"block", &n.block, FieldType::i32, 1},
             {"halo", &n.halo, FieldType::i32, 1},
             {"heads", &n.heads, FieldType::i32, 1},
             {"legacy_mask", &n.legacy_mask, FieldType::i32, 1},
             {"scale", &n.scale, FieldType::f32, 1}}};
  }

  Capability* capability(CapabilityType type) noexcept override {
    if (type == CapabilityType::core) return static_cast<Core*>(this);
    if (type == CapabilityType::build) return static_cast<Build*>(this);
    if (type == CapabilityType::runtime) return static_cast<Runtime*>(this);
    return nullptr;
  }
  Plugin* clone() noexcept override { return new (std::nothrow) HaloAttention(numbers_); }

  const char* plugin_name() const noexcept override { return name; }
  const char* plugin_version() const noexcept override { return version; }
  const char* plugin_namespace() const noexcept override { return ""; }

  int32_t configure(const DynamicTensorDesc*, int32_t given, const DynamicTensorDesc*,
                    int32_t outputs) noexcept override {
    return given == inputs && outputs == 1 ? 0 : 1;
  }
  int32_t output_types(ElementType* out, int32_t outputs, const ElementType* in,
                       int32_t given) const noexcept override {
    if (given != inputs || outputs != 1) return 1;
    out[0] = in[2];
    return 0;
  }
  int32_t output_shapes(const SymbolicDims* in, int32_t given, const SymbolicDims*, int32_t,
                        SymbolicDims* out, int32_t outputs, void*) noexcept override {
    if (given != inputs || outputs != 1) return 1;
    out[0] = in[2];
    return 0;
  }
  bool supports(int32_t position, const DynamicTensorDesc* values, int32_t,
                int32_t) noexcept override {
    const TensorDesc& value = values[position].desc;
    if (value.format != Format::linear) return false;
    if (position == 3 || position == 4) return value.type == ElementType::f32;
    const bool known = value.type == ElementType::f32 || value.type == ElementType::f16 ||
                       value.type == ElementType::bf16;
    return known && value.type == values[0].desc.type;
  }
  int32_t output_count() const noexcept override { return 1; }

  int32_t on_shape_change(const TensorDesc* in, int32_t given, const TensorDesc*,
                          int32_t) noexcept override {
    return given == inputs && fits(in) ? 0 : 1;
  }
  int32_t enqueue(const TensorDesc* in, const TensorDesc*, const void* const* from, void* const* to,
                  void*, void* stream) noexcept override {
    if (!fits(in)) return 1;
    kernels::HaloAttentionArgs args{};
    args.q = from[0];
    args.k = from[1];
    args.v = from[2];
    args.type = kernel_type(in[0].type);
    args.height = in[0].dims.sides[1];
    args.width = in[0].dims.sides[2];
    args.dim = in[0].dims.sides[3];
    args.value_dim = in[2].dims.sides[3];
    args.block = numbers_.block;
    args.halo = numbers_.halo;
    args.heads = numbers_.heads;
    args.rows = static_cast<const float*>(from[3]);
    args.columns = static_cast<const float*>(from[4]);
    args.scale = numbers_.scale;
    args.legacy_mask = numbers_.legacy_mask != 0;
    args.out = to[0];
    try {
      static std::mutex mutex;
      const std::lock_guard lock(mutex);
      int card = 0;
      if (cudaGetDevice(&card) != cudaSuccess) return 1;
      const cuda::TritonKernel* fast = cuda::triton_halo_attention(args, triton_of_card(card));
      const auto on = static_cast<cudaStream_t>(stream);
      return cuda::launch_halo_attention(fast, args, on) == cudaSuccess ? 0 : 1;
    } catch (...) {
      return 1;
    }
  }
  Plugin* attach_to_context(void*) noexcept override { return clone(); }
  const Fields* fields_to_serialize() noexcept override {
    serialised_ = fields(numbers_);
    collection_ = {static_cast<int32_t>(serialised_.size()), serialised_.data()};
    return &collection_;
  }

 private:
  bool fits(const TensorDesc* in) const {
    const Dims &q = in[0].dims, &k = in[1].dims, &v = in[2].dims;
    const auto is_map = [&](const Dims& d) {
      return d.rank == 4 && d.sides[0] == 1 && d.sides[1] == q.sides[1] &&
             d.sides[2] == q.sides[2] && d.sides[3] > 0 && d.sides[3] % numbers_.heads == 0;
    };
    const auto is_table = [&](const Dims& d) {
      return d.rank == 2 && d.sides[0] == 2 * (numbers_.block + 2 * numbers_.halo) - 1 &&
             d.sides[1] == q.sides[3] / numbers_.heads;
    };
    return is_map(q) && is_map(k) && is_map(v) && k.sides[3] == q.sides[3] &&
           q.sides[1] % numbers_.block == 0 && q.sides[2] % numbers_.block == 0 &&
           is_table(in[3].dims) && is_table(in[4].dims);
  }

  Numbers numbers_;
  std::array<Field, 5> serialised_{};
  Fields collection_{0, nullptr};
};

class HaloAttentionCreator final : public Creator {
 public:
  Plugin* create(const char*, const Fields* given, int32_t) noexcept override {
    HaloAttention::Numbers numbers;
    for (const Field& wanted : HaloAttention::fields(numbers)) {
      bool found = false;
      for (int32_t i = 0; given != nullptr && i < given->count; ++i) {
        const Field& field = given->fields[i];
        if (std::strcmp(field.name, wanted.name) != 0) continue;
        if (field.type != wanted.type || field.length != 1 || field.data == nullptr) return nullptr;
        std::memcpy(const_cast<void*>(wanted.data), field.data, 4);
        found = true;
      }
      if (!found) return nullptr;
    }
    if (numbers.block < 1 || numbers.halo < 0 || numbers.heads < 1 || !std::isfinite(numbers.scale))
      return nullptr;
    return new (std::nothrow) HaloAttention(numbers);
  }
  const Fields* field_names() noexcept override {
    static const HaloAttention::Numbers none;
    static const std::array<Field, 5> fields = [] {
      auto made = HaloAttention::fields(none);
      for (Field& field : made) field.data = nullptr;
      return made;
    }();
    static const Fields collection{static_cast<int32_t>(fields.size()), fields.data()};
    return &collection;
  }
  const char* plugin_name() const noexcept override { return name; }
  const char* plugin_version() const noexcept override { return version; }
  const char* plugin_namespace() const noexcept override { return ""; }
};

}  // namespace
}  // namespace adfast::tensorrt

extern "C" {

__attribute__((visibility("default"))) void setLoggerFinder(void*) {}

__attribute__((visibility("default"))) adfast::tensorrt::Creator* const* getCreators(
    int32_t& count) {
  // Never destroyed: TensorRT may ask at the very end.
  static adfast::tensorrt::Creator* const creators[] = {new adfast::tensorrt::HaloAttentionCreator};
  count = 1;
  return creators;
}
}
