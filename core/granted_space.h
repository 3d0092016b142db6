// Which places hosts were granted with the volumes that are delegated to them (core/delegation.h), in memory.
//
//   free ──add()──► left ──take()──► taken ──settle()──► its map's, and no concern of this any more
//                    ▲                 │
//                    └── put_back() ◄──┘        end(): left ──► its caller's, who frees them
//
// Invariants
// 1. A place is left, or taken, for one delegation at most; all those are taken in the allocator, and not
//    durable there: no row of the extent index names them.
// 2. The rows of a delegation (granted_rows.h) have all that is left or taken of it, from before add() on
//    until after end(). So a place that was committed stays in them until the commit is durable: after a
//    crash before that its host commits it again.
// 3. take() succeeds once for a place: who took it names it in a map, or puts it back.
// Threads: any; a leaf lock. add() under the commit lock (or when there is one thread); end() once the
// delegation has ended and its rows are gone, so that nothing is added any more.
#pragma once

#include <map>
#include <span>
#include <vector>

#include "core/mutex.h"
#include "core/units.h"

namespace vsnap {

class GrantedSpace {
 public:
  void add(std::uint64_t delegation, PlaceRun run) VSNAP_EXCLUDES(mutex_);
  // False, and nothing is taken: not all of it is left.
  [[nodiscard]] bool take(std::uint64_t delegation, PlaceRun run) VSNAP_EXCLUDES(mutex_);
  // False: the delegation has ended; the caller frees it.
  [[nodiscard]] bool put_back(std::uint64_t delegation, PlaceRun run) VSNAP_EXCLUDES(mutex_);
  // Durably named by a map.
  void settle(std::uint64_t delegation, PlaceRun run) VSNAP_EXCLUDES(mutex_);
  // Of whatever delegation: places that are free by now, as what was taken was named and given up since.
  void forget_taken(std::span<const PlaceRun> runs) VSNAP_EXCLUDES(mutex_);
  // What is left; from now on nothing is known of it.
  [[nodiscard]] std::vector<PlaceRun> end(std::uint64_t delegation) VSNAP_EXCLUDES(mutex_);

  // Left or taken: what its rows must have.
  [[nodiscard]] std::vector<PlaceRun> outstanding(std::uint64_t delegation) VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] std::uint64_t blocks(std::uint64_t delegation) VSNAP_EXCLUDES(mutex_); // of those
  [[nodiscard]] std::uint64_t blocks() VSNAP_EXCLUDES(mutex_);                         // of all delegations
  // The parts of the run that are neither left nor taken, in order.
  [[nodiscard]] std::vector<PlaceRun> unknown(std::uint64_t delegation, PlaceRun run) VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] bool has_left(std::uint64_t delegation) VSNAP_EXCLUDES(mutex_);

 private:
  class Places { // as few runs as possible
   public:
    void add(PlaceRun run); // none of it is in
    void remove(PlaceRun run);
    [[nodiscard]] std::vector<PlaceRun> missing(PlaceRun run) const; // the parts that are not in
    [[nodiscard]] bool empty() const { return runs_.empty(); }
    [[nodiscard]] std::uint64_t blocks() const { return blocks_; }
    [[nodiscard]] std::vector<PlaceRun> all() const;

   private:
    std::map<Place, BlockCount> runs_;
    std::uint64_t blocks_ = 0;
  };
  struct Granted {
    Places left, taken;
  };

  Mutex mutex_;
  std::map<std::uint64_t, Granted> granted_ VSNAP_GUARDED_BY(mutex_);
};

} // namespace vsnap
