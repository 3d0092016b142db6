// Gives a branch places of its own for what it sees through its parent, piece by piece: what flatten and the
// copies of full-sized snapshots are made of.
//
// Blocks in the image of an adopted volume are overwritten in place: they are read as a view of the parent,
// and those that hold zeros get no place (zeros.h).
//
// Copies become rows born at 0, under all versions of the branch, so that everything that looks at the branch
// is complete by them. Sources are versions that nobody changes: a piece is read without a lock, in a grace
// section, so that its places stay what they are even if the last view of them goes meanwhile.
//
// Invariants
// 1. A piece is one transaction; its data is flushed before. After a crash all of it counts or nothing.
// 2. A block gets a copy only where a view of the branch finds no row of the branch itself.
// 3. Nothing is copied into a branch that has gone, or has no parent any more, since the piece was begun.
// Threads: any, but for one branch one piece at a time.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "core/engine.h"
#include "core/objects.h"
#include "core/volume_io.h"
#include "core/zeros.h"

namespace vsnap {

class BranchCopier {
 public:
  static constexpr std::uint64_t kPieceBlocks = 1024; // 4 MiB: as much work as a crash may repeat
  static constexpr std::size_t kPieceRuns = 64;       // each is a read of its own, and a row

  BranchCopier(Engine& engine, Objects& objects) : engine_(engine), objects_(objects) {}

  struct Piece {
    std::optional<BlockIndex> next; // where to go on; nullopt: nothing is left
    std::uint64_t blocks = 0;       // copied; may be none
  };
  // What its user adds to a piece; all of it under the commit lock.
  struct Hooks {
    std::function<bool()> wanted;                              // false: the piece is given up
    std::function<void(SQLite::Database&, const Piece&)> also; // in the same transaction
    std::function<void(const Piece&)> settled;                 // it counts; also one without blocks
  };
  // From `from` on. `members`: that the copies may lie on; none: any. Kind no_space: nothing was copied.
  Result<Piece> copy(BranchId branch, BlockIndex from, std::span<const std::uint32_t> members,
                     const Hooks& hooks) VSNAP_EXCLUDES(engine_.commit_mutex());

 private:
  struct Run { // blocks next to each other, at places next to each other
    BlockIndex start;
    BlockCount count;
    Entry source;
  };
  struct Plan {
    Piece piece;
    std::vector<Run> runs;
    std::unique_ptr<VolumeIo> parent; // where runs lie in the image of an adopted volume
  };
  struct Copied {
    ExtentRow row;
    std::uint64_t offset_bytes = 0; // in the buffer
  };
  Result<Plan> plan(BranchId branch, BlockIndex from) VSNAP_REQUIRES(engine_.commit_mutex());
  void choose_runs(const Branch& branch, RegionIndex region, BlockIndex from, Plan& plan);
  Result<> read(const Plan& plan);
  void open_parent(BranchId branch, Plan& plan) VSNAP_REQUIRES(engine_.commit_mutex());
  [[nodiscard]] ZeroPart part_of(const Run& run, BlockCount done, std::uint64_t offset_bytes) const;
  Result<std::vector<Copied>> allocate(const Plan& plan, std::span<const std::uint32_t> members);
  Result<> write(const std::vector<Copied>& copies);
  Result<> store(BranchId branch, const Piece& piece, const std::vector<Copied>& copies, const Hooks& hooks)
      VSNAP_EXCLUDES(engine_.commit_mutex());
  [[nodiscard]] bool has_parent(BranchId branch) VSNAP_REQUIRES(engine_.commit_mutex());
  void give_back(const std::vector<Copied>& copies);

  Engine& engine_;
  Objects& objects_;
  std::vector<std::byte> buffer_;
};

} // namespace vsnap
