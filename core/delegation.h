// Delegations: a volume that one host alone has open may be delegated to it. Then the host reads mapped
// blocks from the members itself, and overwrites in place those that its head alone sees (own, entry.h), past
// the page cache and without a message. Other blocks it writes to places of a space that it has been granted,
// and hands the changes of the map over later (as with the layouts of RFC 5663): when they are to be durable,
// and before the volume is returned. Every other change of a map goes through the pool, as ever.
//
// Invariants (pool_delegation.cpp)
// 1. A volume has one delegation at most that is held or recalled. It is durable before the host hears of it,
//    and its number is never used again.
// 2. While it is held or recalled, nobody but its host has the volume open, no line is drawn through its
//    branch, and none of its blocks moves or is freed but by the host's own requests.
// 3. One that was not returned is given up only with a snapshot of the volume, which is held: so the head
//    owns none of the blocks that the host may still write to, and none of them is freed. Meanwhile no other
//    snapshot is made of the volume, as a late write could change it. The held one goes when nothing of the
//    host can be under way any more.
// 4. What the map says that a delegated host gets (export_map) is durable: the data, and that it lies there.
// 5. A host's answer never waits for who waits for it.
// 6. Granted places are taken (allocator.h), for one delegation, and durably so (granted_rows.h) before its
//    host hears of them. A map names them only once commit_blocks() was called with them, and each is given
//    a block once.
// 7. commit_blocks() is answered when the changes are durable; the data is, by its caller's word. A run is
//    taken whole or not at all within each aligned 4 MiB; the same one again is as good as done.
// 8. What of a grant has not been committed is free once the delegation has ended, and not before: of a lost
//    one that is when the snapshot goes.
// Threads: plain values; a keeper is called by any thread.
#pragma once

#include <cstdint>
#include <optional>

#include "core/names.h"
#include "core/units.h"

namespace vsnap {

struct Delegation {
  std::uint64_t number = 0;
  ObjectId volume;
  std::uint64_t host = 0; // HostInfo::id
  bool operator==(const Delegation&) const = default;
};

enum class DelegationState : std::uint8_t {
  held,
  recalled, // and not yet returned; also those that a process before this one gave
  lost,     // not returned: the snapshot `left` keeps what the host may still write to
};

struct DelegationInfo {
  Delegation delegation;
  DelegationState state = DelegationState::held;
  std::int64_t since_ns = 0; // since 1970
  ViewName volume;
  std::optional<ViewName> left;
};

// Tells hosts. Called by any thread, and locks may be held (also that of the configuration): must not wait,
// nor call the pool.
class DelegationKeeper {
 public:
  virtual ~DelegationKeeper() = default;
  // It is to be returned (Pool::end_delegation). `overdue`: that was said some seconds ago.
  virtual void recall(const Delegation& delegation, bool overdue) noexcept = 0;
};

} // namespace vsnap
