// A volume that is delegated to this host (core/delegation.h), for all that the host has open of it: what is
// read and overwritten on the members here, without a message, and what is written for the first time, to
// places that the coordinator has granted (pending_blocks.h): those changes of the map are handed over later.
// The rest goes through the coordinator, and says so here first (Change).
//
//          give()             stop()             drain()
//   none ─────────► given ──────────────► ending ─────────► none
//
// Invariants
// 1. I/O on the members begins in the state given only, and while the lease is young (LeaseTimes). What began
//    may end later: drain() waits for it. It counts only if the lease still lasts then; else it is EIO, as
//    another host may have taken the volume over.
// 2. Overwritten are blocks that the map says are the volume's own; read are those that it names, and none
//    that is not mapped is anything but zeros. What the map says is so from before the I/O until after it:
//    while a Change is with the coordinator the map says nothing of its blocks, I/O on them that had begun
//    has ended, and no map of its region is fetched.
// 3. Of overlapping writes each block ends up with the content of one: a write of parts of blocks is alone in
//    their stripes (core/range_turns.h).
// 4. flush() covers what was answered before it. A flush that failed is told by every later one
//    (flush_failures()), as what it was for may be lost.
// 5. kMaxRegions regions of the map are kept at most, beside those with changes that are pending.
// 6. What is pending the map names, as the volume's own, until it is handed over; then that of the
//    coordinator does. So the coordinator is not asked for a block while that is pending: it gets the change
//    first (settle(), Change), also after stop().
// 7. A change is handed over when its data is durable, and no I/O looks at what the block was before any
//    more. A block gets one granted place: the next writes overwrite it there.
// 8. The volume is returned when nothing is pending (finish()). What the coordinator does not take, as it has
//    given the volume up, is lost, and counts as a flush that failed.
// 9. write() waits for space that has been asked for, as long as the volume is given and the lease young, in
//    no turn and not counted as I/O: so drain() does not wait for it.
// Threads: any. drain() may last as long as the slowest I/O. A fetch, a write without space, and what hands
// over, wait for another host: that is read(), write(), flush(), settle(), finish() and Change.
// Locks: a turn, the right to hand over, then that of DirectVolumes or mutex_, that of a region, that of
// PendingMemory.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/env.h"
#include "core/exported_map.h"
#include "core/grace.h"
#include "core/io_gate.h"
#include "core/mutex.h"
#include "core/range_turns.h"
#include "core/region.h"
#include "core/shared_members.h"
#include "sync/pending_blocks.h"

namespace vsnap {

// Of this host's lease, on Env::monotonic_ns(); 0: there is none.
struct LeaseTimes {
  std::atomic<std::int64_t> young_until_ns{0};
  std::atomic<std::int64_t> until_ns{0};
};

class DirectVolume {
 public:
  static constexpr std::size_t kMaxRegions = 4096;   // of 32 MiB of the volume each
  static constexpr std::uint64_t kFirstGrant = 4096; // blocks; then twice what it got last

  class Source {
   public:
    // Where the blocks of a region lie, as Pool::export_map(); nullopt: it is not delegated any more.
    [[nodiscard]] virtual Result<std::optional<RegionMap>> fetch_volume_map(ObjectId volume,
                                                                            RegionIndex region) = 0;

   protected:
    ~Source() = default;
  };

  // To the coordinator, of space and of what was written to it.
  class Handover {
   public:
    // Does not wait: granted() is told.
    virtual void ask_for_space(ObjectId volume, std::uint64_t delegation, BlockCount blocks) = 0;
    // Waits, until `given_up` says so as well: kind no_answer, and it may still be carried out then.
    [[nodiscard]] virtual Result<> commit_blocks(std::uint64_t delegation, std::span<const MapRun> runs,
                                                 const std::function<bool()>& given_up) = 0;
    virtual void hand_over_soon(ObjectId volume) = 0; // by another thread

   protected:
    ~Handover() = default;
  };

  DirectVolume(Env& env, ObjectId volume, SharedMembers& members, Source& source, Handover& handover,
               const LeaseTimes& lease)
      : env_(env),
        id_(volume),
        members_(members),
        source_(source),
        handover_(handover),
        lease_(lease),
        pending_(volume) {
    gate_.close();
  }
  DirectVolume(const DirectVolume&) = delete;
  DirectVolume& operator=(const DirectVolume&) = delete;

