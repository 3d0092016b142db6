// The limit on the space that the snapshots of one volume take, and the figure that is held against it.
//
// The figure: blocks of the pool that lie in branches of the volume (the one it writes to, and those of its
// snapshots, but for full-sized ones), that its snapshots or clones of them see, and that the volume itself
// does not see any more, because it has overwritten or discarded them. Of an adopted volume: what was saved
// out of its image. What a clone shares with its origin lies in the origin's branches and is not the clone's.
// What nobody sees, and is being swept, is nobody's. Sweeper::kept_beside() is the exact figure.
//
// Invariants
// 1. The figure here is the exact one or more: what a write is about to add counts before it does it
//    (take()). So it never passes the limit but by what is never refused: holes of a volume that is not
//    adopted (one in an image overwrites it), and what threads that are Exempt write.
// 2. Nobody is refused for good by a figure that is too high: before that the exact one is counted, where
//    anything happened that may have made it smaller (room()).
// 3. A volume without a limit pays one load of a word for each write that takes new places.
// take(), give_back() and add() come from inside the branch's gate, so that with the gate drained and
// everything committed the exact figure is that of the catalog.
// Threads: any. Its mutex is a leaf.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

#include "core/error.h"
#include "core/mutex.h"
#include "core/properties.h"

namespace vsnap {

class SnapshotLimit {
 public:
  // nullopt: there is none, and nobody counts. Callers take turns.
  void set(std::optional<std::uint64_t> blocks, OnFull on_full) VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] bool active() const { return most_.load(std::memory_order_relaxed) != kNoLimit; }
  [[nodiscard]] OnFull on_full() const { return on_full_.load(std::memory_order_relaxed); }

  // So many of `wanted` blocks there is room for, and they count from now on. 0: none, or nobody has counted.
  [[nodiscard]] std::uint64_t take(std::uint64_t wanted);
  void give_back(std::uint64_t blocks) { used_.fetch_sub(static_cast<std::int64_t>(blocks)); }
  void add(std::uint64_t blocks) { used_.fetch_add(static_cast<std::int64_t>(blocks)); }
  // What a write says that take() refused; whoever began it makes room, once it is out of the gate. Nothing
  // that a file or device answers looks like it: see system_failure().
  [[nodiscard]] static Failure refusal();
  [[nodiscard]] static bool refused(const Error& error);

  // While one lives, the calling thread is refused nothing: of configuration operations, which must not wait,
  // and of what is written so that something can be given back.
  class Exempt {
   public:
    Exempt();
    ~Exempt();
    Exempt(const Exempt&) = delete;
    Exempt& operator=(const Exempt&) = delete;
  };

  // In blocks. Before the first count it is of no use.
  [[nodiscard]] std::int64_t figure() const { return used_.load(); }
  [[nodiscard]] std::uint64_t used() const;
  [[nodiscard]] bool is_known() const { return known_.load(std::memory_order_acquire); } // since a count
  [[nodiscard]] std::uint64_t most() const { return most_.load(); }                      // where active()
  [[nodiscard]] unsigned percent() const;
  static constexpr unsigned kWarnPercent = 80; // from here on it is worth a word
  // Whether less than `room` blocks are left.
  [[nodiscard]] bool is_near(std::uint64_t room) const;
  // Unknown: only a count can tell.
  enum class Room { some, none, unknown };
  [[nodiscard]] Room room() const;
  [[nodiscard]] bool is_exact() const { return known_.load() && hints_.load() == counted_hints_.load(); }
  // A count begins with the gate drained, and ends with what was exact then. False: it came to nothing, as
  // the figure was forgotten since.
  struct Count {
    std::int64_t figure = 0;
    std::uint64_t hints = 0;
    std::uint64_t epoch = 0;
  };
  [[nodiscard]] Count begin_count() VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] bool end_count(Count count, std::uint64_t exact) VSNAP_EXCLUDES(mutex_);
  // After the fact: snapshots went, or space of theirs did.
  void may_be_less() VSNAP_EXCLUDES(mutex_);
  // The same, of what was just counted.
  void note_guess() { hints_.fetch_add(1); }
  // After the fact: it may be anything.
  void forget() VSNAP_EXCLUDES(mutex_);

  // Waiting for room. turn() before a look at whether there is some; wait() until something has changed
  // since.
  [[nodiscard]] std::uint64_t turn() VSNAP_EXCLUDES(mutex_);
  void wait(std::uint64_t turn) VSNAP_EXCLUDES(mutex_);
  void wake() VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] unsigned waiting() const { return waiting_.load(); } // writes that do

  // True once for each time that it becomes full: for the log.
  [[nodiscard]] bool tell_full() { return !told_full_.exchange(true); }
  // For who looks about once a second, and says when a mark is passed. Whether to count first: nobody has, or
  // the figure passes a mark and may be too high. After a count it takes twice as many looks as before until
  // there is another one, until a mark is told: a count reads all rows of the volume's family.
  [[nodiscard]] bool wants_count();
  // The highest of the marks, if it was passed since the last look; 0: none was, or it is not certain.
  [[nodiscard]] unsigned tell_mark();

 private:
  static constexpr std::uint64_t kNoLimit = ~std::uint64_t{0};
  static constexpr unsigned kLongestPause = 64;

  [[nodiscard]] unsigned mark() const; // the highest that the figure has reached; 0: none

  std::atomic<std::uint64_t> most_{kNoLimit};
  std::atomic<std::int64_t> used_{0};
  std::atomic<bool> known_{false};
  std::atomic<std::uint64_t> hints_{0};         // that it may be less
  std::atomic<std::uint64_t> counted_hints_{0}; // those that the last count knew of
  std::atomic<OnFull> on_full_{OnFull::error};
  std::atomic<bool> told_full_{false};
  std::atomic<unsigned> waiting_{0};
  std::atomic<unsigned> told_mark_{0};
  std::atomic<unsigned> looks_left_{0}; // without a count
  std::atomic<unsigned> pause_{0};      // looks that follow the next count
  Mutex mutex_;
  CondVar changed_;
  std::uint64_t turn_ VSNAP_GUARDED_BY(mutex_) = 0;
  std::uint64_t epoch_ VSNAP_GUARDED_BY(mutex_) = 0; // one higher each time that it is forgotten
};

} // namespace vsnap
