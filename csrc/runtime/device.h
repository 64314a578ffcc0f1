// Devices behind plugins: finding the library, checking its table, running frames through it.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "runtime/engine.h"
#include "runtime/raw_values.h"
#include "runtime/session.h"

namespace adfast {

// Throws ErrorKind::argument when there is no plugin, no device or no library that it needs, each
// with what to do, and ErrorKind::run when the device refuses.
std::unique_ptr<Session> make_device_session(const Plan& plan, const EngineOptions& options);

// As run_raw, on a device ("cuda" or "cuda:N").
std::map<std::string, RawOutput> run_raw_on_device(const std::string& path, const RawInputs& inputs,
                                                   const EngineOptions& options);

}  // namespace adfast
