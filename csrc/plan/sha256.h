// SHA-256 (FIPS 180-4), with the processor's SHA instructions where it has them.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace adfast {

using Digest = std::array<uint8_t, 32>;

Digest sha256(std::span<const std::byte> bytes);
// The digest of two pieces laid end to end.
Digest sha256(std::span<const std::byte> first, std::span<const std::byte> second);
std::string to_hex(const Digest& digest);

namespace detail {
// The portable compression function, exposed so that a test can hold the fast one against it.
void sha256_blocks_portable(uint32_t state[8], const std::byte* data, size_t blocks);
void sha256_blocks(uint32_t state[8], const std::byte* data, size_t blocks);
}  // namespace detail

}  // namespace adfast
