#include <sodium.h>

#include "core/error.h"
#include "plan/verify.h"

namespace adfast {

SealCheck signed_by(const PublicKey& key, const std::string& name) {
  return [key, name](const Seal& seal) {
    if (!seal.signature) {
      throw Error(ErrorKind::plan,
                  name + ": not signed, and a public key was given; sign it with adfast sign");
    }
    if (::sodium_init() < 0) throw Error(ErrorKind::run, "libsodium cannot be used here");
    const auto* message = reinterpret_cast<const unsigned char*>(seal.message.data());
    const bool other = seal.signature->key != key;
    // With the caller's key: the one that the file names may be anybody's.
    if (other || ::crypto_sign_verify_detached(seal.signature->value.data(), message,
                                               seal.message.size(), key.data()) != 0) {
      throw Error(ErrorKind::plan,
                  name +
                      (other ? ": signed with another key than the one that was given"
                             : ": the signature does not fit: the plan was altered after it "
                               "was signed") +
                      "; do not use it unless you know why");
    }
  };
}

}  // namespace adfast
