#include "sync/link_message.h"

#include <fmt/format.h>

#include "core/assert.h"
#include "core/superblock.h"

namespace vsnap::link_message {
namespace {

constexpr std::uint32_t kMagic = 0x4b4c5356; // "VSLK"

enum Offset : std::size_t {
  kAtMagic = 0,
  kAtMajor = 4,
  kAtType = 6,
  kAtFlags = 8,
  kAtCrc = 12,
  kAtEpoch = 16,
  kAtSession = 24,
  kAtSequence = 32,
  kAtPayload = 40,
  kAtFrames = 44,
};

template <class Integer>
void put(std::string& out, std::size_t at, Integer value) {
  for (std::size_t i = 0; i < sizeof value; ++i)
    out[at + i] = static_cast<char>(static_cast<std::uint64_t>(value) >> (8 * i) & 0xffU);
}

template <class Integer>
Integer get(std::string_view in, std::size_t at) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < sizeof(Integer); ++i)
    value |= static_cast<std::uint64_t>(static_cast<unsigned char>(in[at + i])) << (8 * i);
  return static_cast<Integer>(value);
}

// The checksum's own four bytes count as zeros.
std::uint32_t crc_of(std::string part) {
  put(part, kAtCrc, std::uint32_t{0});
  return crc32c(std::as_bytes(std::span(part)));
}

Failure malformed(std::string_view what) {
  return failure(ErrorKind::failed, EPROTO, fmt::format("a message between hosts: {}", what));
}

} // namespace

std::string encode(const LinkMessage& message) {
  VSNAP_ASSERT(message.frames.size() <= kMaxFrames && message.payload.size() <= kMaxToHost);
  std::string out(kHeaderBytes, '\0');
  put(out, kAtMagic, kMagic);
  put(out, kAtMajor, kMajor);
  put(out, kAtType, static_cast<std::uint16_t>(message.type));
  put(out, kAtFlags, message.flags);
  put(out, kAtEpoch, message.epoch);
  put(out, kAtSession, message.session);
  put(out, kAtSequence, message.sequence);
  put(out, kAtPayload, static_cast<std::uint32_t>(message.payload.size()));
  put(out, kAtFrames, static_cast<std::uint16_t>(message.frames.size()));
  out += message.payload;
  put(out, kAtCrc, crc_of(out));
  return out;
}

Result<LinkMessage> decode(std::span<const std::string_view> parts) {
  if (parts.empty() || parts.front().size() < kHeaderBytes) return malformed("shorter than its header");
  const std::string_view first = parts.front();
  if (get<std::uint32_t>(first, kAtMagic) != kMagic) return malformed("not one");
  const auto major = get<std::uint16_t>(first, kAtMajor);
  if (major < kOldestMajor || major > kMajor) {
    return failure(ErrorKind::failed, EPROTONOSUPPORT,
                   fmt::format("a message between hosts: version {}; this vsnap knows {}", major, kMajor));
  }
  if (get<std::uint32_t>(first, kAtPayload) != first.size() - kHeaderBytes)
    return malformed("not of the length that it says");
  if (get<std::uint16_t>(first, kAtFrames) != parts.size() - 1 || parts.size() - 1 > kMaxFrames)
    return malformed("not of the number of frames that it says");
  if (get<std::uint32_t>(first, kAtCrc) != crc_of(std::string(first))) return malformed("damaged");
  LinkMessage message;
  message.type = static_cast<LinkType>(get<std::uint16_t>(first, kAtType));
  message.flags = get<std::uint32_t>(first, kAtFlags);
  message.epoch = get<std::uint64_t>(first, kAtEpoch);
  message.session = get<std::uint64_t>(first, kAtSession);
  message.sequence = get<std::uint64_t>(first, kAtSequence);
  message.payload = first.substr(kHeaderBytes);
  for (const std::string_view frame : parts.subspan(1)) message.frames.emplace_back(frame);
  return message;
}

} // namespace vsnap::link_message
