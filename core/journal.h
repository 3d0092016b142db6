// The map journal on a member: what fsync makes durable without asking SQLite. A ring of frames in a metadata
// segment of its own; man/vsnap-pool-format.5 has the bytes.
//
//   write        data to its place ──► record to the ChangeLog ──► map ──► answer
//   fsync        members flushed ──► frame with the records since the last one, in one synchronous write
//   save         copy to its place ──► record with its checksum ──► frame ──► members flushed, once for all
//   commit       catalog names the places, and (record, frame) up to which it has everything ──► frames free
//   open         catalog ──► frames from there on, as long as they are whole ──► log ──► commit
//
//           tail (in the catalog)          next
//   ──────────┬────────┬────────┬───────────┬─────────►   frame number
//    free     │ frame  │ frame  │ frame     │ free, or of the lap before
//             └ durable, not in the catalog ┘
//
// Invariants
// 1. A frame holds records of consecutive numbers. Their data was flushed before its write began; only that
//    of saves (copy_out.h) and of records that name none may be flushed after it. Each frame is its own
//    barrier: with it, all records before it count after a power cut.
// 2. One frame is written at a time, and its number is one higher than that of any frame before it; a number
// is
//    only used again for a frame whose write failed for want of space, at the same position.
// 3. Frames lie one behind the other; one that does not fit before the end of the ring lies at its start.
// 4. The space of a frame is used again only after a commit that covers all of its records is durable.
// 5. Replay ends at the first frame that is not whole. As only the newest can be torn, a whole one behind it
//    means damage, and is refused.
// 6. A place named by a record that is not in the catalog is given away to nobody: the allocator frees by
//    commits alone.
// 7. After a failed write, other than for want of space, nothing is reported durable any more.
// 8. No frame is begun before the one before it and all that it names is durable. So a save in the newest
//    frame, and there alone, may lack its copy: then its checksum does not match, nobody was told that it is
//    durable, its blocks were not overwritten, and replay takes it for a record that says nothing. No other
//    record needs it: a later save of the same block has the same content.
// Group commit: whoever finds no frame being written writes one for all callers so far; the others wait.
// Threads: sync() from any thread; attach() and replay() before the first; line() and trim() under the commit
// lock.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

#include "core/change_log.h"
#include "core/member_set.h"
#include "core/mutex.h"

namespace vsnap {

class Journal {
 public:
  // Where a frame is, or will be: there, or at the start of the ring if it does not fit.
  struct Position {
    std::uint64_t frame = 1;
    std::uint64_t offset = 0; // bytes
  };

  Journal(MemberSet& members, ChangeLog& log) : members_(members), log_(log) {}
  // The segment that it lies in. Without one nothing fits.
  void attach(PlaceRun segment, const Uuid& pool);
  [[nodiscard]] bool attached() const { return size_ != 0; }

  // Calls `each` for the records after `applied` in the frames from `from` on. Kind damaged: invariant 5, or
  // what `each` says; the records before that have been given to it.
  using Each = std::function<Result<>(const LogRecord& record)>;
  [[nodiscard]] Result<> replay(Position from, std::uint64_t applied, const Each& each);
  // Gives up all frames: none of them will be taken for whole.
  [[nodiscard]] Result<> reset() VSNAP_EXCLUDES(mutex_);

  // Makes the records up to `wanted` durable; the caller has flushed the members since they were appended.
  // False: there is no room, only a commit can do it.
  [[nodiscard]] Result<bool> sync(std::uint64_t wanted) VSNAP_EXCLUDES(mutex_);
  // The same before the members were flushed: it flushes them. Only if needs_no_flush(wanted).
  [[nodiscard]] Result<bool> sync_and_flush(std::uint64_t wanted) VSNAP_EXCLUDES(mutex_);
  // Of the records up to `wanted`, none that was not flushed needs_flushed_data(). False: perhaps one does.
  [[nodiscard]] bool needs_no_flush(std::uint64_t wanted) const VSNAP_EXCLUDES(mutex_);
  // Records up to this one had their data on the members when they were last flushed.
  [[nodiscard]] std::uint64_t flushed() const VSNAP_EXCLUDES(mutex_);
  // Records up to this one are durable in it.
  [[nodiscard]] std::uint64_t durable() const { return durable_now_.load(std::memory_order_acquire); }
  // Half of the ring is used: a commit would be good.
  [[nodiscard]] bool crowded() const { return used_.load(std::memory_order_relaxed) >= size_ / 2; }

  // To be called before the log's line is drawn: every frame before this position has no record beyond it.
  [[nodiscard]] Position line() const VSNAP_EXCLUDES(mutex_);
  // Frames before the position are in the catalog, durably.
  void trim(Position to) VSNAP_EXCLUDES(mutex_);

 private:
  struct Frame { // one that is not in the catalog
    std::uint64_t number = 0;
    std::uint64_t begin = 0, end = 0;
  };
  [[nodiscard]] std::optional<std::uint64_t> place_for(std::uint64_t bytes) const VSNAP_REQUIRES(mutex_);
  void set_durable(std::uint64_t sequence) VSNAP_REQUIRES(mutex_);
  enum class Flush { done, with_frame };
  [[nodiscard]] Result<bool> sync(std::uint64_t wanted, Flush flush) VSNAP_REQUIRES(mutex_);
  [[nodiscard]] std::uint64_t last_without_flush() const VSNAP_REQUIRES(mutex_);
  [[nodiscard]] Result<bool> write_frame(std::uint64_t to, Flush flush) VSNAP_REQUIRES(mutex_);
  [[nodiscard]] Result<> write_unlocked(std::uint64_t offset, Flush flush) noexcept VSNAP_REQUIRES(mutex_);
  [[nodiscard]] Result<> write_and_flush(std::uint64_t offset);
  // The records of the frame with that number at `offset`; its length in bytes. nullopt: none that is whole.
  struct Found {
    std::uint64_t offset = 0; // where it lies
    std::uint64_t length = 0;
    std::vector<LogRecord> records;
  };
  [[nodiscard]] Result<std::optional<Found>> read_frame(std::uint64_t offset, std::uint64_t number,
                                                        bool or_later);
  [[nodiscard]] Result<std::optional<Found>> find_frame(Position at);
  [[nodiscard]] Result<bool> any_frame_after(Position end);
  // Those of a frame after `last`, which it moves on; of the newest, saves only with their copies.
  [[nodiscard]] Result<> replay_frame(const Found& found, std::uint64_t number, bool newest,
                                      std::uint64_t& last, const Each& each);
  [[nodiscard]] bool has_copy(const LogRecord& save);

  MemberSet& members_;
  ChangeLog& log_;
  Place start_;
  std::uint64_t size_ = 0; // bytes
  Uuid pool_{};
  std::atomic<std::uint64_t> used_{0};
  std::atomic<std::uint64_t> durable_now_{0}; // durable_, for who holds no lock

  mutable Mutex mutex_;
  CondVar written_;
  bool writing_ VSNAP_GUARDED_BY(mutex_) = false;
  bool failed_ VSNAP_GUARDED_BY(mutex_) = false;
  std::uint64_t flushed_ VSNAP_GUARDED_BY(mutex_) = 0; // records whose data is durable
  std::uint64_t durable_ VSNAP_GUARDED_BY(mutex_) = 0; // records that are
  Position next_ VSNAP_GUARDED_BY(mutex_);
  std::deque<Frame> frames_ VSNAP_GUARDED_BY(mutex_);
  std::vector<LogRecord> records_; // of the frame being written; the writer's
  std::vector<std::byte> frame_;
};

} // namespace vsnap
