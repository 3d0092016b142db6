// One message between a host and the coordinator: a fixed header, a payload of sync/sharing.proto, and any
// number of raw frames for bulk data. On the wire header and payload are the first part of a ZeroMQ message
// and each raw frame is a further one.
//
//   offset  bytes            (little-endian)
//        0      4  magic "VSLK"
//        4      2  major      of the protocol
//        6      2  type
//        8      4  flags      0 so far; unknown ones are ignored
//       12      4  crc        CRC-32C of header and payload, with 0 in its place
//       16      8  epoch      of the coordinator; 0: not known yet
//       24      8  session    0: none yet
//       32      8  sequence   of the sender in this session, from 1 on
//       40      4  payload    bytes
//       44      2  frames     raw frames that follow
//       46      2  0
//
// Invariants
// 1. decode(encode(m)) == m. What decode() returns has the length, the checksum and the number of frames
//    that its header says; its payload may still be no message.
// 2. Nothing that arrives makes it read beyond what arrived, or take memory for more than that.
// Threads: any; values and pure functions. CURVE keeps raw frames whole; the checksum leaves them out.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace vsnap {

// Values are never used again for something else.
enum class LinkType : std::uint16_t {
  join = 1,
  joined = 2,
  hello = 3,
  welcome = 4,
  renew = 5,
  renewed = 6,
  goodbye = 7,
  refused = 8,
  request = 9,
  reply = 10,
  notice = 11,
  taken = 12,
};

struct LinkMessage {
  LinkType type = LinkType::hello; // perhaps none of those above, from a later release
  std::uint32_t flags = 0;
  std::uint64_t epoch = 0;
  std::uint64_t session = 0;
  std::uint64_t sequence = 0;
  std::string payload = {};
  std::vector<std::string> frames = {};
  bool operator==(const LinkMessage&) const = default;
};

namespace link_message {

inline constexpr std::uint16_t kMajor = 1;
inline constexpr std::uint16_t kOldestMajor = 1; // that is understood; N talks to N - 1, from 2 on
inline constexpr std::size_t kHeaderBytes = 48;
inline constexpr std::size_t kMaxFrames = 64;
// To the coordinator: requests of control commands are the largest (wire::kMaxRequestBytes).
inline constexpr std::size_t kMaxToCoordinator = (2U << 20) + 4096;
// To a host: a list of some 500,000 views.
inline constexpr std::size_t kMaxToHost = 64U << 20;

[[nodiscard]] std::string encode(const LinkMessage& message); // the first part
// `parts` as they came. Kind failed; EPROTO, or EPROTONOSUPPORT where the sender is of another major version.
[[nodiscard]] Result<LinkMessage> decode(std::span<const std::string_view> parts);

} // namespace link_message
} // namespace vsnap
