// Counters as a page of text.
#pragma once
#include <string>

namespace adfast {

class Engine;
class Stream;

// In Prometheus' text format (version 0.0.4), times in seconds; `stream` may be null.
std::string metrics_text(const Engine& engine, const Stream* stream);

}  // namespace adfast
