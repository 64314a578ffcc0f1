#include "plan/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <new>

#include "core/error.h"

namespace adfast {

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

File::File(const std::string& path)
    : path_(path), number_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  if (number_ < 0) fail(std::strerror(errno));
}

File::~File() {
  if (number_ >= 0) ::close(number_);
}

uint64_t File::size() const {
  struct stat status{};
  if (::fstat(number_, &status) != 0 || !S_ISREG(status.st_mode)) fail("not a regular file");
  return static_cast<uint64_t>(status.st_size);
}

void File::read(std::span<std::byte> into) {
  while (!into.empty()) {
    const ssize_t got = ::read(number_, into.data(), into.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(std::strerror(errno));
    if (got == 0) fail("it became shorter while it was read");
    into = into.subspan(static_cast<size_t>(got));
  }
}

void File::fail(const std::string& why) const {
  throw Error(ErrorKind::io, "cannot open plan " + path_ + ": " + why);
}

}  // namespace adfast
