#include "plan/plan.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>

#include "core/error.h"
#include "plan/byte_reader.h"

namespace adfast {
namespace {

constexpr char magic[8] = {'A', 'D', 'F', 'P', 'L', 'A', 'N', '\x1a'};
constexpr size_t header_size = 64;
constexpr size_t hashed_header_size = 32;
constexpr size_t section_entry_size = 64;
constexpr std::array<std::string_view, 7> section_names = {
    "fields", "graph", "calibration", "golden", "parity", "provenance", "weights"};
constexpr uint32_t max_rank = 8;
constexpr int64_t max_dim = int64_t{1} << 31;
constexpr int64_t max_elements = int64_t{1} << 40;

[[noreturn]] void damaged(const std::string& path, const std::string& what) {
  throw Error(ErrorKind::plan, path + ": " + what + "; the file is damaged, build the plan again");
}

std::shared_ptr<const void> map_file(const std::string& path, uint64_t* size) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) {
    throw Error(ErrorKind::io, "cannot open plan " + path + ": " + std::strerror(errno));
  }
  struct stat status{};
  const bool known = ::fstat(file, &status) == 0;
  if (!known || !S_ISREG(status.st_mode)) {
    ::close(file);
    throw Error(ErrorKind::io, "cannot open plan " + path + ": not a regular file");
  }
  *size = static_cast<uint64_t>(status.st_size);
  if (*size < header_size) {
    ::close(file);
    throw Error(ErrorKind::plan, path + ": " + std::to_string(*size) +
                                     " bytes; a plan has at least " + std::to_string(header_size) +
                                     ": not a plan, or cut short");
  }
  void* address = ::mmap(nullptr, *size, PROT_READ, MAP_PRIVATE, file, 0);
  const int reason = errno;
  ::close(file);
  if (address == MAP_FAILED) {
    throw Error(ErrorKind::io, "cannot map plan " + path + ": " + std::strerror(reason));
  }
  const uint64_t length = *size;
  return {address, [length](const void* p) { ::munmap(const_cast<void*>(p), length); }};
}

Table read_table(ByteReader& in, std::string owner) {
  Table table;
  table.owner = std::move(owner);
  const uint32_t count = in.count(5);
  for (uint32_t i = 0; i < count; ++i) {
    std::string key = in.text();
    Field field;
    switch (const auto type = in.number<uint8_t>()) {
      case 1:
        field = in.number<int64_t>();
        break;
      case 2:
        field = in.number<double>();
        break;
      case 3:
        field = in.text();
        break;
      case 4:
        field = in.numbers<int64_t>();
        break;
      case 5:
        field = in.numbers<double>();
        break;
      default:
        in.fail("'" + key + "' has type " + std::to_string(type) + ", expected 1 to 5");
    }
    if (!table.entries.emplace(key, std::move(field)).second) in.fail("'" + key + "' twice");
  }
  return table;
}

Shape read_shape(ByteReader& in, uint32_t rank, const std::string& name) {
  Shape shape(rank);
  int64_t count = 1;
  for (int64_t& dim : shape) {
    dim = in.number<int64_t>();
    if (dim < 1 || dim > max_dim) {
      in.fail("value '" + name + "' has a dimension of " + std::to_string(dim));
    }
    if (count > max_elements / dim) in.fail("value '" + name + "' has too many elements");
    count *= dim;
  }
  return shape;
}

std::vector<int32_t> read_ids(ByteReader& in, size_t values, bool may_be_absent) {
  std::vector<int32_t> ids = in.numbers<int32_t>();
  for (int32_t id : ids) {
    if (id < (may_be_absent ? -1 : 0) || id >= static_cast<int64_t>(values)) {
      in.fail("value number " + std::to_string(id) + " of " + std::to_string(values));
    }
  }
  return ids;
}

