#include "plan/sha256.h"

#include <bit>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace adfast {
namespace {

constexpr uint32_t initial_state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                       0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

alignas(16) constexpr uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

uint32_t big_endian(const std::byte* p) {
  return std::to_integer<uint32_t>(p[0]) << 24 | std::to_integer<uint32_t>(p[1]) << 16 |
         std::to_integer<uint32_t>(p[2]) << 8 | std::to_integer<uint32_t>(p[3]);
}

#if defined(__x86_64__)
bool has_sha_instructions() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  return (b & (1u << 29)) != 0 && __builtin_cpu_supports("sse4.1") &&
         __builtin_cpu_supports("ssse3");
}

// The state lives in two registers, ABEF and CDGH, as the instructions want it; each group of four
// rounds also advances the message schedule held in `w`.
__attribute__((target("sha,sse4.1,ssse3"))) void sha256_blocks_ni(uint32_t state[8],
                                                                  const std::byte* data,
                                                                  size_t blocks) {
  const __m128i byte_swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
  __m128i dcba = _mm_loadu_si128(reinterpret_cast<const __m128i*>(state));
  __m128i hgfe = _mm_loadu_si128(reinterpret_cast<const __m128i*>(state + 4));
  __m128i cdab = _mm_shuffle_epi32(dcba, 0xb1);
  __m128i efgh = _mm_shuffle_epi32(hgfe, 0x1b);
  __m128i abef = _mm_alignr_epi8(cdab, efgh, 8);
  __m128i cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
  for (; blocks > 0; --blocks, data += 64) {
    const __m128i abef_start = abef;
    const __m128i cdgh_start = cdgh;
    __m128i w[4];
    for (int i = 0; i < 4; ++i) {
      const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(data) + i);
      w[i] = _mm_shuffle_epi8(raw, byte_swap);
    }
    for (int group = 0; group < 16; ++group) {
      __m128i& now = w[group & 3];
      const __m128i k =
          _mm_load_si128(reinterpret_cast<const __m128i*>(round_constants + 4 * group));
      const __m128i wk = _mm_add_epi32(now, k);
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0e));
      if (group < 12) {
        const __m128i next = w[(group + 1) & 3];
        const __m128i last = w[(group + 3) & 3];
        __m128i sum = _mm_sha256msg1_epu32(now, next);
        sum = _mm_add_epi32(sum, _mm_alignr_epi8(last, w[(group + 2) & 3], 4));
        now = _mm_sha256msg2_epu32(sum, last);
      }
    }
    abef = _mm_add_epi32(abef, abef_start);
    cdgh = _mm_add_epi32(cdgh, cdgh_start);
  }
  const __m128i feba = _mm_shuffle_epi32(abef, 0x1b);
  const __m128i dchg = _mm_shuffle_epi32(cdgh, 0xb1);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state), _mm_blend_epi16(feba, dchg, 0xf0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}
#endif

class Hasher {
 public:
  void update(std::span<const std::byte> bytes) {
    if (bytes.empty()) return;  // its pointer may be null, which memcpy must not see
    total_ += bytes.size();
    if (held_ > 0) {
      const size_t take = std::min(bytes.size(), sizeof(buffer_) - held_);
      std::memcpy(buffer_ + held_, bytes.data(), take);
      held_ += take;
      bytes = bytes.subspan(take);
      if (held_ < sizeof(buffer_)) return;
      detail::sha256_blocks(state_, buffer_, 1);
      held_ = 0;
    }
    const size_t blocks = bytes.size() / 64;
    detail::sha256_blocks(state_, bytes.data(), blocks);
    bytes = bytes.subspan(blocks * 64);
    std::memcpy(buffer_, bytes.data(), bytes.size());
    held_ = bytes.size();
  }

  Digest finish() {
    std::byte tail[128] = {};
    if (held_ > 0) std::memcpy(tail, buffer_, held_);
    tail[held_] = std::byte{0x80};
    const size_t blocks = held_ < 56 ? 1 : 2;
    const uint64_t bits = total_ * 8;
    for (size_t i = 0; i < 8; ++i) {
      tail[blocks * 64 - 1 - i] = static_cast<std::byte>(bits >> (8 * i));
    }
    detail::sha256_blocks(state_, tail, blocks);
    Digest digest;
    for (size_t i = 0; i < 32; ++i) {
      digest[i] = static_cast<uint8_t>(state_[i / 4] >> (24 - 8 * (i % 4)));
    }
    return digest;
  }

 private:
  uint32_t state_[8] = {initial_state[0], initial_state[1], initial_state[2], initial_state[3],
                        initial_state[4], initial_state[5], initial_state[6], initial_state[7]};
  std::byte buffer_[64];
  size_t held_ = 0;
  uint64_t total_ = 0;
};

}  // namespace

namespace detail {

void sha256_blocks_portable(uint32_t state[8], const std::byte* data, size_t blocks) {
  for (; blocks > 0; --blocks, data += 64) {
    uint32_t w[64];
    for (int i = 0; i < 16; ++i) w[i] = big_endian(data + 4 * i);
    for (int i = 16; i < 64; ++i) {
      const uint32_t s0 = std::rotr(w[i - 15], 7) ^ std::rotr(w[i - 15], 18) ^ (w[i - 15] >> 3);
      const uint32_t s1 = std::rotr(w[i - 2], 17) ^ std::rotr(w[i - 2], 19) ^ (w[i - 2] >> 10);
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
    for (int i = 0; i < 64; ++i) {
      const uint32_t s1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
      const uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + round_constants[i] + w[i];
      const uint32_t s0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
      const uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
      h = g;
      g = f;
      f = e;
      e = d + t1;
      d = c;
      c = b;
      b = a;
      a = t1 + t2;
    }
    const uint32_t add[8] = {a, b, c, d, e, f, g, h};
    for (int i = 0; i < 8; ++i) state[i] += add[i];
  }
}

void sha256_blocks(uint32_t state[8], const std::byte* data, size_t blocks) {
#if defined(__x86_64__)
  static const bool fast = has_sha_instructions();
  if (fast) return sha256_blocks_ni(state, data, blocks);
#endif
  sha256_blocks_portable(state, data, blocks);
}

}  // namespace detail

Digest sha256(std::span<const std::byte> bytes) { return sha256(bytes, {}); }

Digest sha256(std::span<const std::byte> first, std::span<const std::byte> second) {
  Hasher hasher;
  hasher.update(first);
  hasher.update(second);
  return hasher.finish();
}

std::string to_hex(const Digest& digest) {
  static constexpr char digits[] = "0123456789abcdef";
  std::string text;
  text.reserve(64);
  for (uint8_t byte : digest) {
    text += digits[byte >> 4];
    text += digits[byte & 15];
  }
  return text;
}

}  // namespace adfast
