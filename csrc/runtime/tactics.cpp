#include "runtime/tactics.h"

#include <cerrno>
#include <cstring>
#include <fstream>

#include "core/error.h"

namespace adfast {

Tactics read_tactics(const std::string& path) {
  constexpr const char* heading = "adfast tactics 1";
  std::ifstream file(path);
  if (!file) {
    throw Error(ErrorKind::io, "cannot read the tactics file " + path + ": " + strerror(errno));
  }
  const auto refuse = [&](const std::string& what) {
    throw Error(ErrorKind::argument, path + ": " + what + "; write it again with adfast tune");
  };
  std::string line;
  if (!std::getline(file, line) || line != heading) {
    refuse(std::string("the first line is not '") + heading + "'");
  }
  Tactics tactics;
  for (int number = 2; std::getline(file, line); ++number) {
    if (line.empty() || line.front() == '#') continue;
    const size_t space = line.find(' ');
    if (space == 0 || space == std::string::npos || space + 1 == line.size()) {
      refuse("line " + std::to_string(number) + ": expected a tactic, a space and a step's name");
    }
    if (!tactics.emplace(line.substr(space + 1), line.substr(0, space)).second) {
      refuse("line " + std::to_string(number) + ": the step was named before");
    }
  }
  return tactics;
}

}  // namespace adfast
