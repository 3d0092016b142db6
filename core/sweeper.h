// Frees versions that nobody can see any more: what removal leaves to be done in the background.
//
// A version born at b and overtaken at b' is seen by the numbers b ... b' - 1. It is dead when no pin and no
// head is among them. (The rule is that of a birth-time log, as in ZFS dead lists, with the extent index
// itself as the log.) Where only children are among them, its blocks may be out of sight (coverage.h): the
// branch is swept again when they may have become so, as after many writes to the children.
//
// Invariants
// 1. Only dead rows go, and what is out of sight. Of the latter a hole stays where an older version lies
//    under it, so that nobody seems to see that one who does not. A step sweeps in one transaction; the place
//    where it stopped is in it, so a crash repeats nothing.
// 2. A branch without head and pins loses all rows; then, in another transaction, it goes itself and lets go
//    of its parent.
// Threads: step() under the engine's commit lock. The others from any thread and without any lock: they look
// at a copy of who sees what, and take the database's lock region by region.
#pragma once

#include <map>
#include <set>
#include <span>
#include <vector>

#include "core/coverage.h"
#include "core/engine.h"
#include "core/family.h"
#include "core/objects.h"

namespace vsnap {

struct BranchUsage {                               // in blocks
  std::map<std::uint64_t, std::uint64_t> only_pin; // seen by exactly this number and by nobody else
  std::uint64_t only_head = 0;
  std::uint64_t dead = 0;
};

struct Fragment; // of a row, as sweeps see it
struct Remnant;  // and what becomes of it

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

  // All branches at one moment.
  [[nodiscard]] Family family();

  // Exact for what is committed, where nothing changed since `family` was taken, but for what is out of
  // sight: whoever has a number counts as seeing it. Nothing for a branch that is not in there.
  Result<BranchUsage> usage(const Family& family, BranchId branch);
  // Blocks freed once all of `pins` are gone (a number counts as gone when all of its pins are), with what is
  // out of sight by then in their branches.
  Result<std::uint64_t> freed_by(const Family& family, const std::multiset<Pin>& pins);
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
  std::size_t replace_row(const Branch& branch, const ExtentRow& row, const std::vector<Remnant>& remnants,
                          std::vector<PlaceRun>& freed) VSNAP_REQUIRES(engine_.commit_mutex());
  std::vector<Remnant> remnants_of(const Branch& branch, const std::vector<Fragment>& fragments)
      VSNAP_REQUIRES(engine_.commit_mutex());
  void add_remnants(const Branch& branch, const Fragment& fragment, std::vector<Remnant>& remnants)
      VSNAP_REQUIRES(engine_.commit_mutex());
  // Starts the sweeps of branches whose children were written to enough.
  Result<> start_due_sweeps() VSNAP_REQUIRES(engine_.commit_mutex());
  void note_writes(BranchId branch, std::uint64_t blocks, std::set<BranchId>& due)
      VSNAP_REQUIRES(engine_.commit_mutex());
  [[nodiscard]] bool has_number_of_children(const Branch& branch);
  Result<std::uint64_t> blocks_out_of_sight(Coverage& coverage, BranchId branch, const Fragment& fragment);
  // Which blocks of a region have rows in these links, as of those numbers.
  Result<std::vector<bool>> covered_by(const Family& family, std::span<const Pin> links, RegionIndex region);
  Result<> erase(const std::vector<Branch*>& branches) VSNAP_REQUIRES(engine_.commit_mutex());

  Engine& engine_;
  Objects& objects_;
  ReleasePins release_;
  struct Inherited {                    // by a branch's children
    std::uint64_t worth = 0;            // blocks kept for them, and rows looked at, by the sweep under way
    std::uint64_t written = 0;          // blocks of theirs, since the last one ended
    std::uint64_t enough = kMinWritten; // then another is worth it
  };
  static constexpr std::uint64_t kMinWritten = 1024;
  // An eighth of what is kept may be out of sight, and for a block written eight rows are looked at at most.
  static constexpr std::uint64_t kShareWritten = 8;
  std::map<BranchId, Inherited> inherited_ VSNAP_GUARDED_BY(engine_.commit_mutex());
  std::optional<Coverage> coverage_ VSNAP_GUARDED_BY(engine_.commit_mutex()); // during a step
};

} // namespace vsnap
