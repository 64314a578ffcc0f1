// Bytes as a plan: parsed, and when they are one, loaded and run on a small frame. Errors are what
// a hostile file must get; anything else, a sanitizer's report above all, is a finding.
//
// The mutator works on the sections and makes the digests right again: without that nothing would
// get past them. It changes bytes, or the graph record by record; a result whose shape is then not
// the one that its op gives is put right before the plan is tried again, or one change would hide
// all that comes behind it.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <memory>
#include <new>
#include <random>
#include <span>
#include <string>
#include <variant>
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

template <class T>
void put_number(std::vector<uint8_t>& out, T value) {
  out.resize(out.size() + sizeof(T));
  put(out, out.size() - sizeof(T), value);
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

void put_text(std::vector<uint8_t>& out, const std::string& text) {
  put_number<uint32_t>(out, static_cast<uint32_t>(text.size()));
  out.insert(out.end(), text.begin(), text.end());
}

void put_ids(std::vector<uint8_t>& out, const std::vector<int32_t>& ids) {
  put_number<uint32_t>(out, static_cast<uint32_t>(ids.size()));
  for (int32_t id : ids) put_number(out, id);
}

void put_table(std::vector<uint8_t>& out, const Table& table) {
  put_number<uint32_t>(out, static_cast<uint32_t>(table.entries.size()));
  for (const auto& [key, field] : table.entries) {
    put_text(out, key);
    put_number<uint8_t>(out, static_cast<uint8_t>(field.index() + 1));
    const auto many = [&](const auto& values) {
      put_number<uint32_t>(out, static_cast<uint32_t>(values.size()));
      for (const auto value : values) put_number(out, value);
    };
    if (const auto* whole = std::get_if<int64_t>(&field)) put_number(out, *whole);
    if (const auto* real = std::get_if<double>(&field)) put_number(out, *real);
    if (const auto* text = std::get_if<std::string>(&field)) put_text(out, *text);
    if (const auto* list = std::get_if<std::vector<int64_t>>(&field)) many(*list);
    if (const auto* list = std::get_if<std::vector<double>>(&field)) many(*list);
  }
}

// `weights`: where the constants' data lie.
std::vector<uint8_t> written(const Graph& graph, const std::vector<uint8_t>& weights) {
  std::vector<uint8_t> out;
  put_number<uint32_t>(out, static_cast<uint32_t>(graph.values.size()));
  for (const Value& value : graph.values) {
    put_text(out, value.name);
    put_number<uint8_t>(out, value.type == DType::i32);
    put_number<uint8_t>(out, value.constant);
    put_number<uint8_t>(out, static_cast<uint8_t>(value.shape.size()));
    put_number<uint8_t>(out, 0);
    for (int64_t side : value.shape) put_number(out, side);
    if (!value.constant) continue;
    const auto* begin = reinterpret_cast<const std::byte*>(weights.data());
    // One that was not a constant before gets the first ones' data.
    put_number<uint64_t>(out, value.data.empty() ? 0 : value.data.data() - begin);
    put_number<uint64_t>(out, static_cast<uint64_t>(element_count(value.shape)) * 4);
  }
  put_number<uint32_t>(out, static_cast<uint32_t>(graph.nodes.size()));
  for (const Node& node : graph.nodes) {
    put_text(out, node.op);
    put_text(out, node.name);
    put_ids(out, node.inputs);
    put_ids(out, node.outputs);
    put_table(out, node.attrs);
  }
  put_ids(out, graph.inputs);
  put_number<uint32_t>(out, static_cast<uint32_t>(graph.outputs.size()));
  for (const auto& [role, id] : graph.outputs) {
    put_text(out, role);
    put_number(out, id);
  }
  return out;
}

constexpr const char* op_names[] = {"frame",
                                    "conv2d",
                                    "max_pool2d",
                                    "avg_pool2d",
                                    "linear",
                                    "attention",
                                    "window_gather",
                                    "token_attention",
                                    "projector_attention",
                                    "score_map",
                                    "projector_score_map",
                                    "fuse_maps",
                                    "gaussian_blur",
                                    "gms_map",
                                    "calibrate_map",
                                    "layer_norm",
                                    "softmax",
                                    "relu",
                                    "gelu",
                                    "sqrt",
                                    "abs",
                                    "square",
                                    "add",
                                    "sub",
                                    "mul",
                                    "div",
                                    "max",
                                    "tokens",
                                    "feature_map",
                                    "view",
                                    "depth_to_space",
                                    "concat",
                                    "slice",
                                    "reduce_mean",
                                    "reduce_max",
                                    "resize_bilinear",
                                    "resize_nearest",
                                    "reflection_pad2d",
                                    "halo_attention"};

// One change of a record, which keeps the file readable most of the time.
void change(Graph& graph, std::minstd_rand& random) {
  const auto below = [&](size_t count) { return count == 0 ? 0 : random() % count; };
  const auto whole = [&]() -> int64_t {
    static constexpr int64_t edges[] = {0,  1,  2,   3,   4,    5,     7,     8,          16, 17,
                                        31, 64, 255, 256, 1023, 32767, 32768, 2147483647, -1};
    return edges[below(std::size(edges))];
  };
  if (graph.values.empty() || graph.nodes.empty()) return;
  Value& value = graph.values[below(graph.values.size())];
  Node& node = graph.nodes[below(graph.nodes.size())];
  switch (below(12)) {
    case 0:
    case 1:  // a side
      if (!value.shape.empty()) value.shape[below(value.shape.size())] = std::abs(whole());
      break;
    case 2:  // a rank
      if (value.shape.size() < 5 && below(2) == 0) {
        value.shape.insert(value.shape.begin() + below(value.shape.size() + 1), 1);
      } else if (!value.shape.empty()) {
        value.shape.erase(value.shape.begin() + below(value.shape.size()));
      }
      break;
    case 3:
      value.constant = !value.constant;
      break;
    case 4:
      value.type = value.type == DType::i32 ? DType::f32 : DType::i32;
      break;
    case 5:
      node.op = op_names[below(std::size(op_names))];
      break;
    case 6:  // an operand
      if (!node.inputs.empty()) {
        node.inputs[below(node.inputs.size())] =
            static_cast<int32_t>(below(graph.values.size() + 1)) - 1;
      }
      break;
    case 7:
      if (below(2) == 0) {
        node.inputs.push_back(static_cast<int32_t>(below(graph.values.size())));
      } else if (!node.inputs.empty()) {
        node.inputs.pop_back();
      }
      break;
    case 8: {  // another node's attributes
      const Table& other = graph.nodes[below(graph.nodes.size())].attrs;
      for (const auto& [key, field] : other.entries) node.attrs.entries.emplace(key, field);
      break;
    }
    default: {  // an attribute
      if (node.attrs.entries.empty()) break;
      auto entry = node.attrs.entries.begin();
      std::advance(entry, below(node.attrs.entries.size()));
      Field& field = entry->second;
      if (auto* one = std::get_if<int64_t>(&field)) *one = whole();
      if (auto* one = std::get_if<double>(&field)) *one = static_cast<double>(whole()) * 0.01;
      if (auto* list = std::get_if<std::vector<int64_t>>(&field)) {
        if (list->empty() || below(8) == 0) {
          list->push_back(whole());
        } else {
          (*list)[below(list->size())] = whole();
        }
      }
      if (below(32) == 0) node.attrs.entries.erase(entry);
    }
  }
}

// The graph, changed; false where it cannot be read.
bool change_graph(File& file, std::minstd_rand& random) {
  auto &bytes = file.sections[1], &weights = file.sections[6];
  // Constants that become larger find data.
  if (weights.size() < 1 << 12) weights.resize(1 << 12, 0x3c);
  try {
    Graph graph = read_graph(std::as_bytes(std::span(bytes)), std::as_bytes(std::span(weights)));
    for (unsigned times = 1 + random() % 3; times > 0; --times) change(graph, random);
    bytes = written(graph, weights);
    return true;
  } catch (const std::exception&) {
    return false;
  }
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

// Of an error "output 0 'name': expected [1,2], got ...": the shape goes into the graph.
bool put_right(Graph& graph, const std::string& error) {
  const size_t name = error.find("] output ");
  const size_t begin = error.find(": expected [", name);
  if (name == std::string::npos || begin == std::string::npos) return false;
  const size_t quote = error.find('\'', name), end = error.find(']', begin);
  if (quote == std::string::npos || quote > begin || end == std::string::npos) return false;
  const std::string value = error.substr(quote + 1, begin - quote - 2);
  Shape shape;
  for (const char* digits = error.c_str() + begin + 12; *digits != ']';) {
    char* after = nullptr;
    shape.push_back(std::strtoll(digits, &after, 10));
    if (after == digits || shape.back() < 1 || shape.back() > 1 << 20 || shape.size() > 8) {
      return false;
    }
    digits = *after == ',' ? after + 1 : after;
  }
  for (Value& each : graph.values) {
    if (each.name != value || each.constant || each.shape == shape) continue;
    each.shape = shape;
    return true;
  }
  return false;
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
    Plan plan = Plan::parse({reinterpret_cast<const std::byte*>(data), size}, "fuzz");
    print(plan.graph);
    const bool takes_frames = std::any_of(plan.graph.nodes.begin(), plan.graph.nodes.end(),
                                          [](const Node& node) { return node.op == "frame"; });
    const bool scalar = size % 3 == 0;
    for (int tries = 0; tries < 16 && is_small(plan.graph); ++tries) {
      try {
        takes_frames ? run_detector(plan, scalar) : run_graph(plan.graph, scalar);
        break;
      } catch (const Error& error) {
        if (!put_right(plan.graph, error.what())) break;
      }
    }
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
  if (random() % 3 != 0 && change_graph(file, random)) {
    const std::vector<uint8_t> out = joined(file);
    if (out.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
    std::memcpy(data, out.data(), out.size());
    return out.size();
  }
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
