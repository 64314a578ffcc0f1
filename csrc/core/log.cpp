#include "core/log.h"

#include <atomic>
#include <mutex>

namespace adfast {

namespace {

constexpr int silent = static_cast<int>(Severity::error) + 1;
std::atomic<int> least_severity = silent;

// Never destroyed: threads may log while the process ends.
struct State {
  std::mutex mutex;
  Log log;
};
State& state() {
  static State* const state = new State;
  return *state;
}

}  // namespace

void set_log(Log log, Severity least) {
  const std::lock_guard lock(state().mutex);
  least_severity = log ? static_cast<int>(least) : silent;
  state().log = std::move(log);
}

bool logs(Severity severity) { return static_cast<int>(severity) >= least_severity; }

void log(Severity severity, const std::string& line) {
  if (!logs(severity)) return;
  const std::lock_guard lock(state().mutex);
  if (!state().log) return;
  try {
    state().log(severity, line);
  } catch (...) {  // a listener must not stop what it listens to
  }
}

}  // namespace adfast