// Every value is set exactly once, before it is used: the property the runtime's planning rests on.
void check_order(const Graph& graph, const ByteReader& in) {
  std::vector<bool> set(graph.values.size());
  for (size_t i = 0; i < set.size(); ++i) set[i] = graph.values[i].constant;
  const auto define = [&](int32_t id) {
    if (set[id]) in.fail("value '" + graph.values[id].name + "' is set twice");
    set[id] = true;
  };
  const auto use = [&](int32_t id) {
    if (!set[id]) in.fail("value '" + graph.values[id].name + "' is used before it is set");
  };
  for (int32_t id : graph.inputs) define(id);
  for (const Node& node : graph.nodes) {
    for (int32_t id : node.inputs) {
      if (id >= 0) use(id);
    }
    for (int32_t id : node.outputs) define(id);
  }
  for (const auto& [role, id] : graph.outputs) use(id);
}

std::vector<GoldenFrame> read_golden(ByteReader in, Table* info) {
  *info = read_table(in, "golden frames");
  std::vector<GoldenFrame> frames(in.count(24));
  for (GoldenFrame& frame : frames) {
    frame.height = in.number<uint32_t>();
    frame.width = in.number<uint32_t>();
    frame.channels = in.number<uint32_t>();
    if (frame.height < 1 || frame.height > 65535 || frame.width < 1 || frame.width > 65535 ||
        (frame.channels != 1 && frame.channels != 3)) {
      in.fail("a golden frame of " + std::to_string(frame.height) + "x" +
              std::to_string(frame.width) + "x" + std::to_string(frame.channels));
    }
    frame.pixels = in.take(static_cast<uint64_t>(frame.height * frame.width * frame.channels));
    frame.score = in.number<float>();
    frame.map_height = in.number<uint32_t>();
    frame.map_width = in.number<uint32_t>();
    if (frame.map_height > 65535 || frame.map_width > 65535) in.fail("a golden map too large");
    frame.map = in.take(static_cast<uint64_t>(frame.map_height * frame.map_width) * 4);
  }
  in.expect_end();
  return frames;
}

std::vector<Section> read_sections(const std::string& path, std::span<const std::byte> bytes,
                                   uint32_t count) {
  if (count != section_names.size()) {
    damaged(path,
            std::to_string(count) + " sections, expected " + std::to_string(section_names.size()));
  }
  ByteReader in(bytes.subspan(header_size, count * section_entry_size), "section table");
  std::vector<Section> sections(count);
  uint64_t end = header_size + count * section_entry_size;
  for (uint32_t i = 0; i < count; ++i) {
    Section& section = sections[i];
    const auto name = in.take(16);
    const auto* chars = reinterpret_cast<const char*>(name.data());
    section.name.assign(chars, ::strnlen(chars, 16));
    section.offset = in.number<uint64_t>();
    section.size = in.number<uint64_t>();
    std::memcpy(section.digest.data(), in.take(32).data(), 32);
    if (section.name != section_names[i]) {
      damaged(path,
              "section '" + section.name + "', expected '" + std::string(section_names[i]) + "'");
    }
    if (section.offset % 64 != 0 || section.offset < end || section.offset - end >= 64 ||
        section.offset > bytes.size() || section.size > bytes.size() - section.offset) {
      damaged(path, "section '" + section.name + "' lies outside the file (" +
                        std::to_string(bytes.size()) + " bytes)");
    }
    const auto gap = bytes.subspan(end, section.offset - end);
    if (std::any_of(gap.begin(), gap.end(), [](std::byte b) { return b != std::byte{0}; })) {
      damaged(path, "bytes between sections are not zero");
    }
    end = section.offset + section.size;
  }
  if (end != bytes.size()) damaged(path, "bytes after the last section");
  return sections;
}

}  // namespace

template <class T>
const T& Table::get(std::string_view key, const char* type) const {
  const auto found = entries.find(key);
  if (found == entries.end()) {
    throw Error(ErrorKind::plan, "[" + owner + "] '" + std::string(key) + "' is missing");
  }
  const T* value = std::get_if<T>(&found->second);
  if (value == nullptr) {
    throw Error(ErrorKind::plan, "[" + owner + "] '" + std::string(key) + "' is not " + type);
  }
  return *value;
}

