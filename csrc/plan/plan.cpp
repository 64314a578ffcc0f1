#include "plan/plan.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>

#include "core/error.h"
#include "plan/byte_reader.h"

namespace adfast {
namespace {

constexpr char magic[8] = {'A', 'D', 'F', 'P', 'L', 'A', 'N', '\x1a'};
constexpr size_t header_size = 64;
constexpr size_t hashed_header_size = 32;
constexpr size_t section_entry_size = 64;
constexpr std::array<std::string_view, 8> section_names = {
    "fields", "graph", "calibration", "golden", "parity", "provenance", "weights", "tensorrt"};
// The last may be absent, and is in plans of format 3 on.
constexpr size_t least_sections = section_names.size() - 1;
constexpr uint32_t tensorrt_version = 3;
constexpr uint32_t max_rank = 8;
// What kernels index with 32 bits stays within them.
constexpr int64_t max_elements = (int64_t{1} << 31) - 1;
// Far beyond any plan; what is larger is refused before memory is taken for it.
constexpr uint64_t max_file_size = uint64_t{1} << 34;
constexpr uint32_t max_records = 1 << 20;  // values, nodes, outputs
constexpr int64_t max_golden_side = 65535;

constexpr uint32_t flag_signed = 1;
constexpr char signature_magic[8] = {'A', 'D', 'F', 'S', 'I', 'G', 'N', '\x1a'};
constexpr uint32_t signature_ed25519 = 1;
constexpr size_t signature_size = 128;
// So that a signature of a plan is none of anything else.
constexpr std::string_view signature_domain = "adfast plan signature 1\n";

[[noreturn]] void damaged(const std::string& path, const std::string& what) {
  throw Error(ErrorKind::plan, path + ": " + what + "; the file is damaged, build the plan again");
}

struct Memory {
  std::shared_ptr<std::byte> owner;
  std::span<std::byte> bytes;
};

// Throws std::bad_alloc where there is none.
Memory allocate(uint64_t size) {
  constexpr size_t huge_page = size_t{1} << 21;
  const bool large = size >= 4 * huge_page;
  void* address = nullptr;
  if (::posix_memalign(&address, large ? huge_page : 64, size) != 0) throw std::bad_alloc();
  // One fault for two megabytes instead of five hundred; where it is refused nothing is lost.
  if (large) ::madvise(address, size, MADV_HUGEPAGE);
  auto* bytes = static_cast<std::byte*>(address);
  return {{bytes, [](std::byte* p) { std::free(p); }}, {bytes, size}};
}

void check_magic(const std::string& path, std::span<const std::byte> header) {
  if (std::memcmp(header.data(), magic, sizeof(magic)) != 0) {
    throw Error(ErrorKind::plan, path + ": not a plan (it does not begin with ADFPLAN)");
  }
}

void check_size(const std::string& path, uint64_t size) {
  if (size < header_size) {
    throw Error(ErrorKind::plan, path + ": " + std::to_string(size) +
                                     " bytes; a plan has at least " + std::to_string(header_size) +
                                     ": not a plan, or cut short");
  }
  if (size > max_file_size) {
    throw Error(ErrorKind::plan, path + ": " + std::to_string(size) + " bytes, expected at most " +
                                     std::to_string(max_file_size) + ": not a plan");
  }
}

class File {
 public:
  explicit File(const std::string& path)
      : path_(path), number_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    if (number_ < 0) fail(std::strerror(errno));
  }
  ~File() {
    if (number_ >= 0) ::close(number_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  uint64_t size() const {
    struct stat status{};
    if (::fstat(number_, &status) != 0 || !S_ISREG(status.st_mode)) fail("not a regular file");
    return static_cast<uint64_t>(status.st_size);
  }

  void read(std::span<std::byte> into) {
    while (!into.empty()) {
      const ssize_t got = ::read(number_, into.data(), into.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail(std::strerror(errno));
      if (got == 0) fail("it became shorter while it was read");
      into = into.subspan(static_cast<size_t>(got));
    }
  }

 private:
  [[noreturn]] void fail(const std::string& why) const {
    throw Error(ErrorKind::io, "cannot open plan " + path_ + ": " + why);
  }

  const std::string& path_;
  int number_;
};

// Read, not mapped: a mapped file that someone cuts short ends the process, and one that someone
// writes to changes after it was checked.
Memory read_file(const std::string& path) {
  File file(path);
  const uint64_t size = file.size();
  check_size(path, size);
  std::byte header[header_size];
  file.read(header);
  check_magic(path, header);  // before memory is taken for what is none
  Memory memory = allocate(size);
  std::memcpy(memory.bytes.data(), header, header_size);
  file.read(memory.bytes.subspan(header_size));
  return memory;
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
    if (dim < 1 || dim > max_elements) {
      in.fail("value '" + name + "' has a dimension of " + std::to_string(dim) +
              ", expected 1 to " + std::to_string(max_elements));
    }
    if (count > max_elements / dim) {
      in.fail("value '" + name + "' has too many elements, expected at most " +
              std::to_string(max_elements));
    }
    count *= dim;
  }
  return shape;
}

// A count of records that stand for larger things in memory than in the file.
uint32_t read_count(ByteReader& in, size_t least, const char* what) {
  const uint32_t count = in.count(least);
  if (count > max_records) {
    in.fail(std::to_string(count) + ' ' + what + ", expected at most " +
            std::to_string(max_records));
  }
  return count;
}

// A NaN passes every comparison that is written the other way round: none comes in.
void require_finite(const Table& table, const ByteReader& in) {
  const auto finite = [](double value) { return std::isfinite(value); };
  for (const auto& [key, field] : table.entries) {
    const auto* one = std::get_if<double>(&field);
    const auto* many = std::get_if<std::vector<double>>(&field);
    if ((one != nullptr && !finite(*one)) ||
        (many != nullptr && !std::all_of(many->begin(), many->end(), finite))) {
      in.fail("'" + key + "' of " + table.owner + " is not a finite number");
    }
  }
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
  for (size_t i = 0; i < graph.outputs.size(); ++i) {
    use(graph.outputs[i].second);
    if (graph.output(graph.outputs[i].first) != graph.outputs[i].second) {
      in.fail("output '" + graph.outputs[i].first + "' twice");
    }
  }
}

std::vector<GoldenFrame> read_golden(ByteReader in, Table* info) {
  *info = read_table(in, "golden frames");
  require_finite(*info, in);
  std::vector<GoldenFrame> frames(in.count(24));
  const auto is_side = [](int64_t side) { return side >= 1 && side <= max_golden_side; };
  for (GoldenFrame& frame : frames) {
    frame.height = in.number<uint32_t>();
    frame.width = in.number<uint32_t>();
    const auto code = in.number<uint32_t>();
    const PixelFormat* format = find_format(code);
    if (!is_side(frame.height) || !is_side(frame.width) || format == nullptr) {
      in.fail("a golden frame of " + std::to_string(frame.height) + "x" +
              std::to_string(frame.width) + " in pixel format " + std::to_string(code) +
              ", expected sides of 1 to " + std::to_string(max_golden_side) +
              " and the code of one of " + format_names());
    }
    frame.format = *format;
    frame.pixels = in.take(
        static_cast<uint64_t>(frame.height * frame.width * format->channels() * format->bytes()));
    frame.score = in.number<float>();
    frame.map_height = in.number<uint32_t>();
    frame.map_width = in.number<uint32_t>();
    if (!is_side(frame.map_height) || !is_side(frame.map_width)) {
      in.fail("a golden map of " + std::to_string(frame.map_height) + "x" +
              std::to_string(frame.map_width) + ", expected sides of 1 to " +
              std::to_string(max_golden_side));
    }
    frame.map = in.take(static_cast<uint64_t>(frame.map_height * frame.map_width) * 4);
    bool finite = std::isfinite(frame.score);
    for (size_t i = 0; i < frame.map.size(); i += sizeof(float)) {
      float value;
      std::memcpy(&value, frame.map.data() + i, sizeof(value));
      finite = finite && std::isfinite(value);
    }
    if (!finite) in.fail("a golden score or map that is not finite");
  }
  in.expect_end();
  return frames;
}

// `bytes`: the file without its signature.
std::vector<Section> read_sections(const std::string& path, std::span<const std::byte> bytes,
                                   uint32_t version, uint32_t count) {
  const size_t most = version < tensorrt_version ? least_sections : section_names.size();
  if (count < least_sections || count > most) {
    damaged(path, std::to_string(count) + " sections, expected " + std::to_string(most));
  }
  ByteReader in(bytes.subspan(header_size, count * section_entry_size), "section table");
  std::vector<Section> sections(count);
  uint64_t end = header_size + count * section_entry_size;
  for (uint32_t i = 0; i < count; ++i) {
    Section& section = sections[i];
    const auto name = in.take(16);
    const auto* chars = reinterpret_cast<const char*>(name.data());
    section.name.assign(chars, ::strnlen(chars, 16));
    const auto padding = name.subspan(section.name.size());
    if (std::any_of(padding.begin(), padding.end(),
                    [](std::byte b) { return b != std::byte{0}; })) {
      damaged(path, "the name of section " + std::to_string(i) + " is not padded with zeros");
    }
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

TensorRtSection read_tensorrt(ByteReader in) {
  TensorRtSection section;
  section.info = read_table(in, "tensorrt");
  require_finite(section.info, in);
  section.version = section.info.text("version");
  section.capability = section.info.text("capability");
  section.precision = section.info.text("precision");
  section.plugins = section.info.has("plugins") && section.info.integer("plugins") != 0;
  const auto size = in.number<uint64_t>();
  section.bytes = in.take(size);
  if (section.bytes.empty()) in.fail("an engine of no bytes");
  in.expect_end();
  return section;
}

// `signed_size`: header and section table.
void read_seal(const std::string& path, std::span<const std::byte> bytes, uint64_t signed_size,
               bool has_signature, Seal* seal) {
  const auto domain = std::as_bytes(std::span(signature_domain));
  seal->message.assign(domain.begin(), domain.end());
  const auto head = bytes.first(signed_size);
  seal->message.insert(seal->message.end(), head.begin(), head.end());
  if (!has_signature) return;
  ByteReader in(bytes.last(signature_size), "signature");
  if (std::memcmp(in.take(sizeof(signature_magic)).data(), signature_magic,
                  sizeof(signature_magic)) != 0) {
    damaged(path, "its signature does not begin with ADFSIGN");
  }
  const auto algorithm = in.number<uint32_t>();
  if (algorithm != signature_ed25519) {
    throw Error(ErrorKind::plan, path + ": signed by algorithm " + std::to_string(algorithm) +
                                     ", this adfast knows 1, Ed25519; upgrade adfast");
  }
  Signature signature;
  const auto reserved = in.take(20);
  if (std::any_of(reserved.begin(), reserved.end(),
                  [](std::byte b) { return b != std::byte{0}; })) {
    damaged(path, "reserved bytes of its signature are not zero");
  }
  std::memcpy(signature.key.data(), in.take(32).data(), 32);
  std::memcpy(signature.value.data(), in.take(64).data(), 64);
  seal->signature = signature;
}

// As the engine compares, in f32.
void check_threshold(const Table& calibration) {
  if (!calibration.has("threshold")) return;
  const double threshold = calibration.real("threshold");
  if (!(std::fabs(threshold) <= std::numeric_limits<float>::max())) {
    throw Error(ErrorKind::plan, "[calibration] the threshold is " + std::to_string(threshold) +
                                     ", expected a number that f32 holds");
  }
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
  graph.values.resize(read_count(in, 8, "values"));
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
  graph.nodes.resize(read_count(in, 20, "nodes"));
  for (Node& node : graph.nodes) {
    node.op = in.text();
    node.name = in.text();
    node.inputs = read_ids(in, graph.values.size(), true);
    node.outputs = read_ids(in, graph.values.size(), false);
    node.attrs = read_table(in, node.op + " '" + node.name + "'");
    if (node.input_levels() && node.op != "conv2d" && node.op != "linear") {
      in.fail(node.attrs.owner + " has a quantised input; only conv2d and linear may");
    }
    require_finite(node.attrs, in);
  }
  graph.inputs = read_ids(in, graph.values.size(), false);
  graph.outputs.resize(read_count(in, 8, "outputs"));
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

Plan Plan::open(const std::string& path, const SealCheck& check) {
  Plan plan;
  const Memory memory = read_file(path);
  plan.memory_ = memory.owner;
  plan.bytes_ = memory.bytes;
  plan.read(path, check);
  return plan;
}

Plan Plan::parse(std::span<const std::byte> bytes, const std::string& name,
                 const SealCheck& check) {
  check_size(name, bytes.size());
  check_magic(name, bytes);
  Plan plan;
  const Memory memory = allocate(bytes.size());
  std::memcpy(memory.bytes.data(), bytes.data(), bytes.size());
  plan.memory_ = memory.owner;
  plan.bytes_ = memory.bytes;
  plan.read(name, check);
  return plan;
}

void Plan::read(const std::string& path, const SealCheck& check) {
  file_size = bytes_.size();
  ByteReader in(bytes_.first(header_size), "header");
  in.take(sizeof(magic));
  version = in.number<uint32_t>();
  oldest_reader = in.number<uint32_t>();
  if (version < 1 || oldest_reader < 1 || oldest_reader > version) {
    damaged(path, "version " + std::to_string(version) + ", oldest reader " +
                      std::to_string(oldest_reader));
  }
  if (oldest_reader > plan_version) {
    throw Error(ErrorKind::plan, path + ": plan format " + std::to_string(version) +
                                     " needs a reader of format " + std::to_string(oldest_reader) +
                                     "; this adfast reads format " + std::to_string(plan_version) +
                                     ": upgrade adfast, or build the plan with this version");
  }
  const auto declared_size = in.number<uint64_t>();
  if (declared_size != file_size) {
    damaged(path, "the file has " + std::to_string(file_size) + " bytes, its header says " +
                      std::to_string(declared_size));
  }
  const auto section_count = in.number<uint32_t>();
  const auto flags = in.number<uint32_t>();
  if ((flags & ~flag_signed) != 0) damaged(path, "unknown flags in the header");
  const uint64_t behind = flags & flag_signed ? signature_size : 0;
  const auto table_size = static_cast<uint64_t>(section_count) * section_entry_size;
  if (header_size + table_size + behind > file_size) {
    damaged(path, "the section table is cut short");
  }
  const auto table = bytes_.subspan(header_size, table_size);
  const Digest digest = sha256(bytes_.first(hashed_header_size), table);
  if (std::memcmp(digest.data(), in.take(digest.size()).data(), digest.size()) != 0) {
    damaged(path, "header or section table do not match their SHA-256");
  }
  sections = read_sections(path, bytes_.first(file_size - behind), version, section_count);
  read_seal(path, bytes_, header_size + table_size, behind != 0, &seal);
  if (check) check(seal);
  for (const Section& section : sections) {
    if (sha256(this->section(section.name)) != section.digest) {
      damaged(path, "section '" + section.name + "' does not match its SHA-256");
    }
  }

  const auto table_of = [&](const char* name) {
    ByteReader reader(section(name), name);
    Table table = read_table(reader, name);
    reader.expect_end();
    require_finite(table, reader);
    return table;
  };
  fields = table_of("fields");
  calibration = table_of("calibration");
  check_threshold(calibration);
  for (const char* name : {"parity", "provenance"}) {
    const auto raw = section(name);
    if (!is_utf8({reinterpret_cast<const char*>(raw.data()), raw.size()})) {
      damaged(path, "section '" + std::string(name) + "' is not UTF-8");
    }
  }
  graph = read_graph(section("graph"), section("weights"));
  golden = read_golden(ByteReader(section("golden"), "golden"), &golden_info);
  if (sections.size() > least_sections) {
    tensorrt = read_tensorrt(ByteReader(section("tensorrt"), "tensorrt"));
  }
}

}  // namespace adfast
