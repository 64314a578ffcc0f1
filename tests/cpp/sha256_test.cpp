// Published vectors, every length around the block edges, and the fast function against the plain
// one.
#include "plan/sha256.h"

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "check.h"

namespace {

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

}  // namespace

int main() {
  using adfast::sha256;
  using adfast::to_hex;
  // FIPS 180-4 examples.
  const struct {
    std::string text, digest;
  } vectors[] = {
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {std::string(1000000, 'a'),
       "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"},
  };
  for (const auto& v : vectors) {
    const std::string got = to_hex(sha256(bytes_of(v.text)));
    CHECK(got == v.digest, "%zu bytes: %s", v.text.size(), got.c_str());
  }

  std::mt19937 random(1);
  for (size_t length = 0; length < 300; ++length) {
    std::string text(length, '\0');
    for (char& c : text) c = static_cast<char>(random());
    const auto whole = sha256(bytes_of(text));
    for (size_t cut : {size_t{0}, length / 3, length}) {
      const auto bytes = bytes_of(text);
      CHECK(sha256(bytes.first(cut), bytes.subspan(cut)) == whole, "%zu cut at %zu", length, cut);
    }
  }

  std::vector<std::byte> blocks(64 * 17);
  for (std::byte& b : blocks) b = static_cast<std::byte>(random());
  uint32_t fast[8], plain[8];
  for (int i = 0; i < 8; ++i) fast[i] = plain[i] = static_cast<uint32_t>(random());
  adfast::detail::sha256_blocks(fast, blocks.data(), 17);
  adfast::detail::sha256_blocks_portable(plain, blocks.data(), 17);
  CHECK(std::memcmp(fast, plain, sizeof(fast)) == 0, "the two functions differ");
  return report("sha256");
}
