// libadfast_trt.so as TensorRT uses it, on the emulated card: found, made, asked, run.
#include <cuda_runtime.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "backends/tensorrt/nvinfer_plugin.h"
#include "kernels/cuda/kernels.h"

using namespace adfast::tensorrt;
namespace kernels = adfast::kernels::cuda;

static int failures = 0;
#define CHECK(condition)                                          \
  do {                                                            \
    if (!(condition)) {                                           \
      std::printf("%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      failures++;                                                 \
    }                                                             \
  } while (false)

namespace {

constexpr int64_t block = 2, halo = 1, heads = 2, height = 6, width = 4, dim = 8, values = 6;
constexpr int64_t table = 2 * (block + 2 * halo) - 1;

// Of the plugin, in the order of its inputs, and of its output.
std::vector<TensorDesc> descriptions(ElementType type) {
  const auto map = [&](int64_t channels) {
    return TensorDesc{{4, {1, height, width, channels}}, type, Format::linear, 1};
  };
  const TensorDesc rows{{2, {table, dim / heads}}, ElementType::f32, Format::linear, 1};
  return {map(dim), map(dim), map(values), rows, rows, map(values)};
}

struct Given {
  int32_t block = ::block, halo = ::halo, heads = ::heads, legacy_mask = 0;
  float scale = 0.5f;
  std::vector<Field> fields() const {
    return {{"legacy_mask", &legacy_mask, FieldType::i32, 1},
            {"scale", &scale, FieldType::f32, 1},
            {"plugin_version", "1", static_cast<FieldType>(6), 1},
            {"block", &block, FieldType::i32, 1},
            {"halo", &halo, FieldType::i32, 1},
            {"heads", &heads, FieldType::i32, 1}};
  }
};

std::unique_ptr<Plugin> make(Creator* creator, const std::vector<Field>& fields) {
  const Fields given{static_cast<int32_t>(fields.size()), fields.data()};
  return std::unique_ptr<Plugin>(creator->create("layer", &given, 0));
}

void test_creator(Creator* creator) {
  CHECK(creator->plugin_name() == std::string("AdfastHaloAttention"));
  CHECK(creator->plugin_version() == std::string("1"));
  CHECK(creator->plugin_namespace() == std::string(""));
  const Fields* names = creator->field_names();
  CHECK(names->count == 5);
  const Given given;
  CHECK(make(creator, given.fields()) != nullptr);
  for (size_t without = 0; without < 6; ++without) {
    auto fields = given.fields();
    const bool needed = fields[without].name != std::string("plugin_version");
    fields.erase(fields.begin() + static_cast<int>(without));
    CHECK((make(creator, fields) == nullptr) == needed);
  }
  auto fields = given.fields();
  fields[3].type = FieldType::f32;
  CHECK(make(creator, fields) == nullptr);
  CHECK(creator->create("layer", nullptr, 0) == nullptr);
  for (auto change : {&Given::block, &Given::heads}) {
    Given zero;
    zero.*change = 0;
    CHECK(make(creator, zero.fields()) == nullptr);
  }
  Given below;
  below.halo = -1;
  CHECK(make(creator, below.fields()) == nullptr);
}

void test_build(Plugin& plugin) {
  auto* core = static_cast<Core*>(plugin.capability(CapabilityType::core));
  CHECK(core->plugin_name() == std::string("AdfastHaloAttention"));
  auto* build = static_cast<Build*>(plugin.capability(CapabilityType::build));
  CHECK(plugin.capability(static_cast<CapabilityType>(9)) == nullptr);
  CHECK(build->output_count() == 1);
  ElementType types[5] = {ElementType::f16, ElementType::f16, ElementType::f16, ElementType::f32,
                          ElementType::f32};
  ElementType out{};
  CHECK(build->output_types(&out, 1, types, 5) == 0 && out == ElementType::f16);
  CHECK(build->output_types(&out, 1, types, 4) != 0);
  const int places[4] = {};
  SymbolicDims in[5] = {}, made{};
  in[2] = {4, {&places[0], &places[1], &places[2], &places[3]}};
  CHECK(build->output_shapes(in, 5, nullptr, 0, &made, 1, nullptr) == 0);
  CHECK(std::memcmp(&made, &in[2], sizeof(made)) == 0);
  for (ElementType type : {ElementType::f32, ElementType::f16, ElementType::bf16}) {
    std::vector<DynamicTensorDesc> all;
    for (const TensorDesc& each : descriptions(type)) all.push_back({each, {}, {}, {}});
    for (int32_t i = 0; i < 6; ++i) CHECK(build->supports(i, all.data(), 5, 1));
    all[1].desc.format = static_cast<Format>(2);
    CHECK(!build->supports(1, all.data(), 5, 1));
    all[3].desc.type = ElementType::f16;
    CHECK(!build->supports(3, all.data(), 5, 1));
    all[5].desc.type = static_cast<ElementType>(2);
    CHECK(!build->supports(5, all.data(), 5, 1));
  }
}

void test_shapes(Plugin& plugin) {
  auto* runtime = static_cast<Runtime*>(plugin.capability(CapabilityType::runtime));
  auto all = descriptions(ElementType::f32);
  CHECK(runtime->on_shape_change(all.data(), 5, all.data() + 5, 1) == 0);
  const auto refused = [&](size_t which, int side, int64_t value) {
    auto other = all;
    other[which].dims.sides[side] = value;
    const void* none[5] = {};
    void* out = nullptr;
    return runtime->on_shape_change(other.data(), 5, other.data() + 5, 1) != 0 &&
           runtime->enqueue(other.data(), other.data() + 5, none, &out, nullptr, nullptr) != 0;
  };
  CHECK(refused(0, 1, 7) && refused(1, 2, 5) && refused(2, 3, 7) && refused(1, 3, 6));
  CHECK(refused(3, 0, 6) && refused(4, 1, 3) && refused(0, 0, 2));
}

void test_run(Creator* creator, Plugin& original, bool legacy_mask) {
  // As an engine keeps it: by its fields, and a copy for the context.
  auto* first = static_cast<Runtime*>(original.capability(CapabilityType::runtime));
  const Fields* kept = first->fields_to_serialize();
  const std::unique_ptr<Plugin> again(creator->create("layer", kept, 1));
  CHECK(again != nullptr);
  auto* stored = static_cast<Runtime*>(again->capability(CapabilityType::runtime));
  const std::unique_ptr<Plugin> attached(stored->attach_to_context(nullptr));
  auto* runtime = static_cast<Runtime*>(attached->capability(CapabilityType::runtime));

  const auto all = descriptions(ElementType::f32);
  std::vector<float*> memory;
  std::vector<size_t> counts;
  for (const TensorDesc& each : all) {
    size_t count = 1;
    for (int i = 0; i < each.dims.rank; ++i) count *= static_cast<size_t>(each.dims.sides[i]);
    std::vector<float> numbers(count);
    for (size_t i = 0; i < count; ++i) {
      numbers[i] = static_cast<float>((i * 37 + memory.size() * 11) % 101) / 50 - 1;
    }
    float* device = nullptr;
    CHECK(cudaMalloc(reinterpret_cast<void**>(&device), count * 4) == cudaSuccess);
    CHECK(cudaMemcpy(device, numbers.data(), count * 4, cudaMemcpyHostToDevice) == cudaSuccess);
    memory.push_back(device);
    counts.push_back(count);
  }
  const std::vector<const void*> inputs(memory.begin(), memory.begin() + 5);
  void* output = memory[5];
  cudaStream_t stream = nullptr;
  CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  CHECK(runtime->enqueue(all.data(), all.data() + 5, inputs.data(), &output, nullptr, stream) == 0);
  CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
  std::vector<float> got(counts[5]), want(counts[5]);
  CHECK(cudaMemcpy(got.data(), output, counts[5] * 4, cudaMemcpyDeviceToHost) == cudaSuccess);

  kernels::HaloAttentionArgs args{};
  args.q = memory[0];
  args.k = memory[1];
  args.v = memory[2];
  args.type = kernels::Type::f32;
  args.height = height;
  args.width = width;
  args.block = block;
  args.halo = halo;
  args.dim = dim;
  args.value_dim = values;
  args.heads = heads;
  args.rows = memory[3];
  args.columns = memory[4];
  args.scale = 0.5f;
  args.legacy_mask = legacy_mask;
  args.out = output;
  CHECK(cudaMemset(output, 0, counts[5] * 4) == cudaSuccess);
  CHECK(cudaStreamSynchronize(cudaStreamLegacy) == cudaSuccess);
  CHECK(kernels::halo_attention(args, stream) == cudaSuccess);
  CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
  CHECK(cudaMemcpy(want.data(), output, counts[5] * 4, cudaMemcpyDeviceToHost) == cudaSuccess);
  // With the mask of the published code, blocks at the edge read the zeros outside.
  CHECK(got == want && (legacy_mask || got[0] != 0));
  for (float* each : memory) CHECK(cudaFree(each) == cudaSuccess);
  CHECK(cudaStreamDestroy(stream) == cudaSuccess);
}

}  // namespace

int main(int argc, char** argv) {
  void* library = argc > 1 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : nullptr;
  if (library == nullptr) {
    std::printf("not opened: %s\n", argc > 1 ? dlerror() : "name libadfast_trt.so");
    return 1;
  }
  const auto list = reinterpret_cast<decltype(&getCreators)>(dlsym(library, "getCreators"));
  const auto finder =
      reinterpret_cast<decltype(&setLoggerFinder)>(dlsym(library, "setLoggerFinder"));
  CHECK(list != nullptr && finder != nullptr);
  finder(nullptr);
  int32_t count = 0;
  Creator* creator = list(count)[0];
  CHECK(count == 1);
  test_creator(creator);
  for (int32_t legacy : {0, 1}) {
    Given given;
    given.legacy_mask = legacy;
    const auto plugin = make(creator, given.fields());
    test_build(*plugin);
    test_shapes(*plugin);
    test_run(creator, *plugin, legacy != 0);
  }
  std::printf("tensorrt_plugin: %s\n", failures == 0 ? "passed" : "FAILED");
  return failures == 0 ? 0 : 1;
}
