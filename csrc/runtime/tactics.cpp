#include "runtime/tactics.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "core/error.h"

namespace adfast {
namespace {

std::vector<std::string> read_lines(const std::string& path) {
  const std::unique_ptr<FILE, int (*)(FILE*)> file(std::fopen(path.c_str(), "r"), std::fclose);
  if (!file) {
    throw Error(ErrorKind::io, "cannot read the tactics file " + path + ": " + strerror(errno));
  }
  std::vector<std::string> lines(1);
  for (int c = std::fgetc(file.get()); c != EOF; c = std::fgetc(file.get())) {
    if (c == '\n') {
      lines.emplace_back();
    } else {
      lines.back() += static_cast<char>(c);
    }
  }
  if (lines.back().empty()) lines.pop_back();
  return lines;
}

}  // namespace

Tactics read_tactics(const std::string& path) {
  constexpr const char* heading = "adfast tactics 1";
  const std::vector<std::string> lines = read_lines(path);
  const auto refuse = [&](const std::string& what) {
    throw Error(ErrorKind::argument, path + ": " + what + "; write it again with adfast tune");
  };
  if (lines.empty() || lines[0] != heading) {
    refuse(std::string("the first line is not '") + heading + "'");
  }
  Tactics tactics;
  for (size_t i = 1; i < lines.size(); ++i) {
    const std::string& line = lines[i];
    const std::string number = std::to_string(i + 1);
    if (line.empty() || line.front() == '#') continue;
    const size_t space = line.find(' ');
    if (space == 0 || space == std::string::npos || space + 1 == line.size()) {
      refuse("line " + number + ": expected a tactic, a space and a step's name");
    }
    if (!tactics.emplace(line.substr(space + 1), line.substr(0, space)).second) {
      refuse("line " + number + ": the step was named before");
    }
  }
  return tactics;
}

}  // namespace adfast
