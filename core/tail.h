// The tail: the slots of a daemon's ChangeLog in shared memory, which outlives the daemon but not the
// machine's boot. What a write changed in the map is in the tail before the write is answered, and its data
// in the page cache of the members; so a daemon that is killed loses nothing that it answered, with or
// without fsync.
//
//   daemon     Tail::make ──► token to the catalog ──► the log's slots are the tail's
//   killed     ───────────────────────────────────────────────────────────────────── the segment stays
//   next open  catalog, journal ──► records of the tail beyond them ──► log ──► commit ──► another tail
//   closed     everything is in the catalog ──► the segment is removed
//
// Invariants
// 1. The records (committed, last] are whole: last moves on only once its slot is written, and a slot is
// written
//    again only after the catalog has, durably, what it held. Writers and readers of the same machine see
//    stores in order, whether the writer lives or not.
// 2. A tail counts for a pool whose catalog names its token, in the boot in which it was made, and for nobody
//    else. A pool gets another token, or 0, before its first record that is not in that tail.
//    It counts no more once a flush has failed: data of places that its records name may be lost.
// 3. The segment's memory is reserved when it is made: writing to it never fails.
// 4. Whoever uses it holds it (SharedMemory::hold). One that nobody holds, and whose pool is gone, is removed
// by
//    the next daemon of any pool.
// Threads: records() and the functions before a second thread; last() any.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/change_log.h"
#include "core/env.h"

namespace vsnap {

class Tail {
 public:
  // Made anew, in place of the pool's last one. `member`: a path at which one of its members was found.
  [[nodiscard]] static Result<std::unique_ptr<Tail>> make(Env& env, const Uuid& pool, std::uint64_t token,
                                                          std::uint64_t committed, const std::string& member);
  // The one that a killed daemon left; nullopt: there is none that counts (invariant 2). Fails where there
  // may be one that this user must not read.
  [[nodiscard]] static Result<std::optional<std::unique_ptr<Tail>>> find(Env& env, const Uuid& pool,
                                                                         std::uint64_t token);
  static void remove(Env& env, const Uuid& pool);
  // Removes those that no pool needs any more: made before the machine's last start, or whose pool is gone.
  // `is_there`: where that cannot be told the pool counts as there.
  using PoolIsThere = std::function<bool(const std::string& member, const Uuid& pool)>;
  static void remove_dead(Env& env, const PoolIsThere& is_there);

  // Those after `applied`, in order. Stops, with a warning, before one that is not what it should be.
  [[nodiscard]] std::vector<LogRecord> records(std::uint64_t applied) const;

  // From now on it counts no more: something that it speaks of may be lost. Any thread.
  void end();

  // For the ChangeLog that lives in it.
  [[nodiscard]] LogRecord* slots() const { return slots_in(*memory_); }
  [[nodiscard]] std::atomic<std::uint64_t>& last() const { return last_in(*memory_); }
  // Of any segment that make() made.
  [[nodiscard]] static LogRecord* slots_in(SharedMemory& memory);
  [[nodiscard]] static std::atomic<std::uint64_t>& last_in(SharedMemory& memory);

 private:
  explicit Tail(std::unique_ptr<SharedMemory> memory) : memory_(std::move(memory)) {}
  std::unique_ptr<SharedMemory> memory_;
};

} // namespace vsnap
