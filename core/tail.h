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
//    written again only after the catalog has, durably, what it held. Writers and readers of the same machine
//    see stores in order, whether the writer lives or not.
// 2. A tail counts for a pool whose catalog names its token, in the boot in which it was made, and has all
//    that the tail knows to be committed: an older copy of the pool does not. A pool gets another token, or
//    0, before its first record that is not in that tail.
// 3. It counts no more once a flush has failed: data of places that its records name may be lost.
// 4. The segment's memory is reserved when it is made: writing to it never fails.
// 5. Whoever uses it holds it (SharedMemory::hold), and nobody else uses or removes it. One that nobody holds
//    is removed by the next daemon of any pool once its pool is gone, or the machine was started anew; or its
//    pool has all of it and cannot be found.
// Threads: records() and the functions before a second thread; the rest any.
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
  // The one that a killed daemon left; nullopt: there is none that counts for a catalog that has the records
  // up to `applied` (invariant 2). Fails where there may be one that this user must not read. `takes_over`:
  // so it does where somebody still holds it, as this cannot be a copy of that one's pool.
  [[nodiscard]] static Result<std::optional<std::unique_ptr<Tail>>> find(Env& env, const Uuid& pool,
                                                                         std::uint64_t token,
                                                                         std::uint64_t applied,
                                                                         bool takes_over = false);
  // False: somebody holds it, as the daemon of a pool of which this one is a copy.
  [[nodiscard]] static bool remove(Env& env, const Uuid& pool);
  void remove_own(Env& env, const Uuid& pool) const; // this one, which is held
  // Removes those that no pool needs any more: made before the machine's last start, of a pool that is gone,
  // or cannot be found and has all of it.
  // What is at the path now: a member of the pool; nothing that can be looked at; something else.
  enum class Seen { member, nothing, other };
  using LookAtMember = std::function<Seen(const std::string& member, const Uuid& pool)>;
  static void remove_dead(Env& env, const LookAtMember& look);

  // Those after `applied`, in order. Stops, with a warning, before one that is not what it should be.
  [[nodiscard]] std::vector<LogRecord> records(std::uint64_t applied) const;

  // From now on it counts no more: something that it speaks of may be lost. Any thread.
  void end();

  // For the ChangeLog that lives in it.
  [[nodiscard]] LogRecord* slots() const { return slots_in(*memory_); }
  [[nodiscard]] std::atomic<std::uint64_t>& last() const { return last_in(*memory_); }
  [[nodiscard]] std::atomic<std::uint64_t>& committed() const;
  // Of any segment that make() made.
  [[nodiscard]] static LogRecord* slots_in(SharedMemory& memory);
  [[nodiscard]] static std::atomic<std::uint64_t>& last_in(SharedMemory& memory);

 private:
  explicit Tail(std::unique_ptr<SharedMemory> memory) : memory_(std::move(memory)) {}
  std::unique_ptr<SharedMemory> memory_;
};

} // namespace vsnap
