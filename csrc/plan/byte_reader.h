// Reads little-endian records from bytes nobody vouches for: every read is checked before it is
// made, and every failure names where in which section it happened.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "core/error.h"
#include "plan/utf8.h"

namespace adfast {

static_assert(std::endian::native == std::endian::little, "plans are little-endian");

class ByteReader {
 public:
  ByteReader(std::span<const std::byte> bytes, std::string_view section)
      : bytes_(bytes), section_(section) {}

  template <class T>
  T number() {
    static_assert(std::is_arithmetic_v<T>);
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }

  std::string text() {
    const auto raw = take(number<uint32_t>());
    const std::string_view text(reinterpret_cast<const char*>(raw.data()), raw.size());
    if (!is_utf8(text)) fail("a text of " + std::to_string(raw.size()) + " bytes is not UTF-8");
    return std::string(text);
  }

  // A count of records that take at least `least` bytes each: one the rest of the section cannot
  // hold is refused here, before anything is allocated for it.
  uint32_t count(size_t least) {
    const auto value = number<uint32_t>();
    if (value > remaining() / least) {
      fail("a count of " + std::to_string(value) + " does not fit the " +
           std::to_string(remaining()) + " bytes left");
    }
    return value;
  }

  template <class T>
  std::vector<T> numbers() {
    std::vector<T> values(count(sizeof(T)));
    for (T& value : values) value = number<T>();
    return values;
  }

  std::span<const std::byte> take(uint64_t size) {
    if (size > remaining()) {
      fail("expected " + std::to_string(size) + " more bytes, got " + std::to_string(remaining()));
    }
    const auto piece = bytes_.subspan(position_, size);
    position_ += size;
    return piece;
  }

  void expect_end() {
    if (remaining() != 0) fail(std::to_string(remaining()) + " bytes left over at the end");
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorKind::plan, "[plan section '" + std::string(section_) + "', byte " +
                                     std::to_string(position_) + "] " + what +
                                     "; the file is damaged, build the plan again");
  }

 private:
  size_t remaining() const { return bytes_.size() - position_; }

  std::span<const std::byte> bytes_;
  std::string_view section_;
  size_t position_ = 0;
};

}  // namespace adfast
