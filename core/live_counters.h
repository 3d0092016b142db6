// Live counters of a mounted pool, in shared memory: `vsnap top` reads them without asking anybody, and the
// daemon pays one relaxed addition for each.
//
// Invariants
// 1. A slot belongs to one view for as long as its id is not 0; counters only grow while it does.
// 2. Everything in the segment is a lock-free atomic.
// 3. A name is whole where its version was even, and the same, before and after it was read.
// 4. The daemon holds its segment (SharedMemory::hold); one that nobody holds is of a daemon that was killed,
//    and the next daemon of any pool removes it. A name is taken or removed only by who holds what has it.
// Threads: any; writers and readers in different processes.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/env.h"
#include "core/error.h"
#include "core/units.h"

namespace vsnap {

struct ViewCounters {                                // since the view was opened
  std::atomic<std::uint64_t> id{0};                  // 0: a free slot
  std::atomic<std::uint64_t> name_version{0};        // odd while the name changes
  std::array<std::atomic<std::uint64_t>, 20> name{}; // VOLUME or VOLUME@SNAPSHOT, eight bytes a word
  std::atomic<std::uint64_t> reads{0}, read_bytes{0};
  std::atomic<std::uint64_t> writes{0}, written_bytes{0};
  std::atomic<std::uint64_t> discards{0}, flushes{0};
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

class LiveCounters {
 public:
  // `uuid`: the pool's, as text. The daemon's: made anew, removed by the destructor. Kind busy: another
  // process shows a pool with that uuid.
  static Result<std::unique_ptr<LiveCounters>> create(Env& env, const std::string& uuid);
  // Removes those of daemons that were killed.
  static void remove_dead(Env& env);
  // A reader's, of the real environment, also of what another user's daemon shows; not_found when no daemon
  // has the pool, failed when this user may not look.
  static Result<std::unique_ptr<LiveCounters>> open(const std::string& uuid);
  ~LiveCounters();
  LiveCounters(const LiveCounters&) = delete;
  LiveCounters& operator=(const LiveCounters&) = delete;

  // A slot for the view; one that is shared by all further views when there are none left.
  // Given back when the last reference goes, which must be before the segment does.
  [[nodiscard]] std::shared_ptr<ViewCounters> take(ObjectId id, const std::string& name);

  // The view has another name from now on; nothing where it has no slot. Calls must follow one another.
  void rename(ObjectId id, const std::string& name);

  struct Sample {
    std::uint64_t id = 0;
    std::string name;
    std::uint64_t reads = 0, read_bytes = 0, writes = 0, written_bytes = 0, discards = 0, flushes = 0;
  };
  [[nodiscard]] std::vector<Sample> read() const;

 private:
  struct Segment;
  struct Mapping; // a reader's
  LiveCounters(Env& env, std::string name, std::unique_ptr<SharedMemory> memory);
  explicit LiveCounters(std::unique_ptr<Mapping> mapping);

  Env* env_ = nullptr; // the daemon's, as are the next two
  std::string name_;
  std::unique_ptr<SharedMemory> memory_;
  std::unique_ptr<Mapping> mapping_;
  Segment* segment_;
};

} // namespace vsnap
