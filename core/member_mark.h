// What tells a member of a pool that is open from a copy of it, such as a file that was restored from a
// backup: both have the same UUIDs. The process that has the pool open writes it into the owner record of
// every member (owner_record.h) whenever another host asks for one, and tells that host what it wrote.
//
// Invariant: a member that shows a mark of the same reign, and no older one than was told, was written to by
// that process after it was asked. A copy that was made before has an older mark, one of another reign, or
// none; so has one that somebody has opened since, as a pool of its own.
// Threads: plain values.
#pragma once

#include <cstdint>

namespace vsnap {

struct MemberMark {
  std::uint64_t reign = 0;  // random: of the process that has the pool open
  std::uint64_t number = 0; // from 1 on, in it; 0: there is none
  [[nodiscard]] bool is_shown_by(const MemberMark& found) const {
    return number > 0 && found.reign == reign && found.number >= number;
  }
  bool operator==(const MemberMark&) const = default;
};

} // namespace vsnap