template const int64_t& Table::get<int64_t>(std::string_view, const char*) const;
template const std::vector<int64_t>& Table::get<std::vector<int64_t>>(std::string_view,
                                                                      const char*) const;
template const double& Table::get<double>(std::string_view, const char*) const;
template const std::string& Table::get<std::string>(std::string_view, const char*) const;

std::vector<int64_t> Table::integers(std::string_view key, size_t count, int64_t low,
                                     int64_t high) const {
  const auto& values = integers(key);
  const bool fits =
      values.size() == count &&
      std::all_of(values.begin(), values.end(), [&](int64_t v) { return v >= low && v <= high; });
  if (!fits) {
    throw Error(ErrorKind::plan, "[" + owner + "] '" + std::string(key) + "' is " +
                                     to_string(values) + ", expected " + std::to_string(count) +
                                     " values from " + std::to_string(low) + " to " +
                                     std::to_string(high));
  }
  return values;
}

std::vector<double> Table::reals(std::string_view key, size_t count) const {
  const auto& values = get<std::vector<double>>(key, "a list of real numbers");
  if (values.size() != count ||
      !std::all_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); })) {
    throw Error(ErrorKind::plan, "[" + owner + "] '" + std::string(key) + "' has " +
                                     std::to_string(values.size()) + " values, expected " +
                                     std::to_string(count) + " finite ones");
  }
  return values;
}

std::optional<Levels> Node::input_levels() const {
  if (!attrs.has("input_scale")) return std::nullopt;
  const auto scale = static_cast<float>(attrs.real("input_scale"));
  const int64_t zero = attrs.integer("input_zero");
  // Reciprocals and products of scales must be floats too.
  if (!(scale >= 1e-18f && scale <= 1e18f) || zero < 0 || zero > 255) {
    throw Error(ErrorKind::plan, "[" + attrs.owner + "] is quantised with scale " +
                                     std::to_string(scale) + " and zero " + std::to_string(zero) +
                                     ", expected 1e-18 to 1e18 and 0 to 255");
  }
  return Levels{scale, static_cast<int32_t>(zero)};
}

int32_t Graph::output(std::string_view role) const {
  for (const auto& [name, id] : outputs) {
    if (name == role) return id;
  }
  return -1;
}

std::span<const std::byte> Plan::section(std::string_view name) const {
  for (const Section& section : sections) {
    if (section.name == name) return bytes_.subspan(section.offset, section.size);
  }
  throw Error(ErrorKind::argument, "a plan has no section '" + std::string(name) + "'");
}

Graph read_graph(std::span<const std::byte> bytes, std::span<const std::byte> weights) {
  ByteReader in(bytes, "graph");
  Graph graph;
  graph.values.resize(in.count(8));
  for (Value& value : graph.values) {
    value.name = in.text();
    const auto dtype = in.number<uint8_t>();
    const auto kind = in.number<uint8_t>();
    const auto rank = in.number<uint8_t>();
    const auto zero = in.number<uint8_t>();
    if (dtype > 1 || kind > 1 || dtype > kind || rank > max_rank || zero != 0) {
      in.fail("value '" + value.name + "' has an unknown type, kind or rank");
    }
    value.shape = read_shape(in, rank, value.name);
    value.constant = kind == 1;
    if (dtype == 1) value.type = DType::i32;
    if (!value.constant) continue;
    const auto offset = in.number<uint64_t>();
    const auto size = in.number<uint64_t>();
    const auto expected = static_cast<uint64_t>(element_count(value.shape)) * 4;
    if (size != expected || offset % 64 != 0 || offset > weights.size() ||
        size > weights.size() - offset) {
      in.fail("constant '" + value.name + "' " + to_string(value.shape) + " lies at " +
              std::to_string(offset) + " with " + std::to_string(size) + " bytes, expected " +
              std::to_string(expected) + " bytes within the section 'weights'");
    }
    value.data = weights.subspan(offset, size);
  }
  graph.nodes.resize(in.count(20));
  for (Node& node : graph.nodes) {
    node.op = in.text();
    node.name = in.text();
    node.inputs = read_ids(in, graph.values.size(), true);
    node.outputs = read_ids(in, graph.values.size(), false);
    node.attrs = read_table(in, node.op + " '" + node.name + "'");
    if (node.input_levels() && node.op != "conv2d" && node.op != "linear") {
      in.fail(node.attrs.owner + " has a quantised input; only conv2d and linear may");
    }
  }
  graph.inputs = read_ids(in, graph.values.size(), false);
  graph.outputs.resize(in.count(8));
  for (auto& [role, id] : graph.outputs) {
    role = in.text();
    id = in.number<int32_t>();
    if (id < 0 || id >= static_cast<int64_t>(graph.values.size())) {
      in.fail("output '" + role + "' names value " + std::to_string(id));
    }
  }
  in.expect_end();
  check_order(graph, in);
  return graph;
}

