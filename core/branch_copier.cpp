#include "core/branch_copier.h"

#include <fmt/format.h>
#include <algorithm>

#include "core/planted.h"

namespace vsnap {
namespace {

Failure given_up() { return failure(ErrorKind::failed, ECANCELED, "the copy is not wanted any more"); }

} // namespace

bool BranchCopier::has_parent(BranchId id) {
  MutexLock lock(objects_.mutex());
  const Branch* const branch = objects_.branch(id);
  return branch != nullptr && branch->parent != nullptr;
}

Result<BranchCopier::Piece> BranchCopier::copy(BranchId branch, BlockIndex from,
                                               std::span<const std::uint32_t> members, const Hooks& hooks) {
  Plan plan;
  {
    // Entered under the lock and left without it: nobody is waited for in between.
    std::optional<Grace::Section> section;
    {
      MutexLock commit(engine_.commit_mutex());
      VSNAP_TRY(engine_.check_writable());
      if (!has_parent(branch) || (hooks.wanted && !hooks.wanted())) return given_up();
      section.emplace(engine_.grace());
      VSNAP_TRY_ASSIGN(plan, this->plan(branch, from));
      open_parent(branch, plan);
      if (plan.runs.empty()) {
        if (hooks.settled) hooks.settled(plan.piece);
        return plan.piece;
      }
    }
    VSNAP_TRY(read(plan));
  }
  VSNAP_TRY_ASSIGN(const std::vector<Copied> copies, allocate(plan, members));
  auto done = write(copies);
  if (done && !planted(Fault::piece_not_flushed)) done = engine_.flush();
  if (done) done = store(branch, plan.piece, copies, hooks);
  if (!done) {
    give_back(copies);
    return Failure(done.error());
  }
  return plan.piece;
}

// The next region in which the parents have something, and what of it is to be copied.
Result<BranchCopier::Plan> BranchCopier::plan(BranchId id, BlockIndex from) {
  return engine_.db().read([&](SQLite::Database&) -> Result<Plan> {
    const Branch* branch = nullptr;
    {
      MutexLock lock(objects_.mutex());
      branch = objects_.branch(id); // stays: the commit lock is held
    }
    Plan plan;
    std::optional<RegionIndex> region;
    for (const Branch* link = branch->parent; link != nullptr; link = link->seen_parent()) {
      const auto found = engine_.index().next_mapped_region(*link, region_of(from));
      if (found && (!region || *found < *region)) region = found;
    }
    if (region) choose_runs(*branch, *region, std::max(from, first_block(*region)), plan);
    return plan;
  });
}

void BranchCopier::choose_runs(const Branch& branch, RegionIndex region, BlockIndex from, Plan& plan) {
  Region inherited(region, Version(0));
  std::vector<bool> needed(kRegionBlocks, true);
  std::uint64_t oldest_view = branch.number.load();
  {
    MutexLock lock(objects_.mutex());
    if (!branch.pins.empty()) oldest_view = *branch.pins.begin();
  }
  engine_.index().load_region(*branch.parent, branch.parent_number, std::nullopt, inherited);
  // Where all views have a version of the branch's own, nobody looks at the parent.
  for (const ExtentRow& row : engine_.index().rows(branch.id, region)) {
    if (row.born > oldest_view) continue;
    const std::uint64_t at = (row.start - first_block(region)).value();
    std::fill_n(needed.begin() + static_cast<std::ptrdiff_t>(at), row.count.value(), false);
  }
  std::uint64_t block = (from - first_block(region)).value();
  while (block < kRegionBlocks && plan.piece.blocks < kPieceBlocks && plan.runs.size() < kPieceRuns) {
    const Entry source = inherited.entry(block);
    if (!needed[block] || !source.mapped()) {
      ++block;
      continue;
    }
    const std::uint64_t limit = std::min(kRegionBlocks, block + kPieceBlocks - plan.piece.blocks);
    std::uint64_t end = block + 1;
    while (end < limit && needed[end] && inherited.entry(end).kind() == source.kind() &&
           inherited.entry(end).place() == source.place() + BlockCount(end - block)) {
      ++end;
    }
    plan.runs.push_back({first_block(region) + BlockCount(block), BlockCount(end - block), source});
    plan.piece.blocks += end - block;
    block = end;
  }
  plan.piece.next = first_block(region) + BlockCount(block); // perhaps that of the next region
  if (planted(Fault::copy_ends_early)) plan.piece.next.reset();
}

Result<> BranchCopier::read(const Plan& plan) {
  buffer_.resize(plan.piece.blocks * kBlockBytes);
  std::span<std::byte> rest = buffer_;
  for (const Run& run : plan.runs) {
    const auto part = rest.first(bytes(run.count));
    rest = rest.subspan(part.size());
    if (run.source.kind() != BlockKind::data) continue; // a reserved place has no content
    if (run.source.place().is_base())
      VSNAP_TRY(plan.parent->read(run.start.value() * kBlockBytes, part));
    else
      VSNAP_TRY(engine_.members().read(run.source.place(), 0, part));
  }
  return {};
}

// Not under the database's lock, as the view's map is one of the cache's.
void BranchCopier::open_parent(BranchId id, Plan& plan) {
  const bool in_image = std::any_of(plan.runs.begin(), plan.runs.end(), [](const Run& run) {
    return run.source.kind() == BlockKind::data && run.source.place().is_base();
  });
  if (!in_image) return;
  auto origin = std::make_shared<Object>();
  origin->kind = ViewKind::snapshot;
  {
    MutexLock lock(objects_.mutex());
    const Branch& branch = *objects_.branch(id); // stays: the commit lock is held
    origin->branch = branch.parent;
    origin->number = branch.parent_number;
  }
  origin->size_bytes.store(kMaxVolumeBytes);
  plan.parent = std::make_unique<VolumeIo>(engine_, objects_, std::move(origin), nullptr);
}

Result<std::vector<BranchCopier::Copied>> BranchCopier::allocate(const Plan& plan,
                                                                 std::span<const std::uint32_t> members) {
  std::vector<Copied> copies;
  std::uint64_t offset = 0;
  for (const Run& run : plan.runs) {
    for (BlockCount done; done < run.count;) {
      const BlockIndex start = run.start + done;
      const ZeroPart part = part_of(run, done, offset);
      ExtentRow row{start, 0, part.count, BlockKind::reserved, Place::zeros(start)};
      if (!part.zeros) {
        const std::uint64_t phase = start.value() % kNeighbourhoodBlocks;
        const auto place = members.empty() ? engine_.allocate(part.count, std::nullopt, phase)
                                           : engine_.allocate_among(members, part.count, phase);
        if (!place) {
          give_back(copies);
          return failure(ErrorKind::no_space, "no space for a copy");
        }
        row = {start, 0, place->count, run.source.kind(), place->start};
      }
      copies.push_back({row, offset});
      offset += bytes(row.count);
      done = done + row.count;
    }
  }
  return copies;
}

// From block `done` of the run on, which lie there in the buffer: what gets a place, or none. Only images are
// looked through: what was written to the pool as zeros was wanted there.
ZeroPart BranchCopier::part_of(const Run& run, BlockCount done, std::uint64_t offset_bytes) const {
  const BlockCount rest = run.count - done;
  const bool in_image = run.source.kind() == BlockKind::data && run.source.place().is_base();
  if (!in_image) return {rest, run.source.place().is_zeros()};
  return first_part(run.start + done, std::span(buffer_).subspan(offset_bytes, bytes(rest)));
}

Result<> BranchCopier::write(const std::vector<Copied>& copies) {
  for (const Copied& copy : copies) {
    if (copy.row.kind != BlockKind::data) continue;
    const auto data = std::span(buffer_).subspan(copy.offset_bytes, bytes(copy.row.count));
    VSNAP_TRY(engine_.members().write(copy.row.place, 0, data));
  }
  return {};
}

Result<> BranchCopier::store(BranchId branch, const Piece& piece, const std::vector<Copied>& copies,
                             const Hooks& hooks) {
  MutexLock commit(engine_.commit_mutex());
  if (!has_parent(branch) || (hooks.wanted && !hooks.wanted())) return given_up();
  Allocator& allocator = engine_.allocator();
  auto done = engine_.transact([&](SQLite::Database& db, std::vector<PlaceRun>&) -> Result<> {
    for (const Copied& copy : copies) {
      engine_.index().insert(branch, copy.row);
      if (copy.row.place.in_pool()) allocator.set_durable({copy.row.place, copy.row.count}, true);
    }
    if (hooks.also) hooks.also(db, piece);
    return {};
  });
  if (!done) {
    for (const Copied& copy : copies) {
      if (allocator.is_durable(copy.row.place))
        allocator.set_durable({copy.row.place, copy.row.count}, false);
    }
    return done;
  }
  engine_.note_rows_added();
  if (hooks.settled) hooks.settled(piece);
  return {};
}

// Nobody knows of these places; in a pool that has failed nothing is given away any more.
void BranchCopier::give_back(const std::vector<Copied>& copies) {
  if (!engine_.check_writable()) return;
  for (const Copied& copy : copies) {
    if (copy.row.place.in_pool()) engine_.allocator().release({copy.row.place, copy.row.count});
  }
}

} // namespace vsnap
