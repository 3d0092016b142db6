#include "core/sweeper.h"

#include <algorithm>
#include <array>

#include "core/catalog.h"

namespace vsnap {

// A piece of a row, all of whose blocks are overtaken by the same newer version, or by none.
struct Fragment {
  ExtentRow row;
  std::optional<std::uint64_t> overtaken;
  bool oldest = false; // no older row of this branch lies under it
};

struct Remnant {
  enum class Fate { stays, leaves_hole, goes } fate;
  ExtentRow row;
};

namespace {

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
      fragments.push_back({row.part(row.start + BlockCount(i), row.start + BlockCount(end)),
                           newer[at + i] == kNone ? std::nullopt : std::optional(newer[at + i]), oldest});
      i = end;
    }
    std::fill(newer.begin() + static_cast<std::ptrdiff_t>(at),
              newer.begin() + static_cast<std::ptrdiff_t>(at + count), row.born);
    if (!each(row, fragments)) return;
  }
}

// What lies in the image of an adopted volume, or nowhere, takes no space of the pool.
bool has_place(const ExtentRow& row) { return row.kind != BlockKind::hole && row.place.in_pool(); }

// Rows of an image that was given back say nothing any more, and hide nothing.
bool is_released(const ExtentRow& row, bool adopted) { return !adopted && row.place.is_base(); }

void drop_released(std::vector<ExtentRow>& rows, bool adopted) {
  std::erase_if(rows, [adopted](const ExtentRow& row) { return is_released(row, adopted); });
}

// Goes through all regions of a branch, holding the database for one at a time.
template <class Each>
Result<> for_regions(Engine& engine, BranchId branch, Each each) {
  RegionIndex region(0);
  for (;;) {
    std::optional<RegionIndex> found;
    std::vector<ExtentRow> rows;
    VSNAP_TRY(engine.db().read([&](SQLite::Database&) -> Result<> {
      found = engine.index().next_region(branch, region);
      if (found) rows = engine.index().rows(branch, *found);
      return {};
    }));
    if (!found) return {};
    each(*found, std::move(rows));
    region = RegionIndex(found->value() + 1);
  }
}

// What a step may do, so that it fits into the smallest WAL (256 frames) and holds up nobody for long (some
// milliseconds). Rows lie close together: 8,192 of them on 164 pages, half full. Each region that is swept
// may add a page of rows and one of the space table; where a region has more rows than that, each row counts
// as a page. A pool that has so many has a WAL of as many frames as it has rows divided by 64, or more.
constexpr std::size_t kRowsAStep = 4096; // looked at; then no other region is begun
constexpr std::size_t kRegionsAStep = 32;
constexpr std::size_t kRowsAtOnce = kRegionBlocks;
constexpr std::size_t kMinChanges = 512;

std::size_t max_changes(std::size_t rows) {
  return rows <= kRowsAtOnce ? rows : std::max(kMinChanges, rows / 128);
}

} // namespace

Sweeper::Sweeper(Engine& engine, Objects& objects, ReleasePins release)
    : engine_(engine), objects_(objects), release_(std::move(release)) {}

Result<bool> Sweeper::step() {
  VSNAP_TRY(start_due_sweeps());
  VSNAP_TRY_ASSIGN(const bool any, engine_.db().read([&](SQLite::Database&) -> Result<bool> {
    return engine_.index().first_sweep().has_value();
  }));
  if (!any) return false;
  std::vector<Branch*> ended;
  const auto done = engine_.transact([&](SQLite::Database&, std::vector<PlaceRun>& freed)
                                         VSNAP_NO_THREAD_SAFETY_ANALYSIS -> Result<> {
                                           sweep_some(freed, ended);
                                           return {};
                                         });
  coverage_.reset();
  VSNAP_TRY(done);
  if (!ended.empty()) VSNAP_TRY(erase(ended));
  return true;
}

Result<> Sweeper::start_due_sweeps() {
  std::set<BranchId> due;
  for (const auto& [branch, blocks] : engine_.take_applied()) note_writes(branch, blocks, due);
  std::erase_if(due, [this](BranchId id) VSNAP_NO_THREAD_SAFETY_ANALYSIS {
    Branch* branch = nullptr;
    {
      MutexLock lock(objects_.mutex());
      branch = objects_.branch(id);
    }
    return branch == nullptr || !has_number_of_children(*branch);
  });
  if (due.empty()) return {};
  return engine_.transact([&](SQLite::Database&, std::vector<PlaceRun>&)
                              VSNAP_NO_THREAD_SAFETY_ANALYSIS -> Result<> {
                                for (const BranchId branch : due) engine_.index().start_sweep(branch);
                                return {};
                              });
}

