// Whether a plan is signed by a key that the caller trusts. Ed25519 (RFC 8032) is libsodium's; in a
// build without it every check is refused, none is skipped.
#pragma once
#include <array>
#include <cstdint>
#include <string>

#include "plan/plan.h"

namespace adfast {

using PublicKey = std::array<uint8_t, 32>;

// For Plan::open. Throws ErrorKind::plan for a plan that is unsigned or signed by another key, and
// ErrorKind::argument where it cannot tell. `name` stands for the plan in errors.
SealCheck signed_by(const PublicKey& key, const std::string& name);

}  // namespace adfast
