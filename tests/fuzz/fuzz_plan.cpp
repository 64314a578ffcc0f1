// Bytes as a plan: parsed, and when they are one, loaded and run on a small frame. Errors are what
// a hostile file must get; anything else, a sanitizer's report above all, is a finding.
//
// The mutator works on the sections and makes the digests right again: without that nothing would
// get past them.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "plan/plan.h"
#include "plan/sha256.h"
#include "runtime/engine.h"
#include "runtime/program.h"

using namespace adfast;

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace {

constexpr size_t header_size = 64, entry_size = 64, signature_size = 128, count = 7;

struct File {
  std::string names[count];
  std::vector<uint8_t> sections[count];
  bool is_signed = false;
};

template <class T>
T number(const uint8_t* data) {
  T value;
  std::memcpy(&value, data, sizeof(T));
  return value;
}

template <class T>
void put(std::vector<uint8_t>& out, size_t at, T value) {
  std::memcpy(out.data() + at, &value, sizeof(T));
}

// False for what has no seven sections within its bytes.
bool split(const uint8_t* data, size_t size, File* file) {
  if (size < header_size + count * entry_size || number<uint32_t>(data + 24) != count) return false;
  file->is_signed = number<uint32_t>(data + 28) == 1;
  for (size_t i = 0; i < count; ++i) {
    const uint8_t* entry = data + header_size + i * entry_size;
    const auto offset = number<uint64_t>(entry + 16), length = number<uint64_t>(entry + 24);
    if (offset > size || length > size - offset) return false;
    file->names[i].assign(reinterpret_cast<const char*>(entry), 16);
    file->sections[i].assign(data + offset, data + offset + length);
  }
  return true;
}

std::vector<uint8_t> joined(const File& file) {
  const size_t begin = header_size + count * entry_size;
  std::vector<uint8_t> out(begin);
  std::memcpy(out.data(), "ADFPLAN\x1a", 8);
  for (size_t i = 0; i < count; ++i) {
    out.resize((out.size() + 63) / 64 * 64);
    const size_t at = header_size + i * entry_size;
    const auto& section = file.sections[i];
    std::memcpy(out.data() + at, file.names[i].data(), 16);
    put<uint64_t>(out, at + 16, out.size());
    put<uint64_t>(out, at + 24, section.size());
    const Digest digest = sha256(std::as_bytes(std::span(section)));
    std::memcpy(out.data() + at + 32, digest.data(), digest.size());
    out.insert(out.end(), section.begin(), section.end());
  }
  if (file.is_signed) {
    const size_t at = out.size();
    out.resize(at + signature_size);
    std::memcpy(out.data() + at, "ADFSIGN\x1a\1", 9);
  }
  const uint32_t version = file.is_signed ? 2 : 1;
  put<uint32_t>(out, 8, version);
  put<uint32_t>(out, 12, version);
  put<uint64_t>(out, 16, out.size());
  put<uint32_t>(out, 24, count);
  put<uint32_t>(out, 28, file.is_signed);
  const auto bytes = std::as_bytes(std::span(out));
  const Digest digest = sha256(bytes.first(32), bytes.subspan(header_size, count * entry_size));
  std::memcpy(out.data() + 32, digest.data(), digest.size());
  return out;
}

// What would take long or much memory without being wrong.
bool is_small(const Graph& graph) {
  constexpr double most_elements = 1 << 20, most_products = 1 << 25;
  double elements = 0;
  for (const Value& value : graph.values) {
    elements += static_cast<double>(element_count(value.shape));
  }
  double products = 0;
  for (const Node& node : graph.nodes) {
    double in = 0, out = 0;
    for (int32_t id : node.inputs) {
      if (id < 0) continue;
      in = std::max(in, static_cast<double>(element_count(graph.values[id].shape)));
    }
    for (int32_t id : node.outputs) {
      out = std::max(out, static_cast<double>(element_count(graph.values[id].shape)));
    }
    products += in * out;
    // Tables of weights grow with the frame's sides.
    if (node.op == "frame") {
      for (int64_t side : node.attrs.integers("resize", 2, 1, max_frame_side)) elements += side;
    }
  }
  return elements <= most_elements && products <= most_products;
}

void run_detector(const Plan& plan, bool scalar) {
  EngineOptions options;
  options.threads = 1;
  if (scalar) options.isa = "scalar";
  Engine engine(plan, options);
  constexpr int64_t height = 19, width = 23;
  const std::vector<uint8_t> pixels(height * width, 77);
  std::vector<float> map(height * width), network_map(engine.map_height() * engine.map_width());
  Job job;
  job.frame = {pixels.data(), mono8, height, width, width, 1, 0};
  job.map = map.data();
  job.network_map = network_map.data();
  engine.predict(job);
}

// A graph with inputs of its own, as the tests of single ops write.
void run_graph(const Graph& graph, bool scalar) {
  CpuOptions options{"f32"};
  if (scalar) options.isa = "scalar";
  const auto backend = make_cpu_backend(options);
  const uint64_t state = backend->enter_thread(1);
  try {
    const Program program(graph, *backend);
    Context context(program, *backend, 1, FrameGeometry{1, 1, 1, 1, true});
    Workers workers(1);
    for (int32_t id : program.inputs()) {
      const Tensor& tensor = program.tensors()[id];
      std::memset(context.data(id), 0x3c, tensor.bytes());
    }
    context.run(&workers, 1);
    backend->leave_thread(state);
  } catch (...) {
    backend->leave_thread(state);
    throw;
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) { return 0; }

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const Plan plan = Plan::parse({reinterpret_cast<const std::byte*>(data), size}, "fuzz");
    print(plan.graph);
    if (!is_small(plan.graph)) return 0;
    const bool takes_frames = std::any_of(plan.graph.nodes.begin(), plan.graph.nodes.end(),
                                          [](const Node& node) { return node.op == "frame"; });
    const bool scalar = size % 3 == 0;
    takes_frames ? run_detector(plan, scalar) : run_graph(plan.graph, scalar);
  } catch (const Error&) {
  } catch (const std::bad_alloc&) {
  }
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  std::minstd_rand random(seed);
  File file;
  // Some go without, for the header and the digests themselves.
  if (random() % 16 == 0 || !split(data, size, &file))
    return LLVMFuzzerMutate(data, size, max_size);
  // fields, graph, calibration, golden, parity, provenance, weights: most is read in the graph.
  static constexpr size_t targets[] = {0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 3, 4, 5, 6};
  for (unsigned times = 1 + random() % 3; times > 0; --times) {
    auto& section = file.sections[targets[random() % std::size(targets)]];
    const size_t before = section.size();
    switch (random() % 4) {
      case 0:  // any mutation, of a piece: the rest of the records stays in step
      case 1:
        if (before > 0) {
          const size_t at = random() % before, length = std::min<size_t>(before - at, 8);
          LLVMFuzzerMutate(section.data() + at, length, length);
          break;
        }
        [[fallthrough]];
      case 2:
        section.resize(before + 64);
        section.resize(LLVMFuzzerMutate(section.data(), before, section.size()));
        break;
      case 3:  // a count, a dimension or an attribute
        if (before >= 8) {
          static constexpr int64_t edges[] = {0,   -1,    1,       2,         3,         255,
                                              256, 32768, 1 << 20, INT32_MAX, INT64_MAX, INT64_MIN};
          const int64_t value = edges[random() % std::size(edges)];
          const size_t at = random() % (before - 7);
          std::memcpy(section.data() + at, &value, random() % 2 ? 4 : 8);
        }
        break;
    }
  }
  if (random() % 64 == 0) file.is_signed = !file.is_signed;
  const std::vector<uint8_t> out = joined(file);
  if (out.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
  std::memcpy(data, out.data(), out.size());
  return out.size();
}
