// Small helpers on text. Streams of the standard library are used nowhere: their locales break
// where one copy of that library is linked in and another is loaded.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

namespace adfast {

// The parts between separators, empty ones left out.
inline std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    if (end > begin) parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

}  // namespace adfast