// What is written to a branch may hide blocks of those that it starts from.
void Sweeper::note_writes(BranchId branch, std::uint64_t blocks, std::set<BranchId>& due) {
  MutexLock lock(objects_.mutex());
  const Branch* link = objects_.branch(branch);
  for (int depth = 0; link != nullptr && depth < Coverage::kMaxDepth; ++depth) {
    link = link->seen_parent();
    if (link == nullptr || link->adopted()) return;
    Inherited& inherited = inherited_[link->id];
    inherited.written += blocks;
    if (inherited.written < inherited.enough) continue;
    inherited.written = 0;
    due.insert(link->id);
  }
}

// Whether there is a number of the branch at which only children are.
bool Sweeper::has_number_of_children(const Branch& branch) {
  if (branch.adopted()) return false;
  MutexLock lock(objects_.mutex());
  std::map<std::uint64_t, std::size_t> children;
  for (const Branch* const other : objects_.branches()) {
    if (other->seen_parent() == &branch) ++children[other->parent_number.value()];
  }
  return std::any_of(children.begin(), children.end(),
                     [&branch](const auto& at) { return branch.pins.count(at.first) == at.second; });
}

// Branch after branch, region after region, until the step has done enough. Branches that have lost all their
// rows and viewers are left to erase().
void Sweeper::sweep_some(std::vector<PlaceRun>& freed, std::vector<Branch*>& ended) {
  ExtentIndex& index = engine_.index();
  std::size_t rows = 0;
  BranchId last(0);
  for (std::size_t regions = 0; regions < kRegionsAStep && rows < kRowsAStep; ++regions) {
    const auto sweep = index.first_sweep(last);
    if (!sweep) return;
    Branch* branch = nullptr;
    {
      MutexLock lock(objects_.mutex());
      branch = objects_.branch(sweep->first);
    }
    const auto region =
        branch == nullptr ? std::nullopt : index.next_region(branch->id, region_of(sweep->second));
    if (region) {
      if (!coverage_ && has_number_of_children(*branch)) coverage_.emplace(index, family());
      rows += branch->unseen() ? drop_region(*branch, *region, freed) : sweep_region(*branch, *region, freed);
      continue;
    }
    last = sweep->first;
    if (branch != nullptr && branch->unseen()) {
      ended.push_back(branch);
      continue;
    }
    index.end_sweep(last); // where the branch is gone, nothing can be left of it
    if (const auto found = inherited_.find(last); found != inherited_.end())
      found->second = {.enough = std::max(kMinWritten, found->second.worth / kShareWritten)};
  }
}

// Of a branch that nobody sees: all rows go, from left to right. Returns how many it looked at.
std::size_t Sweeper::drop_region(const Branch& branch, RegionIndex region, std::vector<PlaceRun>& freed) {
  ExtentIndex& index = engine_.index();
  const std::vector<ExtentRow> rows = index.rows(branch.id, region, kRowsAtOnce);
  for (const ExtentRow& row : rows) {
    if (has_place(row)) ExtentIndex::give_up({row.place, row.count}, engine_.allocator(), freed);
  }
  const bool complete = rows.size() < kRowsAtOnce;
  if (complete) {
    index.remove_all(branch.id, region);
  } else {
    for (const ExtentRow& row : rows) index.remove(branch.id, row);
  }
  index.set_sweep(branch.id, first_block(complete ? RegionIndex(region.value() + 1) : region));
  return rows.size();
}

