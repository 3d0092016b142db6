// Who has a pool open: written into every member by the process that holds its lock, read by the one that
// finds it locked. Only for the message: the lock itself is what keeps others out. And the mark by which
// hosts that share the pool know a member.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/env.h"
#include "core/member_mark.h"

namespace vsnap {

struct OwnerRecord {
  std::int64_t pid = 0;
  std::string host;
  std::string boot_id;
  std::string role; // "daemon" or "command"
  MemberMark mark = {};
};

[[nodiscard]] std::vector<std::byte> encode(const OwnerRecord& owner); // to lie at format::kOwnerRecordOffset
Result<> write_owner(File& member, const OwnerRecord& owner);
[[nodiscard]] std::optional<OwnerRecord> read_owner(File& member);

} // namespace vsnap
