#include "core/error.h"
#include "plan/verify.h"

namespace adfast {

SealCheck signed_by(const PublicKey&, const std::string& name) {
  throw Error(ErrorKind::argument,
              name +
                  ": a public key was given, and this library was built without signature "
                  "check; install libsodium's headers and build adfast again, or check with "
                  "adfast verify");
}

}  // namespace adfast
