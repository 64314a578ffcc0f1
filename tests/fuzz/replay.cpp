// What libFuzzer's main does with files, for compilers without it: fuzz_X FILE|FOLDER...
#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv);
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

// Of libFuzzer; nothing is mutated here.
extern "C" size_t LLVMFuzzerMutate(uint8_t*, size_t size, size_t) { return size; }

namespace {

std::vector<std::string> files_of(const std::string& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) return {path};
  std::vector<std::string> files;
  DIR* folder = ::opendir(path.c_str());
  if (folder == nullptr) return {path};
  while (const dirent* entry = ::readdir(folder)) {
    if (entry->d_name[0] != '.') files.push_back(path + "/" + entry->d_name);
  }
  ::closedir(folder);
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

int main(int argc, char** argv) {
  LLVMFuzzerInitialize(&argc, &argv);
  int count = 0;
  for (int i = 1; i < argc; ++i) {
    for (const std::string& path : files_of(argv[i])) {
      std::FILE* file = std::fopen(path.c_str(), "rb");
      if (file == nullptr) {
        std::printf("%s: cannot be read\n", path.c_str());
        return 1;
      }
      // Of exactly the input's size, so that a sanitizer sees a read beyond it.
      std::vector<uint8_t> read;
      for (int byte; (byte = std::fgetc(file)) != EOF;) read.push_back(static_cast<uint8_t>(byte));
      std::fclose(file);
      const std::vector<uint8_t> data(read.begin(), read.end());
      // Printed first, so that a crash has a name.
      std::printf("%s: %zu bytes\n", path.c_str(), data.size());
      std::fflush(stdout);
      LLVMFuzzerTestOneInput(data.data(), data.size());
      ++count;
    }
  }
  std::printf("%d inputs\n", count);
  return count > 0 ? 0 : 1;
}
