// Memory for the bytes of a plan, and the file that they come from.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace adfast {

struct Memory {
  std::shared_ptr<std::byte> owner;
  std::span<std::byte> bytes;
};

// Throws std::bad_alloc where there is none.
Memory allocate(uint64_t size);

// A file open for reading. Throws ErrorKind::io, with its path.
class File {
 public:
  explicit File(const std::string& path);
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  uint64_t size() const;
  // All of `into`, from where the last call ended.
  void read(std::span<std::byte> into);

 private:
  [[noreturn]] void fail(const std::string& why) const;

  const std::string path_;
  int number_;
};

}  // namespace adfast
