// The changes that the catalog does not have yet, in the order in which they happened: a ring of records.
//
// The I/O engine appends a record for every change of a head's map, and of a volume's size and attributes.
// Two readers follow: the journal, which makes records durable for an fsync, and the commit, which brings
// them into the catalog and thereby frees their slots.
//
//      committed()        line()              last()
//   ──────┬──────────────────┬───────────────────┬──────►  sequence
//   free  │ a commit is      │ for the next      │ free
//   slots │ under way        │ commit            │ slots
//
// Invariants
// 1. committed() <= line() <= last(); numbers go on over the life of a pool, one slot each.
// 2. A slot is complete before last() reaches its number, and stays as it is until committed() has passed it.
// 3. Records about one block are in the order of the map's changes (both are made under the region's mutex).
// 4. A record names the version and floor that its branch had when it was made: a snapshot parts them.
// 5. Writers hold back at full(). A piece of a request that began before may still append kMaxPieceRecords;
//    the ring has room for that of kMaxWriters.
// 6. An empty ring of one's own keeps no more than kKeptSlots of memory.
// 7. In a ring that outlives the process (move_to), `last` and `committed` there are last() and
//    committed() here, in the same order: see tail.h.
// Threads: append() and copy() from any thread; the other readers under the commit lock.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/log_record.h"
#include "core/mutex.h"
#include "core/units.h"

namespace vsnap {

class ChangeLog {
 public:
  static constexpr std::uint64_t kMaxLimit = 131072;
  static constexpr std::uint64_t kMaxPieceRecords = 1024;
  // A mount has 256 threads at most, 128 for requests set aside, and some of its own. Most requests are
  // writes, of 1 MiB at most, which with what they save make half as many records.
  static constexpr std::uint64_t kMaxWriters = 320;
  static constexpr std::uint64_t kKeptSlots = 16384; // 1 MiB
  static constexpr std::uint64_t kSlots = 2 * kMaxLimit + kMaxWriters * kMaxPieceRecords;

  // Holds back writers at twice `limit` records (one half for the commit under way), or at records in
  // `region_limit` regions; see wants_commit().
  ChangeLog(std::uint64_t committed, std::uint64_t limit, std::uint64_t region_limit);
  // From now on in slots, kSlots of them, that are somebody else's and outlive this object; `last` and
  // `committed` follow last() and committed(). Only while nothing is pending and nobody appends.
  void move_to(LogRecord* slots, std::atomic<std::uint64_t>& last, std::atomic<std::uint64_t>& committed)
      VSNAP_EXCLUDES(mutex_);

  // Its sequence number. `first_of_region`: no other record of its region came after line().
  std::uint64_t append(LogRecord record, bool first_of_region) VSNAP_EXCLUDES(mutex_);
  std::uint64_t append(const MapChange& change, bool first_of_region) {
    return append(record_of(change), first_of_region);
  }

  // What is appended from now on belongs to the commit after this one; takes no time to speak of, as writers
  // may be held.
  std::uint64_t draw_line() VSNAP_EXCLUDES(mutex_);
  // Calls `each(const LogRecord&)` for (from, to]; committed() <= from, to <= last().
  template <class Each>
  void each(std::uint64_t from, std::uint64_t to, Each call) const {
    for (std::uint64_t sequence = from + 1; sequence <= to; ++sequence) call(slot(sequence));
  }
  // Appends those of (from, to] that are not committed to `out`.
  void copy(std::uint64_t from, std::uint64_t to, std::vector<LogRecord>& out) const VSNAP_EXCLUDES(mutex_);
  void set_committed(std::uint64_t sequence) VSNAP_EXCLUDES(mutex_);

  // The commit under way failed: what it was to store is for the next one.
  void withdraw_line() VSNAP_EXCLUDES(mutex_);

  // The last one that needs_flushed_data(). Whoever asked for last() before: of the records up to that none
  // beyond this one does.
  [[nodiscard]] std::uint64_t last_with_data() const {
    return last_with_data_.load(std::memory_order_acquire);
  }
  [[nodiscard]] std::uint64_t committed() const { return committed_.load(std::memory_order_acquire); }
  [[nodiscard]] std::uint64_t line() const { return line_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t last() const { return last_.load(std::memory_order_acquire); }
  void set_limit(std::uint64_t limit) { limit_.store(std::min(limit, kMaxLimit), std::memory_order_relaxed); }
  // Should the caller commit before it goes on?
  [[nodiscard]] bool full() const {
    return last() - committed() >= 2 * limit_.load(std::memory_order_relaxed) || beyond_line(1);
  }
  // Should somebody commit, so that it does not become full?
  [[nodiscard]] bool wants_commit() const { return beyond_line(4); }

 private:
  [[nodiscard]] bool beyond_line(std::uint64_t part) const {
    return last() - line() >= limit_.load(std::memory_order_relaxed) / part ||
           regions_.load(std::memory_order_relaxed) >= region_limit_ / part;
  }
  [[nodiscard]] const LogRecord& slot(std::uint64_t sequence) const;

  struct Unmap {
    void operator()(LogRecord* slots) const;
  };
  std::unique_ptr<LogRecord[], Unmap> own_; // zeros until they are used, and no memory; none after move_to()
  LogRecord* slots_;
  std::atomic<std::uint64_t>* shared_committed_ VSNAP_GUARDED_BY(mutex_) = nullptr;
  std::atomic<std::uint64_t>* shared_last_ VSNAP_GUARDED_BY(mutex_) = nullptr;
  std::atomic<std::uint64_t> limit_;
  const std::uint64_t region_limit_;
  std::atomic<std::uint64_t> regions_{0}; // with records beyond the line
  mutable Mutex mutex_;
  std::uint64_t regions_before_line_ VSNAP_GUARDED_BY(mutex_) = 0;
  std::uint64_t touched_ VSNAP_GUARDED_BY(mutex_) = 0; // slots since the memory was last given back
  std::atomic<std::uint64_t> committed_, line_, last_, last_with_data_;
};

} // namespace vsnap