  [[nodiscard]] ObjectId id() const { return id_; }
  // nullopt, false: it was not done here, the coordinator is to be asked. EIO: the lease is over.
  [[nodiscard]] Result<std::optional<std::size_t>> read(std::uint64_t offset, std::span<std::byte> out)
      VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] Result<bool> write(std::uint64_t offset, std::span<const std::byte> data)
      VSNAP_EXCLUDES(mutex_);
  // What was written here is durable.
  [[nodiscard]] Result<> flush() VSNAP_EXCLUDES(flush_mutex_, mutex_);
  // Before the coordinator is asked what is there.
  [[nodiscard]] Result<> settle(std::uint64_t offset, std::uint64_t length) VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] std::uint64_t flush_failures() const { return flush_failures_.load(); }
  // The delegation under which I/O is possible now; 0: none.
  [[nodiscard]] std::uint64_t given() const { return given_.load(); }

  // Whether what is asked for now is likely to be done here.
  [[nodiscard]] bool is_ready() const {
    return given() != 0 && env_.monotonic_ns() < lease_.young_until_ns.load();
  }

  // A change that the coordinator is asked for, while it is asked.
  class Change {
   public:
    static constexpr std::uint64_t kAll = ~0ULL; // as the length: whatever the volume holds

    Change(DirectVolume& volume, std::uint64_t offset, std::uint64_t length);
    ~Change();
    Change(const Change&) = delete;
    Change& operator=(const Change&) = delete;
    // Else the coordinator must not be asked: something that was written before is not there.
    [[nodiscard]] const Result<>& ready() const { return ready_; }
    // By the coordinator's answer, with the change done.
    void note_size(std::uint64_t size_bytes);

   private:
    void begin(std::uint64_t offset, std::uint64_t length);

    DirectVolume& volume_;
    std::uint64_t gift_ = 0;
    std::uint64_t given_ = 0; // when it began
    bool all_ = false;
    Result<> ready_;
    std::vector<RegionIndex> regions_;
  };

  // By whoever keeps the delegations of this host (direct_volumes.h), one call at a time.
  // `memory`: for what is written to granted space; nullptr: none is asked for.
  void give(std::uint64_t delegation, std::uint64_t size_bytes, PendingMemory* memory) VSNAP_EXCLUDES(mutex_);
  void stop();                         // nothing begins any more; also where nothing could
  void drain() VSNAP_EXCLUDES(mutex_); // after stop()
  // After drain(): flushes, and hands over what is pending. False: the coordinator has neither taken nor
  // refused it yet.
  [[nodiscard]] bool finish() VSNAP_EXCLUDES(flush_mutex_, mutex_);
  void granted(std::uint64_t delegation, std::span<const PlaceRun> runs) VSNAP_EXCLUDES(mutex_);
  // What was pending at the last call, with `all`: at this one.
  void hand_over_old(bool all) VSNAP_EXCLUDES(flush_mutex_, mutex_);
  [[nodiscard]] bool was_written() { return was_written_.exchange(false); } // since the last call

 private:
  struct Slot { // of a region
    std::shared_ptr<Region> map;
    std::uint32_t changes = 0; // that are with the coordinator
    bool fetching = false;
    [[nodiscard]] bool is_empty() const { return !map && changes == 0 && !fetching; }
  };
  struct Piece { // of a range, in bytes
    std::uint64_t from = 0, to = 0;
    Entry entry; // of the first block, into which it goes `skip` bytes
    std::uint64_t skip = 0;
    [[nodiscard]] bool mapped() const { return entry.kind() == BlockKind::data; } // else zeros
    [[nodiscard]] bool in_place() const { return mapped() && entry.own(); }
  };
  struct Fresh { // blocks next to each other, and places for them that were taken
    BlockIndex first;
    PlaceRun run;
    Entry before; // of the first, as the map says
    bool used = false;
  };
  enum class Done { yes, not_here, again, no_space };
  class Taken;
  enum class Known { all, to_be_fetched };
  struct Look {
    Known known = Known::all;
    RegionIndex missing{0};
    std::vector<Piece> pieces = {};
  };
  class Pass;
  [[nodiscard]] Result<std::optional<std::size_t>> read_here(std::uint64_t offset, std::span<std::byte> out)
      VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] Look look_up(std::uint64_t offset, std::uint64_t end) VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] Known look_up_in(const Region& region, std::uint64_t from, std::uint64_t to,
                                 std::vector<Piece>& pieces) const;
  [[nodiscard]] Done write_pieces(std::uint64_t offset, std::span<const std::byte> data,
                                  const std::vector<Piece>& pieces) VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] bool write_at(Place place, std::uint64_t skip, std::span<const std::byte> part);
  [[nodiscard]] bool write_fresh(const Fresh& fresh, std::uint64_t offset, std::span<const std::byte> data);
  [[nodiscard]] Done publish(std::vector<Fresh>& fresh) VSNAP_EXCLUDES(mutex_);
  void ask_for_space(std::uint64_t missing) VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] bool await_space() VSNAP_EXCLUDES(mutex_); // some may have come
  class HandoverTurn;
  [[nodiscard]] Result<> hand_over(const std::function<bool()>& given_up)
      VSNAP_EXCLUDES(flush_mutex_, mutex_);
  [[nodiscard]] std::function<bool()> until_lease_is_over() const;
  void lose(const Error& why) VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] bool fetch(RegionIndex region) VSNAP_EXCLUDES(mutex_);
  // Those that keep a region from being fetched.
  [[nodiscard]] bool is_changing(const Slot& slot) VSNAP_REQUIRES(mutex_) {
    return slot.changes > 0 || changes_all_ > 0 || changes_before_ > 0;
  }
  [[nodiscard]] bool is_fetched(RegionIndex region) VSNAP_REQUIRES(mutex_); // just now
  void end_fetch(Slot& slot) VSNAP_REQUIRES(mutex_);
  void make_room() VSNAP_REQUIRES(mutex_);
  // Alone in the range.
  [[nodiscard]] Result<> forget(std::uint64_t offset, std::uint64_t length) VSNAP_EXCLUDES(mutex_);
  void drop_maps() VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] Result<> check_lease() const;

  Env& env_;
  const ObjectId id_;
  SharedMembers& members_;
  Source& source_;
  Handover& handover_;
  const LeaseTimes& lease_;
  IoGate gate_; // open in the state given
  std::atomic<std::uint64_t> given_{0};
  std::atomic<std::uint64_t> size_bytes_{0}; // at least: what goes further is asked of the coordinator
  RangeTurns turns_; // I/O here: shared; alone: parts of blocks, and what takes from the map
  Grace grace_;      // of that
  Mutex flush_mutex_;
  CondVar flush_ended_;
  bool flushing_ VSNAP_GUARDED_BY(flush_mutex_) = false; // somebody has the right to flush and hand over
  std::atomic<bool> unflushed_{true};                    // also by the process before
  std::atomic<bool> was_written_{false};
  std::atomic<std::uint64_t> flush_failures_{0}; // counted by who has that right, before others get it
  std::string trouble_;                          // what finish() has told
  Mutex mutex_;                                  // a leaf
  CondVar changed_;
  std::map<RegionIndex, Slot> slots_ VSNAP_GUARDED_BY(mutex_);
  std::uint32_t fetching_ VSNAP_GUARDED_BY(mutex_) = 0;    // regions
  std::uint32_t changes_all_ VSNAP_GUARDED_BY(mutex_) = 0; // of the whole volume, with the coordinator
  std::uint64_t gifts_ VSNAP_GUARDED_BY(mutex_) = 0;       // so far
  std::uint32_t changes_ VSNAP_GUARDED_BY(mutex_) = 0;     // with the coordinator, that began since the last
  std::uint32_t changes_before_ VSNAP_GUARDED_BY(mutex_) = 0; // the others
  std::int64_t refetch_at_ns_ VSNAP_GUARDED_BY(mutex_) = 0;
  PendingBlocks pending_ VSNAP_GUARDED_BY(mutex_);
  std::uint64_t old_ VSNAP_GUARDED_BY(mutex_) = 0; // number up to which it was pending lately
  bool asking_ VSNAP_GUARDED_BY(mutex_) = false;   // for space
  std::int64_t ask_at_ns_ VSNAP_GUARDED_BY(mutex_) = 0;
  std::uint64_t next_grant_ VSNAP_GUARDED_BY(mutex_) = 0; // blocks
  RegionIndex last_dropped_ VSNAP_GUARDED_BY(mutex_){0};
};

} // namespace vsnap
