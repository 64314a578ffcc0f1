// The plan file: sections behind a checked header, parsed into plain structures.
// The format is described in docs/plan-format.md; python/adfast/compiler/writer.py writes it.
#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/frame.h"
#include "plan/graph.h"
#include "plan/sha256.h"
#include "plan/table.h"

namespace adfast {

// The newest format that is read. Format 2 is format 1 with a signature behind the last section,
// format 3 has a section "tensorrt" too.
inline constexpr uint32_t plan_version = 3;

struct GoldenFrame {
  int64_t height = 0, width = 0;
  PixelFormat format = mono8;
  std::span<const std::byte> pixels;  // row by row, without gaps
  float score = 0;
  int64_t map_height = 0, map_width = 0;
  std::span<const std::byte> map;  // f32
};

struct Section {
  std::string name;
  uint64_t offset = 0, size = 0;
  Digest digest{};
};

// What `adfast sign` put behind the last section: Ed25519 over Seal::message.
struct Signature {
  std::array<uint8_t, 32> key;  // whose it claims to be; only a check against a known key counts
  std::array<uint8_t, 64> value;
};

// What a signature speaks for. The message holds the digests of all sections, so it stands for
// every byte of the plan.
struct Seal {
  std::vector<std::byte> message;
  std::optional<Signature> signature;
};
// Looks at the seal before any section is parsed, and throws where it is not to be trusted.
using SealCheck = std::function<void(const Seal&)>;

// An engine that TensorRT made of the plan's network, for one kind of card and its own version.
struct TensorRtSection {
  std::string version;     // as "10.3.0"
  std::string capability;  // as "9.0"
  std::string precision;
  bool plugins = false;  // of libadfast_trt.so are in it
  Table info;            // all of it
  std::span<const std::byte> bytes;
};

// A checked plan. Its bytes are read into memory of its own once: what was checked is what is used,
// whatever happens to the file meanwhile. Every span above stays valid while the object lives.
class Plan {
 public:
  static Plan open(const std::string& path, const SealCheck& check = {});
  // Of a copy of `bytes`; `name` stands in errors where else the path does.
  static Plan parse(std::span<const std::byte> bytes, const std::string& name,
                    const SealCheck& check = {});

  uint32_t version = 0, oldest_reader = 0;
  uint64_t file_size = 0;
  std::vector<Section> sections;
  Table fields, calibration, golden_info;
  Graph graph;
  std::vector<GoldenFrame> golden;
  std::optional<TensorRtSection> tensorrt;
  Seal seal;

  std::span<const std::byte> section(std::string_view name) const;

 private:
  void read(const std::string& name, const SealCheck& check);

  std::shared_ptr<const void> memory_;
  std::span<const std::byte> bytes_;
};

}  // namespace adfast
