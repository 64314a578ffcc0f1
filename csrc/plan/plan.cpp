#include "plan/plan.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/error.h"
#include "plan/byte_reader.h"
#include "plan/file.h"

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
// Far beyond any plan; what is larger is refused before memory is taken for it.
constexpr uint64_t max_file_size = uint64_t{1} << 34;
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

std::vector<GoldenFrame> read_golden(ByteReader in, Table* info) {
  *info = read_table(in, "golden frames");
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

std::span<const std::byte> Plan::section(std::string_view name) const {
  for (const Section& section : sections) {
    if (section.name == name) return bytes_.subspan(section.offset, section.size);
  }
  throw Error(ErrorKind::argument, "a plan has no section '" + std::string(name) + "'");
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
