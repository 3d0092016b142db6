// Frees versions that nobody can see any more: what removal leaves to be done in the background.
//
// A version born at b and overtaken at b' is seen by the numbers b ... b' - 1. It is dead when no pin and no
// head is among them. (The rule is that of a birth-time log, as in ZFS dead lists, with the extent index
// itself as the log.)
//
// Invariants
// 1. Only dead rows go. A step sweeps in one transaction; the place where it stopped is in it, so a crash
//    repeats nothing.
// 2. A branch without head and pins loses all rows; then, in another transaction, it goes itself and lets go
//    of its parent.
// Threads: step() under the engine's commit lock. The others from any thread and without any lock: they look
// at a copy of who sees what, and take the database's lock region by region.
#pragma once

#include <map>
#include <set>
#include <span>
#include <vector>

#include "core/engine.h"
#include "core/objects.h"

namespace vsnap {

// One view's hold on a branch: a snapshot's or child's number, or the head.
struct Pin {
  BranchId branch;
  std::optional<std::uint64_t> number; // nullopt: the head
  auto operator<=>(const Pin&) const = default;
};

struct BranchUsage {                               // in blocks
  std::map<std::uint64_t, std::uint64_t> only_pin; // seen by exactly this number and by nobody else
  std::uint64_t only_head = 0;
  std::uint64_t dead = 0;
};

class Sweeper {
 public:
  // Lets go of pins and heads in one transaction with `step`; provided by the pool, which knows the open
  // maps.
  using ReleasePins = std::function<Result<>(const std::vector<Pin>& pins, const Engine::Step& step)>;

  Sweeper(Engine& engine, Objects& objects, ReleasePins release);

  // True: something was done; false: nothing is left to sweep.
  Result<bool> step() VSNAP_REQUIRES(engine_.commit_mutex());
  // Extents that sweeps still have to look at.
  Result<std::uint64_t> remaining();

  // All branches at one moment: who sees them, and where they hold their parents.
  struct Relative : Viewers {
    std::optional<Pin> parent;
    bool adopted = false;
  };
  using Family = std::map<BranchId, Relative>;
  [[nodiscard]] Family family();

  // Exact for what is committed, where nothing changed since `family` was taken. Nothing for a branch that is
  // not in there.
  Result<BranchUsage> usage(const Family& family, BranchId branch);
  // Blocks freed once all of `pins` are gone (a number counts as gone when all of its pins are).
  Result<std::uint64_t> freed_by(const Family& family, std::multiset<Pin> pins);
  // Blocks in `head` and the branches of `line` that somebody sees, but not who writes to `head`. (Of what
  // the line holds for the head alone, as its start, nothing counts.) See snapshot_limit.h.
  Result<std::uint64_t> kept_beside(const Family& family, BranchId head, std::set<BranchId> line);
  // Blocks that are dead now, in branches that are being swept.
  Result<std::uint64_t> dead_blocks(const Family& family);

 private:
  void sweep_some(std::vector<PlaceRun>& freed, std::vector<Branch*>& ended)
      VSNAP_REQUIRES(engine_.commit_mutex());
  std::size_t drop_region(const Branch& branch, RegionIndex region, std::vector<PlaceRun>& freed)
      VSNAP_REQUIRES(engine_.commit_mutex());
  std::size_t sweep_region(const Branch& branch, RegionIndex region, std::vector<PlaceRun>& freed)
      VSNAP_REQUIRES(engine_.commit_mutex());
  // Which blocks of a region have rows in these links, as of those numbers.
  Result<std::vector<bool>> covered_by(const Family& family, std::span<const Pin> links, RegionIndex region);
  Result<> erase(const std::vector<Branch*>& branches) VSNAP_REQUIRES(engine_.commit_mutex());

  Engine& engine_;
  Objects& objects_;
  ReleasePins release_;
};

} // namespace vsnap