std::size_t Sweeper::sweep_region(const Branch& branch, RegionIndex region, std::vector<PlaceRun>& freed) {
  ExtentIndex& index = engine_.index();
  std::vector<ExtentRow> rows = index.rows(branch.id, region);
  const std::size_t looked_at = rows.size();
  std::size_t changed = 0;
  bool complete = true;
  for (const ExtentRow& row : rows) {
    if (!is_released(row, branch.adopted())) continue;
    complete = changed < max_changes(looked_at);
    if (!complete) break;
    index.remove(branch.id, row);
    ++changed;
  }
  drop_released(rows, branch.adopted());
  for_fragments(
      std::move(rows), region,
      [&](const ExtentRow& row, const std::vector<Fragment>& fragments) VSNAP_NO_THREAD_SAFETY_ANALYSIS {
        const std::vector<Remnant> remnants = remnants_of(branch, fragments);
        const auto stays = [](const Remnant& remnant) { return remnant.fate == Remnant::Fate::stays; };
        if (std::all_of(remnants.begin(), remnants.end(), stays)) return true;
        if (changed >= max_changes(looked_at) || (changed > 0 && changed + remnants.size() > kRowsAtOnce)) {
          complete = false;
          return false;
        }
        changed += replace_row(branch, row, remnants, freed);
        return true;
      });
  index.set_sweep(branch.id, first_block(complete ? RegionIndex(region.value() + 1) : region));
  if (const auto found = inherited_.find(branch.id); found != inherited_.end())
    found->second.worth += looked_at;
  return looked_at;
}

// Returns how many rows it changed.
std::size_t Sweeper::replace_row(const Branch& branch, const ExtentRow& row,
                                 const std::vector<Remnant>& remnants, std::vector<PlaceRun>& freed) {
  ExtentIndex& index = engine_.index();
  index.remove(branch.id, row);
  std::size_t changed = 1;
  for (const Remnant& remnant : remnants) {
    const bool stays = remnant.fate == Remnant::Fate::stays;
    if (!stays && has_place(remnant.row))
      ExtentIndex::give_up({remnant.row.place, remnant.row.count}, engine_.allocator(), freed);
    if (remnant.fate == Remnant::Fate::goes) continue;
    ExtentRow left = remnant.row;
    if (!stays) {
      left.kind = BlockKind::hole;
      left.place = Place();
    }
    index.insert(branch.id, left);
    ++changed;
  }
  return changed;
}

std::vector<Remnant> Sweeper::remnants_of(const Branch& branch, const std::vector<Fragment>& fragments) {
  std::vector<Remnant> remnants;
  for (const Fragment& f : fragments) {
    // A hole with nothing under it hides nothing.
    const bool dead = !branch.seen(f.row.born, f.overtaken) ||
                      (f.row.kind == BlockKind::hole && f.oldest && branch.parent == nullptr);
    if (dead)
      remnants.push_back({Remnant::Fate::goes, f.row});
    else if (coverage_ && coverage_->children_alone(branch.id, f.row.born, f.overtaken))
      add_remnants(branch, f, remnants);
    else
      remnants.push_back({Remnant::Fate::stays, f.row});
  }
  return remnants;
}

// Of what only children see.
void Sweeper::add_remnants(const Branch& branch, const Fragment& f, std::vector<Remnant>& remnants) {
  const auto hidden = coverage_->out_of_sight(branch.id, f.row.born, f.overtaken, f.row.start, f.row.count);
  for (std::uint64_t i = 0; i < f.row.count.value();) {
    std::uint64_t end = i + 1;
    while (end < f.row.count.value() && hidden[end] == hidden[i]) ++end;
    Remnant remnant{Remnant::Fate::stays,
                    f.row.part(f.row.start + BlockCount(i), f.row.start + BlockCount(end))};
    if (hidden[i] && f.oldest) remnant.fate = Remnant::Fate::goes;
    if (hidden[i] && !f.oldest && has_place(f.row)) remnant.fate = Remnant::Fate::leaves_hole;
    if (!hidden[i] && has_place(f.row)) inherited_[branch.id].worth += end - i;
    remnants.push_back(remnant);
    i = end;
  }
}

Result<> Sweeper::erase(const std::vector<Branch*>& branches) {
  std::vector<Pin> pins;
  for (const Branch* const branch : branches) {
    if (branch->parent != nullptr) pins.push_back({branch->parent->id, branch->parent_number.value()});
  }
  VSNAP_TRY(release_(pins, [&](SQLite::Database& db) -> Result<> {
    for (const Branch* const branch : branches) {
      engine_.index().end_sweep(branch->id);
      if (branch->copy) catalog::erase_copy(db, branch->id);
      catalog::delete_branch(db, branch->id);
      if (branch->parent != nullptr) engine_.index().start_sweep(branch->parent->id);
    }
    return {};
  }));
  engine_.grace().synchronize(); // a copy may be reading through them
  MutexLock lock(objects_.mutex());
  for (const Branch* const branch : branches) {
    inherited_.erase(branch->id);
    objects_.erase_branch(branch->id);
  }
  return {};
}

