// Superblocks: as they are, and with a checksum that fits, so that what lies behind it is reached.
#include "core/superblock.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/format.h"
#include "tests/fuzz/fuzz.h"

using namespace vsnap;

namespace {

constexpr std::size_t kCrcOffset = 8;

void decode(std::span<const std::byte> raw) {
  const auto found = decode_superblock(raw);
  static_cast<void>(has_superblock_magic(raw));
  if (!found) return;
  VSNAP_HOLDS(!found->roster.empty() && found->member_index < found->roster.size());
  const auto again = decode_superblock(encode(*found));
  VSNAP_HOLDS(again && again->same_layout(*found) && again->flags == found->flags);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto input = std::as_bytes(std::span(data, size));
  decode(input);
  std::vector<std::byte> raw(format::kSuperblockBytes);
  std::copy_n(input.begin(), std::min(input.size(), raw.size()), raw.begin());
  std::memcpy(raw.data(), format::kMagic.data(), format::kMagic.size());
  std::memset(raw.data() + kCrcOffset, 0, 4);
  const std::uint32_t crc = crc32c(raw);
  for (std::size_t i = 0; i < 4; ++i) raw[kCrcOffset + i] = static_cast<std::byte>(crc >> (8 * i));
  decode(raw);
  return 0;
}
