// Which implementation a step shall use, where it could use several: measured once on a machine and
// kept in a file of the user's, or left to the backend's own estimate.
#pragma once
#include <map>
#include <string>

namespace adfast {

// Step's name -> word of the backend ("direct", "winograd2", "winograd4", "strassen"); "*" stands
// for all steps that are not named.
using Tactics = std::map<std::string, std::string>;

// Reads "adfast tactics 1", then a word, a space and a step's name per line; lines that begin
// with # are for people. Throws ErrorKind::io or
// ErrorKind::argument, naming the line.
Tactics read_tactics(const std::string& path);

}  // namespace adfast
