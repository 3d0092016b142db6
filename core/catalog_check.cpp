#include "core/catalog_check.h"

#include <fmt/format.h>
#include <algorithm>

#include "core/catalog.h"
#include "core/delegation_rows.h"
#include "core/format.h"
#include "core/host_rows.h"
#include "core/names.h"
#include "core/snapshot_level.h"

namespace vsnap {
namespace {

constexpr std::size_t kMaxFindings = 100;
constexpr std::uint64_t kHead = ~0ULL; // stands for the number of a head: all rows count

std::vector<std::uint64_t> member_blocks(const Superblock& layout) {
  std::vector<std::uint64_t> blocks;
  for (const RosterEntry& member : layout.roster) blocks.push_back(member.blocks);
  return blocks;
}

bool bit(const std::vector<std::byte>& bitmap, std::uint64_t i) {
  return ((static_cast<unsigned>(bitmap[i / 8]) >> (i % 8)) & 1U) != 0;
}

} // namespace

CatalogCheck::Ownership::Ownership(const Superblock& layout) {
  for (const std::uint64_t blocks : member_blocks(layout)) owned_.emplace_back(blocks);
  for (auto& member : owned_)
    std::fill_n(member.begin(), std::min<std::size_t>(format::kHeaderBlocks, member.size()), true);
}

bool CatalogCheck::Ownership::claim(PlaceRun run) {
  if (run.start.member() >= owned_.size()) return false;
  std::vector<bool>& member = owned_[run.start.member()];
  bool alone = true;
  for (std::uint64_t i = run.start.block(); i < run.start.block() + run.count.value(); ++i) {
    if (i >= member.size()) return false;
    alone = alone && !member[i];
    member[i] = true;
  }
  return alone;
}

bool CatalogCheck::Ownership::owned(std::uint32_t member, std::uint64_t block) const {
  return block < owned_[member].size() && owned_[member][block];
}

CatalogCheck::CatalogCheck(SQLite::Database& db, Superblock layout, CheckReport& report)
    : db_(db),
      layout_(std::move(layout)),
      report_(report),
      index_(db, member_blocks(layout_)),
      ownership_(layout_) {}

void CatalogCheck::find(std::string what, bool repairable) {
  if (report_.findings.size() < kMaxFindings) {
    report_.findings.push_back({std::move(what), repairable, false});
    return;
  }
  ++more_;
  more_repairable_ += repairable ? 1 : 0;
}

void CatalogCheck::close() {
  if (more_ == 0) return;
  const bool repairable = more_repairable_ == more_;
  report_.findings.push_back({fmt::format("and {} more", more_), repairable, repairable && repaired_});
}

Result<> CatalogCheck::run(const Progress& progress) {
  VSNAP_TRY(catalog::load(db_, objects_));
  for (const BranchId branch : index_.sweeps()) sweeps_.insert(branch);
  for (const MetadataSegment& segment : layout_.segments) {
    if (!ownership_.claim(segment.run)) find("two metadata segments overlap");
  }
  check_properties();
  check_holds();
  check_hosts();
  check_delegations();
  VSNAP_TRY(check_extents(progress));
  check_space();
  check_levels();
  return check_objects();
}

void CatalogCheck::repair() {
  index_.store_space(right_space_);
  if (right_row_count_) index_.set_row_count(*right_row_count_);
  for (const auto& [member, part] : no_space_) index_.delete_space(member, part);
  for (const auto& [branch, mapped] : right_mapped_) catalog::set_mapped(db_, branch, mapped);
  for (const auto& [snapshot, mapped] : right_snapshot_mapped_)
    catalog::set_snapshot_mapped(db_, snapshot, mapped);
  for (const ObjectId snapshot : wrong_levels_) catalog::level_rows::erase(db_, snapshot);
  for (const property_rows::Row& row : wrong_properties_) property_rows::erase(db_, row);
  for (const hold_rows::Row& row : wrong_holds_) hold_rows::erase(db_, row.snapshot, row.tag);
  for (const std::string& statement : removals_of_hosts_) db_.exec(statement);
  for (const std::uint64_t number : wrong_delegations_) delegation_rows::erase(db_, number);
  for (const granted_rows::Row& row : wrong_grants_) granted_rows::erase_row(db_, row);
  repaired_ = true;
  for (Finding& finding : report_.findings) finding.repaired = finding.repaired || finding.repairable;
}

// ---- extents ----

Result<> CatalogCheck::check_extents(const Progress& progress) {
  const std::uint64_t total = index_.count_rows();
  bool given_up = false;
  RegionRows region;
  index_.scan([&](BranchId branch, const ExtentRow& row, const char* problem) {
    if (problem != nullptr) {
      readable_ = false;
      find(fmt::format("branch {} block {} born {}: {}", branch.value(), row.start.value(), row.born,
                       problem));
    } else {
      if (branch != region.branch || region_of(row.start) != region.index) {
        check_region(region);
        region = {branch, region_of(row.start), {}};
        given_up = progress && !progress(report_.extents_checked, total);
      }
      region.rows.push_back(row);
    }
    ++report_.extents_checked;
    return !given_up;
  });
  if (given_up) return failure(ErrorKind::failed, ECANCELED, "given up");
  check_region(region);
  if (report_.extents_checked != total) {
    find(fmt::format("the catalog counts {} extents, there are {}", total, report_.extents_checked), true);
    right_row_count_ = report_.extents_checked;
  }
  return {};
}

void CatalogCheck::check_region(const RegionRows& region) {
  if (region.rows.empty()) return;
  const Branch* branch = nullptr;
  {
    MutexLock lock(objects_.mutex());
    branch = objects_.branch(region.branch);
  }
  if (branch == nullptr && unknown_.insert(region.branch).second)
    find(fmt::format("extents of branch {}, which does not exist", region.branch.value()));
  const bool swept = !sweeps_.contains(region.branch);
  std::map<std::uint64_t, BlockIndex> last_end; // of each age: rows come in the order of their starts
  BlockIndex last_own_end;                      // of those born after the floor
  for (const ExtentRow& row : region.rows) {
    const auto find_here = [&](std::string_view what) {
      find(fmt::format("branch {} block {} born {}: {}", region.branch.value(), row.start.value(), row.born,
                       what));
    };
    if (branch != nullptr && row.born > branch->number.load())
      find_here("a version from the future of its branch");
    auto& end = last_end[row.born];
    const bool same_age = end > row.start;
    if (same_age) find_here("overlaps another version of the same age");
    end = std::max(end, row.end());
    if (branch != nullptr && static_cast<std::int64_t>(row.born) > branch->floor.load()) {
      if (swept && !same_age && last_own_end > row.start)
        find_here("overlaps another version that only the volume itself sees");
      last_own_end = std::max(last_own_end, row.end());
    }
    if (row.kind != BlockKind::hole && row.place.is_base()) {
      if (swept && branch != nullptr && branch->base.member != row.place.member())
        find_here("names an image that is not that of its volume");
      continue;
    }
    if (row.kind != BlockKind::hole && !row.place.is_zeros() && !ownership_.claim({row.place, row.count}))
      find_here("its blocks belong to somebody else as well");
  }
}

// ---- space ----

// The record of used space against what rows name.
void CatalogCheck::check_space() {
  std::map<std::pair<std::uint32_t, std::uint64_t>, SpaceGroup> stored;
  index_.load_space([&](const SpaceGroup& group) { stored[{group.member, group.group}] = group; });
  Wrong wrong;
  for (std::uint32_t member = 0; member < layout_.roster.size(); ++member) {
    const std::uint64_t groups =
        (ownership_.blocks(member) + format::kGroupBlocks - 1) / format::kGroupBlocks;
    for (std::uint64_t group = 0; group < groups; ++group) {
      SpaceGroup expected{member, group, std::vector<std::byte>(format::kGroupBlocks / 8)};
      const auto found = stored.find({member, group});
      if (compare_group(expected, found == stored.end() ? nullptr : &found->second, wrong))
        right_space_.push_back(std::move(expected));
      if (found != stored.end()) stored.erase(found);
    }
  }
  for (const auto& [key, group] : stored) {
    find(fmt::format("the record of used space names member {} part {}, which does not exist", key.first,
                     key.second),
         true);
    no_space_.push_back(key);
  }
  if (wrong.leaked > 0) {
    find(fmt::format("{} of space belong to nobody but count as used",
                     format_size(wrong.leaked * kBlockBytes)),
         readable_);
  }
  if (wrong.unrecorded > 0)
    find(fmt::format("{} of data count as free space", format_size(wrong.unrecorded * kBlockBytes)), true);
}

// Fills `expected`; true: what is stored has to be replaced by it.
bool CatalogCheck::compare_group(SpaceGroup& expected, const SpaceGroup* stored, Wrong& wrong) {
  const std::uint64_t first = expected.group * format::kGroupBlocks;
  std::vector<bool> metadata(format::kGroupBlocks);
  const auto mark = [&](std::uint64_t from, std::uint64_t to) { // blocks of the member
    for (std::uint64_t i = std::max(from, first); i < std::min(to, first + format::kGroupBlocks); ++i)
      metadata[i - first] = true;
  };
  mark(0, format::kHeaderBlocks);
  for (const MetadataSegment& segment : layout_.segments) {
    const std::uint64_t start = segment.run.start.block();
    if (segment.run.start.member() == expected.member) mark(start, start + segment.run.count.value());
  }
  const bool sized = stored == nullptr || stored->bitmap.size() == expected.bitmap.size();
  if (!sized) {
    find(fmt::format("the record of used space of member {} part {} has a wrong size", expected.member,
                     expected.group),
         true);
  }
  bool differs = !sized;
  for (std::uint64_t i = 0; i < format::kGroupBlocks; ++i) {
    const bool data = !metadata[i] && ownership_.owned(expected.member, first + i);
    const bool recorded = stored != nullptr && sized && bit(stored->bitmap, i);
    // A row that cannot be read may own it: then it stays used, where it can be used at all.
    const bool kept =
        recorded && !data && !readable_ && !metadata[i] && first + i < ownership_.blocks(expected.member);
    if (data || kept) expected.bitmap[i / 8] |= static_cast<std::byte>(1U << (i % 8));
    wrong.leaked += recorded && !data ? 1 : 0;
    wrong.unrecorded += data && !recorded ? 1 : 0;
    differs = differs || recorded != (data || kept);
  }
  return differs;
}

// ---- properties and holds ----

void CatalogCheck::check_properties() {
  MutexLock lock(objects_.mutex());
  for (const property_rows::Row& row : property_rows::load(db_)) {
    const ObjectPtr volume = objects_.find(row.volume);
    const auto value = checked_property(row.name, row.value);
    if (!volume || volume->kind != ViewKind::volume)
      find(fmt::format("a property of volume {}, which does not exist", row.volume.value()), true);
    else if (!value || *value != row.value)
      find(fmt::format("{}: a property that says nothing: {}={}", volume->name, vsnap::quoted(row.name),
                       vsnap::quoted(row.value)),
           true);
    else
      continue;
    wrong_properties_.push_back(row);
  }
}

void CatalogCheck::check_holds() {
  MutexLock lock(objects_.mutex());
  for (const hold_rows::Row& row : hold_rows::load(db_)) {
    const ObjectPtr snapshot = objects_.find(row.snapshot);
    if (!snapshot || snapshot->kind != ViewKind::snapshot)
      find(fmt::format("a hold on snapshot {}, which does not exist", row.snapshot.value()), true);
    else if (!valid_name(row.tag))
      find(fmt::format("{}: a hold with a bad tag, {}", objects_.name_of(*snapshot).text(),
                       vsnap::quoted(row.tag)),
           true);
    else
      continue;
    wrong_holds_.push_back(row);
  }
}

void CatalogCheck::check_delegations() {
  MutexLock lock(objects_.mutex());
  std::set<std::uint64_t> right;
  for (const delegation_rows::Row& row : delegation_rows::load(db_)) {
    const std::uint64_t number = row.delegation.number;
    right.insert(number);
    const ObjectPtr volume = objects_.find(row.delegation.volume); // it may be a preserved image since
    const ObjectPtr left = row.left ? objects_.find(*row.left) : nullptr;
    if (!volume)
      find(fmt::format("delegation {} of volume {}, which does not exist", number,
                       row.delegation.volume.value()),
           true);
    else if (row.left && (!left || left->kind != ViewKind::snapshot))
      find(fmt::format("{}: delegation {} left snapshot {}, which does not exist",
                       objects_.name_of(*volume).text(), number, row.left->value()),
           true);
    else
      continue;
    wrong_delegations_.push_back(number);
  }
  check_granted(right);
}

// Whether something else has some of the places is no matter: rows have what was committed as well.
void CatalogCheck::check_granted(const std::set<std::uint64_t>& delegations) {
  const std::vector<std::uint64_t> sizes = member_blocks(layout_);
  Place end; // of those before, which come in order
  std::vector<std::pair<PlaceRun, granted_rows::Row>> sound;
  for (const granted_rows::Row& row : granted_rows::load(db_)) {
    const auto run = row.run(sizes);
    if (run && delegations.contains(row.delegation)) {
      sound.emplace_back(*run, row);
      continue;
    }
    find(run ? fmt::format("space granted with delegation {}, which does not exist", row.delegation)
             : fmt::format("delegation {}: was granted space that lies outside the members", row.delegation),
         true);
    wrong_grants_.push_back(row);
  }
  std::sort(sound.begin(), sound.end(),
            [](const auto& a, const auto& b) { return a.first.start < b.first.start; });
  for (const auto& [run, row] : sound) {
    if (run.start < end)
      find(fmt::format("delegation {}: was granted space that another one was granted", row.delegation));
    end = std::max(end, run.start + run.count);
  }
}

void CatalogCheck::check_hosts() {
  for (const host_rows::Wrong& wrong : host_rows::wrong_rows(db_)) {
    find(wrong.what, true);
    removals_of_hosts_.push_back(wrong.remove);
  }
}

// ---- volumes and snapshots ----

void CatalogCheck::check_levels() {
  MutexLock lock(objects_.mutex());
  for (const catalog::StoredLevel& stored : catalog::level_rows::load(db_)) {
    const ObjectPtr snapshot = objects_.find(stored.snapshot);
    const bool is_snapshot = snapshot && snapshot->kind == ViewKind::snapshot;
    if (is_snapshot && stored.level) continue;
    if (is_snapshot)
      find(fmt::format("{}: its level is none there is", objects_.name_of(*snapshot).text()), true);
    else
      find(fmt::format("the level of snapshot {}, which does not exist", stored.snapshot.value()), true);
    wrong_levels_.push_back(stored.snapshot);
  }
}

Result<> CatalogCheck::check_objects() {
  {
    MutexLock lock(objects_.mutex());
    for (const ObjectPtr& object : objects_.everything()) {
      if (object->size_bytes.load() > kMaxVolumeBytes)
        find(fmt::format("{}: its size is out of range", objects_.name_of(*object).text()));
    }
  }
  if (!readable_) return {};
  std::vector<Branch*> branches;
  {
    MutexLock lock(objects_.mutex());
    branches = objects_.branches();
  }
  std::map<BranchId, Counts> counts;
  for (const Branch* const branch : branches) {
    std::vector<const Branch*> line; // what has to be counted before, and itself
    for (const Branch* at = branch; at != nullptr && !counts.contains(at->id); at = at->seen_parent())
      line.push_back(at);
    for (; !line.empty(); line.pop_back()) counts[line.back()->id] = count_mapped(*line.back(), counts);
  }
  compare_counts(counts);
  return {};
}

// Only regions in which the branch has rows differ from what it started from.
CatalogCheck::Counts CatalogCheck::count_mapped(const Branch& branch,
                                                const std::map<BranchId, Counts>& done) {
  Counts counts;
  std::int64_t inherited = 0;
  const Branch* const parent = branch.seen_parent();
  if (branch.adopted()) inherited = static_cast<std::int64_t>(branch.base.blocks);
  if (parent != nullptr) inherited = done.at(parent->id).at(branch.parent_number.value());
  for (const std::uint64_t pin : branch.pins) counts[pin] = inherited;
  counts[kHead] = inherited;
  for (RegionIndex at(0);;) {
    const auto found = index_.next_region(branch.id, at);
    if (!found) return counts;
    std::vector<bool> mapped(kRegionBlocks);
    if (parent != nullptr) {
      const auto map = std::make_unique<Region>(*found, Version(0));
      index_.load_region(*parent, branch.parent_number, std::nullopt, *map);
      for (std::uint64_t block = 0; block < kRegionBlocks; ++block)
        mapped[block] = map->entry(block).mapped();
    }
    for (std::uint64_t block = 0; block < kRegionBlocks && branch.adopted(); ++block)
      mapped[block] = branch.covers(first_block(*found) + BlockCount(block));
    std::vector<ExtentRow> rows = index_.rows(branch.id, *found);
    if (!branch.adopted()) std::erase_if(rows, [](const ExtentRow& row) { return row.place.is_base(); });
    std::stable_sort(rows.begin(), rows.end(),
                     [](const ExtentRow& a, const ExtentRow& b) { return a.born < b.born; });
    std::int64_t change = 0;
    auto row = rows.begin();
    for (auto& [number, count] : counts) {
      for (; row != rows.end() && row->born <= number; ++row) {
        const std::uint64_t first = (row->start - first_block(*found)).value();
        const bool maps = row->kind != BlockKind::hole;
        for (std::uint64_t block = first; block < first + row->count.value(); ++block) {
          change += (maps ? 1 : 0) - (mapped[block] ? 1 : 0);
          mapped[block] = maps;
        }
      }
      count += change;
    }
    at = RegionIndex(found->value() + 1);
  }
}

void CatalogCheck::compare_counts(const std::map<BranchId, Counts>& counts) {
  std::set<ObjectId> uncounted; // where the count is known to be put right later
  for (const auto& [image, volume] : catalog::uncounted(db_)) uncounted.insert(volume);
  MutexLock lock(objects_.mutex());
  for (const ObjectPtr& object : objects_.everything()) {
    if (uncounted.contains(object->id)) continue;
    const bool head = object->kind == ViewKind::volume || object->draining;
    const std::int64_t counted = counts.at(object->branch->id).at(head ? kHead : object->number.value());
    const std::int64_t stored =
        head ? object->branch->mapped.load() : static_cast<std::int64_t>(object->mapped_blocks);
    if (counted == stored) continue;
    find(fmt::format("{}: {} blocks count as mapped, {} are", objects_.name_of(*object).text(), stored,
                     counted),
         true);
    if (head)
      right_mapped_[object->branch->id] = counted;
    else
      right_snapshot_mapped_[object->id] = static_cast<std::uint64_t>(counted);
  }
}

} // namespace vsnap