Plan Plan::open(const std::string& path) {
  Plan plan;
  plan.mapping_ = map_file(path, &plan.file_size);
  plan.bytes_ = {static_cast<const std::byte*>(plan.mapping_.get()), plan.file_size};

  ByteReader in(plan.bytes_.first(header_size), "header");
  if (std::memcmp(in.take(sizeof(magic)).data(), magic, sizeof(magic)) != 0) {
    throw Error(ErrorKind::plan, path + ": not a plan (it does not begin with ADFPLAN)");
  }
  plan.version = in.number<uint32_t>();
  plan.oldest_reader = in.number<uint32_t>();
  if (plan.version < 1 || plan.oldest_reader < 1 || plan.oldest_reader > plan.version) {
    damaged(path, "version " + std::to_string(plan.version) + ", oldest reader " +
                      std::to_string(plan.oldest_reader));
  }
  if (plan.oldest_reader > plan_version) {
    throw Error(ErrorKind::plan, path + ": plan format " + std::to_string(plan.version) +
                                     " needs a reader of format " +
                                     std::to_string(plan.oldest_reader) +
                                     "; this adfast reads format " + std::to_string(plan_version) +
                                     ": upgrade adfast, or build the plan with this version");
  }
  const auto declared_size = in.number<uint64_t>();
  if (declared_size != plan.file_size) {
    damaged(path, "the file has " + std::to_string(plan.file_size) + " bytes, its header says " +
                      std::to_string(declared_size));
  }
  const auto section_count = in.number<uint32_t>();
  if (in.number<uint32_t>() != 0) damaged(path, "the reserved header field is not zero");
  const auto table_size = static_cast<uint64_t>(section_count) * section_entry_size;
  if (table_size > plan.file_size - header_size) damaged(path, "the section table is cut short");
  const Digest digest =
      sha256(plan.bytes_.first(hashed_header_size), plan.bytes_.subspan(header_size, table_size));
  if (std::memcmp(digest.data(), in.take(digest.size()).data(), digest.size()) != 0) {
    damaged(path, "header or section table do not match their SHA-256");
  }
  plan.sections = read_sections(path, plan.bytes_, section_count);
  for (const Section& section : plan.sections) {
    if (sha256(plan.section(section.name)) != section.digest) {
      damaged(path, "section '" + section.name + "' does not match its SHA-256");
    }
  }

  const auto table_of = [&](const char* name) {
    ByteReader reader(plan.section(name), name);
    Table table = read_table(reader, name);
    reader.expect_end();
    return table;
  };
  plan.fields = table_of("fields");
  plan.calibration = table_of("calibration");
  plan.graph = read_graph(plan.section("graph"), plan.section("weights"));
  plan.golden = read_golden(ByteReader(plan.section("golden"), "golden"), &plan.golden_info);
  return plan;
}

}  // namespace adfast
