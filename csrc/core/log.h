// Lines for whoever asked to hear of them; nobody has until set_log() is called.
#pragma once
#include <functional>
#include <string>

namespace adfast {

enum class Severity { debug, info, warning, error };

using Log = std::function<void(Severity, const std::string&)>;

// Of the whole process; an empty one is silent. Called by any thread, one line at a time; what it
// throws is dropped. Lines below `least` are not made.
void set_log(Log log, Severity least);

bool logs(Severity severity);
void log(Severity severity, const std::string& line);

}  // namespace adfast
