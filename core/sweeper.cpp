#include "core/sweeper.h"

#include <algorithm>
#include <array>

#include "core/assert.h"

namespace vsnap {
namespace {

// A piece of a row, all of whose blocks are overtaken by the same newer version, or by none.
struct Fragment {
  ExtentRow row;
  std::optional<std::uint64_t> overtaken;
  bool oldest = false; // no older row of this branch lies under it
};

// Cuts the rows of a region into fragments, row by row from the newest to the oldest.
template <class EachRow>
void for_fragments(std::vector<ExtentRow> rows, RegionIndex region, EachRow each) {
  constexpr std::uint64_t kNone = ~0ULL;
  const std::uint64_t base = first_block(region).value();
  std::vector<std::uint64_t> newer(kRegionBlocks, kNone);
  std::vector<std::uint64_t> first(kRegionBlocks, kNone);
  for (const ExtentRow& row : rows) {
    for (std::uint64_t i = 0; i < row.count.value(); ++i) {
      std::uint64_t& oldest = first[row.start.value() - base + i];
      oldest = std::min(oldest, row.born);
    }
  }
  std::sort(rows.begin(), rows.end(), [](const ExtentRow& a, const ExtentRow& b) { return a.born > b.born; });
  std::vector<Fragment> fragments;
  for (const ExtentRow& row : rows) {
    fragments.clear();
    const std::uint64_t at = row.start.value() - base;
    const std::uint64_t count = row.count.value();
    for (std::uint64_t i = 0; i < count;) {
      std::uint64_t end = i + 1;
      const bool oldest = first[at + i] == row.born;
      while (end < count && newer[at + end] == newer[at + i] && (first[at + end] == row.born) == oldest)
        ++end;
      ExtentRow piece = row;
      piece.start = row.start + BlockCount(i);
      piece.count = BlockCount(end - i);
      if (row.kind != BlockKind::hole) piece.place = row.place + BlockCount(i);
      fragments.push_back(
          {piece, newer[at + i] == kNone ? std::nullopt : std::optional(newer[at + i]), oldest});
      i = end;
    }
    std::fill(newer.begin() + static_cast<std::ptrdiff_t>(at),
              newer.begin() + static_cast<std::ptrdiff_t>(at + count), row.born);
    if (!each(row, fragments)) return;
  }
}

bool has_place(const ExtentRow& row) { return row.kind != BlockKind::hole; }

// Goes through all regions of a branch, holding the database for one at a time.
template <class Each>
Result<> for_regions(Engine& engine, const Branch& branch, Each each) {
  RegionIndex region(0);
  for (;;) {
    std::optional<RegionIndex> found;
    std::vector<ExtentRow> rows;
    VSNAP_TRY(engine.db().read([&](SQLite::Database&) -> Result<> {
      found = engine.index().next_region(branch.id, region);
      if (found) rows = engine.index().rows(branch.id, *found);
      return {};
    }));
    if (!found) return {};
    each(*found, std::move(rows));
    region = RegionIndex(found->value() + 1);
  }
}

// A step rewrites at most so many rows: what the smallest WAL holds.
constexpr std::size_t kMaxRowsAStep = 512;

} // namespace

Sweeper::Sweeper(Engine& engine, Objects& objects, ReleasePins release)
    : engine_(engine), objects_(objects), release_(std::move(release)) {}

Result<bool> Sweeper::step() {
  std::optional<std::pair<BranchId, BlockIndex>> sweep;
  std::optional<RegionIndex> region;
  VSNAP_TRY(engine_.db().read([&](SQLite::Database&) -> Result<> {
    sweep = engine_.index().first_sweep();
    if (sweep) region = engine_.index().next_region(sweep->first, region_of(sweep->second));
    return {};
  }));
  if (!sweep) return false;
  Branch* branch = nullptr;
  {
    MutexLock lock(objects_.mutex());
    branch = objects_.branch(sweep->first);
  }
  if (branch == nullptr) { // gone since; nothing can be left of it
    VSNAP_TRY(engine_.transact([&](SQLite::Database&, std::vector<PlaceRun>&) -> Result<> {
      engine_.index().end_sweep(sweep->first);
      return {};
    }));
    return true;
  }
  if (region)
    VSNAP_TRY(sweep_region(*branch, *region));
  else
    VSNAP_TRY(finish(*branch));
  return true;
}

Result<> Sweeper::sweep_region(Branch& branch, RegionIndex region) {
  return engine_.transact([&](SQLite::Database&, std::vector<PlaceRun>& freed) -> Result<> {
    ExtentIndex& index = engine_.index();
    std::size_t changed = 0;
    bool complete = true;
    for_fragments(index.rows(branch.id, region), region,
                  [&](const ExtentRow& row, const std::vector<Fragment>& fragments) {
                    const auto dead = [&](const Fragment& f) {
                      // A hole with nothing under it hides nothing.
                      return !branch.seen(row.born, f.overtaken) ||
                             (!has_place(f.row) && f.oldest && branch.parent == nullptr);
                    };
                    if (std::none_of(fragments.begin(), fragments.end(), dead)) return true;
                    if (changed >= kMaxRowsAStep) {
                      complete = false;
                      return false;
                    }
                    index.remove(branch.id, row);
                    ++changed;
                    for (const Fragment& f : fragments) {
                      if (!dead(f)) {
                        index.insert(branch.id, f.row);
                        ++changed;
                      } else if (has_place(f.row)) {
                        const PlaceRun run{f.row.place, f.row.count};
                        engine_.allocator().set_durable(run, false);
                        freed.push_back(run);
                      }
                    }
                    return true;
                  });
    index.set_sweep(branch.id, first_block(complete ? RegionIndex(region.value() + 1) : region));
    return {};
  });
}

Result<> Sweeper::finish(Branch& branch) {
  if (branch.has_head || !branch.pins.empty()) {
    return engine_.transact([&](SQLite::Database&, std::vector<PlaceRun>&) -> Result<> {
      engine_.index().end_sweep(branch.id);
      return {};
    });
  }
  Branch* const parent = branch.parent;
  std::vector<Pin> pins;
  if (parent != nullptr) pins.push_back({parent, branch.parent_number.value()});
  VSNAP_TRY(release_(pins, [&](SQLite::Database& db) -> Result<> {
    engine_.index().end_sweep(branch.id);
    SQLite::Statement s(db, "DELETE FROM branch WHERE id = ?");
    s.bind(1, branch.id.sql());
    s.exec();
    if (parent != nullptr) engine_.index().start_sweep(parent->id);
    return {};
  }));
  MutexLock lock(objects_.mutex());
  objects_.erase_branch(branch.id);
  return {};
}

Result<std::uint64_t> Sweeper::remaining() {
  return engine_.db().read([](SQLite::Database& db) -> Result<std::uint64_t> {
    return static_cast<std::uint64_t>(
        db.execAndGet("SELECT coalesce(sum((SELECT count(*) FROM extent WHERE extent.branch = "
                      "sweep.branch AND start >= next) + 1), 0) FROM sweep")
            .getInt64());
  });
}

Result<BranchUsage> Sweeper::usage(Branch& branch) {
  BranchUsage usage;
  const Viewers viewers = viewers_of(branch);
  const std::set<std::uint64_t> numbers(viewers.pins.begin(), viewers.pins.end());
  VSNAP_TRY(for_regions(engine_, branch, [&](RegionIndex region, std::vector<ExtentRow> rows) {
    for_fragments(std::move(rows), region, [&](const ExtentRow& row, const std::vector<Fragment>& fragments) {
      for (const Fragment& f : fragments) {
        if (!has_place(f.row)) continue;
        const bool head = viewers.has_head && !f.overtaken;
        const auto from = numbers.lower_bound(row.born);
        const auto to = f.overtaken ? numbers.lower_bound(*f.overtaken) : numbers.end();
        if (from == to)
          (head ? usage.only_head : usage.dead) += f.row.count.value();
        else if (!head && std::next(from) == to)
          usage.only_pin[*from] += f.row.count.value();
      }
      return true;
    });
  }));
  return usage;
}

Result<std::uint64_t> Sweeper::freed_by(std::multiset<Pin> pins) {
  std::uint64_t freed = 0;
  add_parents(pins);
  std::map<BranchId, Branch*> branches;
  for (const Pin& pin : pins) branches.emplace(pin.branch->id, pin.branch);
  for (const auto& [id, branch] : branches) {
    const Viewers before = viewers_of(*branch);
    Viewers after = before;
    if (pins.contains({branch, std::nullopt})) after.has_head = false;
    for (const Pin& pin : pins) {
      if (pin.branch != branch || !pin.number) continue;
      if (const auto found = after.pins.find(*pin.number); found != after.pins.end()) after.pins.erase(found);
    }
    VSNAP_TRY(for_regions(engine_, *branch, [&](RegionIndex region, std::vector<ExtentRow> rows) {
      for_fragments(std::move(rows), region,
                    [&](const ExtentRow& row, const std::vector<Fragment>& fragments) {
                      for (const Fragment& f : fragments) {
                        if (has_place(f.row) && before.seen(row.born, f.overtaken) &&
                            !after.seen(row.born, f.overtaken)) {
                          freed += f.row.count.value();
                        }
                      }
                      return true;
                    });
    }));
  }
  return freed;
}

// A branch that loses its last viewer lets go of its parent.
void Sweeper::add_parents(std::multiset<Pin>& pins) {
  std::set<BranchId> gone;
  for (bool again = true; again;) {
    again = false;
    for (const Pin& pin : std::multiset<Pin>(pins)) {
      Branch& branch = *pin.branch;
      if (gone.contains(branch.id) || branch.parent == nullptr) continue;
      const Viewers viewers = viewers_of(branch);
      const auto released = std::count_if(pins.begin(), pins.end(), [&](const Pin& p) {
        return p.branch == &branch && p.number.has_value();
      });
      const bool head_left = viewers.has_head && !pins.contains({&branch, std::nullopt});
      if (head_left || static_cast<std::size_t>(released) < viewers.pins.size()) continue;
      gone.insert(branch.id);
      pins.insert({branch.parent, branch.parent_number.value()});
      again = true;
    }
  }
}

Viewers Sweeper::viewers_of(const Branch& branch) {
  MutexLock lock(objects_.mutex());
  return branch;
}

Result<std::uint64_t> Sweeper::dead_blocks() {
  std::uint64_t dead = 0;
  std::vector<Branch*> branches;
  VSNAP_TRY(engine_.db().read([&](SQLite::Database& db) -> Result<> {
    SQLite::Statement s(db, "SELECT branch FROM sweep");
    MutexLock lock(objects_.mutex());
    while (s.executeStep()) {
      Branch* const branch = objects_.branch(BranchId(static_cast<std::uint64_t>(s.getColumn(0).getInt64())));
      if (branch != nullptr) branches.push_back(branch);
    }
    return {};
  }));
  for (Branch* branch : branches) {
    VSNAP_TRY_ASSIGN(const BranchUsage found, usage(*branch));
    dead += found.dead;
  }
  return dead;
}

} // namespace vsnap