Result<std::uint64_t> Sweeper::remaining() {
  return engine_.db().read(
      [&](SQLite::Database&) -> Result<std::uint64_t> { return engine_.index().count_rows_to_sweep(); });
}

// ---- usage ----

Family Sweeper::family() {
  Family family;
  MutexLock lock(objects_.mutex());
  for (const Branch* const branch : objects_.branches()) {
    Relative& relative = family[branch->id];
    static_cast<Viewers&>(relative) = *branch;
    relative.adopted = branch->adopted();
    relative.parent_draining = branch->parent_draining.load();
    if (branch->parent != nullptr) relative.parent = Pin{branch->parent->id, branch->parent_number.value()};
  }
  return family;
}

Result<BranchUsage> Sweeper::usage(const Family& family, BranchId branch) {
  BranchUsage usage;
  const auto found = family.find(branch);
  if (found == family.end()) return usage;
  const Viewers& viewers = found->second;
  const std::set<std::uint64_t> numbers(viewers.pins.begin(), viewers.pins.end());
  VSNAP_TRY(for_regions(engine_, branch, [&](RegionIndex region, std::vector<ExtentRow> rows) {
    drop_released(rows, found->second.adopted);
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

namespace {

// Takes `pins` away; a branch that loses its last viewer lets go of its parent. Returns the branches that
// lose a viewer.
std::set<BranchId> let_go(Family& family, const std::multiset<Pin>& pins) {
  std::set<BranchId> touched;
  std::vector<Pin> gone(pins.begin(), pins.end());
  while (!gone.empty()) {
    const Pin pin = gone.back();
    gone.pop_back();
    const auto found = family.find(pin.branch);
    if (found == family.end()) continue;
    Relative& relative = found->second;
    touched.insert(pin.branch);
    if (!pin.number)
      relative.has_head = false;
    else if (const auto number = relative.pins.find(*pin.number); number != relative.pins.end())
      relative.pins.erase(number);
    if (!relative.unseen() || !relative.parent) continue;
    if (!relative.parent_draining) gone.push_back(*relative.parent);
    relative.parent.reset();
  }
  return touched;
}

} // namespace

Result<std::uint64_t> Sweeper::freed_by(const Family& family, const std::multiset<Pin>& pins) {
  Family after = family;
  const std::set<BranchId> branches = let_go(after, pins);
  Coverage coverage(engine_.index(), after);
  std::uint64_t freed = 0;
  for (const BranchId branch : branches) {
    const Viewers& viewers_before = family.at(branch);
    const Viewers& viewers_after = after.at(branch);
    Result<> failed;
    VSNAP_TRY(for_regions(engine_, branch, [&](RegionIndex region, std::vector<ExtentRow> rows) {
      drop_released(rows, family.at(branch).adopted);
      for_fragments(std::move(rows), region, [&](const ExtentRow&, const std::vector<Fragment>& fragments) {
        for (const Fragment& f : fragments) {
          if (!has_place(f.row) || !viewers_before.seen(f.row.born, f.overtaken)) continue;
          if (!viewers_after.seen(f.row.born, f.overtaken)) {
            freed += f.row.count.value();
          } else if (coverage.children_alone(branch, f.row.born, f.overtaken)) {
            auto hidden = blocks_out_of_sight(coverage, branch, f);
            if (hidden) freed += *hidden;
            if (!hidden) failed = Failure(hidden.error());
          }
        }
        return failed.has_value();
      });
    }));
    VSNAP_TRY(failed);
  }
  return freed;
}

Result<std::uint64_t> Sweeper::blocks_out_of_sight(Coverage& coverage, BranchId branch, const Fragment& f) {
  return engine_.db().read([&](SQLite::Database&) -> Result<std::uint64_t> {
    const auto hidden = coverage.out_of_sight(branch, f.row.born, f.overtaken, f.row.start, f.row.count);
    return static_cast<std::uint64_t>(std::count(hidden.begin(), hidden.end(), true));
  });
}

namespace {

bool seen_at(const Fragment& f, std::optional<std::uint64_t> number) {
  if (!number) return !f.overtaken;
  return f.row.born <= *number && (!f.overtaken || *f.overtaken > *number);
}

// The views through which a head sees what it sees, itself first.
std::vector<Pin> links_of(const Family& family, BranchId head) {
  std::vector<Pin> links;
  for (std::optional<Pin> link = Pin{head, std::nullopt}; link;) {
    links.push_back(*link);
    const auto found = family.find(link->branch);
    link = found == family.end() ? std::nullopt : found->second.parent;
  }
  return links;
}

// Who sees versions of the branch beside the head that sees it through `link`.
Viewers others(const Relative& relative, const Pin* link) {
  Viewers viewers = relative;
  viewers.has_head = false;
  if (link == nullptr || !link->number) return viewers;
  if (const auto pin = viewers.pins.find(*link->number); pin != viewers.pins.end()) viewers.pins.erase(pin);
  return viewers;
}

} // namespace

Result<std::vector<bool>> Sweeper::covered_by(const Family& family, std::span<const Pin> links,
                                              RegionIndex region) {
  std::vector<bool> covered(kRegionBlocks);
  const std::uint64_t base = first_block(region).value();
  for (const Pin& link : links) {
    std::vector<ExtentRow> rows;
    VSNAP_TRY(engine_.db().read([&](SQLite::Database&) -> Result<> {
      rows = engine_.index().rows(link.branch, region);
      return {};
    }));
    drop_released(rows, family.at(link.branch).adopted);
    for (const ExtentRow& row : rows) {
      if (link.number && row.born > *link.number) continue;
      const auto first = covered.begin() + static_cast<std::ptrdiff_t>(row.start.value() - base);
      std::fill_n(first, row.count.value(), true);
    }
  }
  return covered;
}

Result<std::uint64_t> Sweeper::kept_beside(const Family& family, BranchId head, std::set<BranchId> line) {
  const std::vector<Pin> links = links_of(family, head);
  line.insert(head);
  std::uint64_t kept = 0;
  for (const BranchId branch : line) {
    const auto found = family.find(branch);
    if (found == family.end()) continue;
    const auto link =
        std::find_if(links.begin(), links.end(), [branch](const Pin& pin) { return pin.branch == branch; });
    const Viewers viewers = others(found->second, link == links.end() ? nullptr : &*link);
    const std::span<const Pin> nearer(links.begin(), link);
    Result<> failed;
    VSNAP_TRY(for_regions(engine_, branch, [&](RegionIndex region, std::vector<ExtentRow> rows) {
      drop_released(rows, found->second.adopted);
      std::vector<bool> hidden;
      if (link != links.end()) {
        auto covered = covered_by(family, nearer, region);
        if (!covered) failed = Failure(covered.error());
        if (covered) hidden = std::move(*covered);
      }
      for_fragments(std::move(rows), region, [&](const ExtentRow&, const std::vector<Fragment>& fragments) {
        for (const Fragment& f : fragments) {
          if (!has_place(f.row) || !viewers.seen(f.row.born, f.overtaken)) continue;
          if (hidden.empty() || !seen_at(f, link->number)) {
            kept += f.row.count.value();
            continue;
          }
          const auto first =
              hidden.begin() + static_cast<std::ptrdiff_t>((f.row.start - first_block(region)).value());
          kept += static_cast<std::uint64_t>(
              std::count(first, first + static_cast<std::ptrdiff_t>(f.row.count.value()), true));
        }
        return true;
      });
    }));
    VSNAP_TRY(failed);
  }
  return kept;
}

Result<std::uint64_t> Sweeper::dead_blocks(const Family& family) {
  std::vector<BranchId> branches;
  VSNAP_TRY(engine_.db().read([&](SQLite::Database&) -> Result<> {
    branches = engine_.index().sweeps();
    return {};
  }));
  std::uint64_t dead = 0;
  for (const BranchId branch : branches) {
    VSNAP_TRY_ASSIGN(const BranchUsage found, usage(family, branch));
    dead += found.dead;
  }
  return dead;
}

} // namespace vsnap
