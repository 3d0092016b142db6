// A volume that is delegated to this host (core/delegation.h), for all that the host has open of it: what is
// read and overwritten on the members here, without a message. The rest goes through the coordinator, and
// says so here first (Change).
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
// 5. kMaxRegions regions of the map are kept at most.
// Threads: any. drain() may last as long as the slowest I/O; no call but a fetch waits for another host.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/env.h"
#include "core/exported_map.h"
#include "core/io_gate.h"
#include "core/mutex.h"
#include "core/range_turns.h"
#include "core/region.h"
#include "core/shared_members.h"

namespace vsnap {

// Of this host's lease, on Env::monotonic_ns(); 0: there is none.
struct LeaseTimes {
  std::atomic<std::int64_t> young_until_ns{0};
  std::atomic<std::int64_t> until_ns{0};
};

class DirectVolume {
 public:
  static constexpr std::size_t kMaxRegions = 4096; // of 32 MiB of the volume each

  class Source {
   public:
    // Where the blocks of a region lie, as Pool::export_map(); nullopt: it is not delegated any more.
    [[nodiscard]] virtual Result<std::optional<RegionMap>> fetch_volume_map(ObjectId volume,
                                                                            RegionIndex region) = 0;

   protected:
    ~Source() = default;
  };

  DirectVolume(Env& env, ObjectId volume, SharedMembers& members, Source& source, const LeaseTimes& lease)
      : env_(env), id_(volume), members_(members), source_(source), lease_(lease) {
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
  [[nodiscard]] Result<> flush() VSNAP_EXCLUDES(flush_mutex_);
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
    // By the coordinator's answer, with the change done.
    void note_size(std::uint64_t size_bytes);

   private:
    void begin(std::uint64_t offset, std::uint64_t length);

    DirectVolume& volume_;
    std::uint64_t gift_ = 0;
    std::uint64_t given_ = 0; // when it began
    bool all_ = false;
    std::vector<RegionIndex> regions_;
  };

  // By whoever keeps the delegations of this host (direct_volumes.h), one call at a time.
  void give(std::uint64_t delegation, std::uint64_t size_bytes) VSNAP_EXCLUDES(mutex_);
  void stop();                         // nothing begins any more; also where nothing could
  void drain() VSNAP_EXCLUDES(mutex_); // after stop()
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
    bool mapped = false; // at the place, `skip` bytes into it; else zeros
    Place place;
    std::uint64_t skip = 0;
  };
  enum class Known { all, not_here, to_be_fetched };
  struct Look {
    Known known = Known::all;
    RegionIndex missing{0};
    std::vector<Piece> pieces = {};
  };
  class Pass;
  [[nodiscard]] Look look_up(std::uint64_t offset, std::uint64_t end, bool to_write) VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] Known look_up_in(const Region& region, std::uint64_t from, std::uint64_t to, bool to_write,
                                 std::vector<Piece>& pieces) const;
  [[nodiscard]] bool fetch(RegionIndex region) VSNAP_EXCLUDES(mutex_);
  // Those that keep a region from being fetched.
  [[nodiscard]] bool is_changing(const Slot& slot) VSNAP_REQUIRES(mutex_) {
    return slot.changes > 0 || changes_all_ > 0 || changes_before_ > 0;
  }
  [[nodiscard]] bool is_fetched(RegionIndex region) VSNAP_REQUIRES(mutex_); // just now
  void end_fetch(Slot& slot) VSNAP_REQUIRES(mutex_);
  void make_room() VSNAP_REQUIRES(mutex_);
  void forget(std::uint64_t offset, std::uint64_t length) VSNAP_EXCLUDES(mutex_);
  void drop_maps() VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] Result<> check_lease() const;

  Env& env_;
  const ObjectId id_;
  SharedMembers& members_;
  Source& source_;
  const LeaseTimes& lease_;
  IoGate gate_; // open in the state given
  std::atomic<std::uint64_t> given_{0};
  std::atomic<std::uint64_t> size_bytes_{0}; // at least: what goes further is asked of the coordinator
  RangeTurns turns_;                  // I/O here: shared; alone: parts of blocks, and what takes from the map
  Mutex flush_mutex_;                 // above all of SharedMembers
  std::atomic<bool> unflushed_{true}; // also by the process before
  std::atomic<bool> was_written_{false};
  std::atomic<std::uint64_t> flush_failures_{0};
  Mutex mutex_; // a leaf
  CondVar changed_;
  std::map<RegionIndex, Slot> slots_ VSNAP_GUARDED_BY(mutex_);
  std::uint32_t fetching_ VSNAP_GUARDED_BY(mutex_) = 0;    // regions
  std::uint32_t changes_all_ VSNAP_GUARDED_BY(mutex_) = 0; // of the whole volume, with the coordinator
  std::uint64_t gifts_ VSNAP_GUARDED_BY(mutex_) = 0;       // so far
  std::uint32_t changes_ VSNAP_GUARDED_BY(mutex_) = 0;     // with the coordinator, that began since the last
  std::uint32_t changes_before_ VSNAP_GUARDED_BY(mutex_) = 0; // the others
  std::int64_t refetch_at_ns_ VSNAP_GUARDED_BY(mutex_) = 0;
  RegionIndex last_dropped_ VSNAP_GUARDED_BY(mutex_){0};
};

} // namespace vsnap
