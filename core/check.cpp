// Check: superblocks, SQLite's own integrity, and our invariants, in plain words. The catalog is read under
// the commit lock: it stands still, while reads and writes go on until their changes want to be committed.
#include <fmt/format.h>
#include <algorithm>
#include <map>
#include <vector>

#include "core/pool_impl.h"

namespace vsnap {
namespace {

// Who owns each block: one bit a block of each member.
class Ownership {
 public:
  explicit Ownership(const Superblock& layout) {
    for (const RosterEntry& member : layout.roster) owned_.emplace_back(member.blocks);
    for (auto& member : owned_) std::fill_n(member.begin(), format::kHeaderBlocks, true);
  }
  [[nodiscard]] bool inside(Place place, BlockCount count) const {
    return place.member() < owned_.size() && place.block() < owned_[place.member()].size() &&
           count.value() <= owned_[place.member()].size() - place.block();
  }
  // False: one of the blocks was owned already.
  bool claim(PlaceRun run) {
    bool alone = true;
    for (std::uint64_t i = run.start.block(); i < run.start.block() + run.count.value(); ++i) {
      alone = alone && !owned_[run.start.member()][i];
      owned_[run.start.member()][i] = true;
    }
    return alone;
  }
  [[nodiscard]] bool owned(std::uint32_t member, std::uint64_t block) const { return owned_[member][block]; }
  [[nodiscard]] std::uint64_t blocks(std::uint32_t member) const { return owned_[member].size(); }

 private:
  std::vector<std::vector<bool>> owned_;
};

constexpr std::size_t kMaxFindings = 100;

class Checker {
 public:
  Checker(Engine& engine, Objects& objects, CheckReport& report)
      : engine_(engine),
        objects_(objects),
        report_(report),
        layout_(engine.members().layout()),
        ownership_(layout_) {}

  void find(std::string what, bool repairable = false) {
    if (report_.findings.size() < kMaxFindings)
      report_.findings.push_back({std::move(what), repairable, false});
  }

  void check_segments() {
    for (const MetadataSegment& segment : layout_.segments) {
      if (!ownership_.claim(segment.run)) find("two metadata segments overlap");
    }
  }

  Result<> check_extents(const Progress& progress) {
    std::uint64_t total = 0;
    VSNAP_TRY(engine_.db().read([&](SQLite::Database&) -> Result<> {
      total = engine_.index().count_rows();
      return {};
    }));
    std::vector<std::uint64_t> branch_ids;
    VSNAP_TRY(engine_.db().read([&](SQLite::Database& db) -> Result<> {
      SQLite::Statement s(db, "SELECT DISTINCT branch FROM extent");
      while (s.executeStep()) branch_ids.push_back(static_cast<std::uint64_t>(s.getColumn(0).getInt64()));
      return {};
    }));
    for (const std::uint64_t id : branch_ids) VSNAP_TRY(check_branch(BranchId(id), total, progress));
    return {};
  }

  // The record of used space against what rows name. `repair` rewrites what differs.
  Result<> check_space(bool repair) {
    std::map<std::pair<std::uint32_t, std::uint64_t>, SpaceGroup> stored;
    VSNAP_TRY(engine_.db().read([&](SQLite::Database&) -> Result<> {
      engine_.index().load_space([&](const SpaceGroup& group) {
        stored[{group.member, group.group}] = group;
      });
      return {};
    }));
    std::uint64_t leaked = 0;
    std::uint64_t unrecorded = 0;
    std::vector<SpaceGroup> right;
    for (std::uint32_t member = 0; member < layout_.roster.size(); ++member) {
      const std::uint64_t groups =
          (ownership_.blocks(member) + format::kGroupBlocks - 1) / format::kGroupBlocks;
      for (std::uint64_t group = 0; group < groups; ++group) {
        SpaceGroup expected{member, group, std::vector<std::byte>(format::kGroupBlocks / 8)};
        const auto found = stored.find({member, group});
        const SpaceGroup* const old = found == stored.end() ? nullptr : &found->second;
        if (compare_group(expected, old, leaked, unrecorded)) right.push_back(std::move(expected));
        if (found != stored.end()) stored.erase(found);
      }
    }
    for (const auto& [key, group] : stored) {
      find(fmt::format("the record of used space names member {} part {}, which does not exist", key.first,
                       key.second));
    }
    if (leaked > 0)
      find(fmt::format("{} of space belong to nobody but count as used", format_size(leaked * kBlockBytes)),
           true);
    if (unrecorded > 0) {
      find(fmt::format("{} of data count as free space", format_size(unrecorded * kBlockBytes)), true);
    }
    if (!repair || right.empty()) return {};
    VSNAP_TRY(engine_.db().write([&](SQLite::Database&) -> Result<> {
      engine_.index().store_space(right);
      return {};
    }));
    for (Finding& finding : report_.findings) finding.repaired = finding.repaired || finding.repairable;
    return {};
  }

  Result<> check_counts() {
    std::map<BranchId, std::int64_t> stored;
    VSNAP_TRY(engine_.db().read([&](SQLite::Database& db) -> Result<> {
      SQLite::Statement s(db, "SELECT id, mapped FROM branch");
      while (s.executeStep())
        stored[BranchId(static_cast<std::uint64_t>(s.getColumn(0).getInt64()))] = s.getColumn(1).getInt64();
      return {};
    }));
    MutexLock lock(objects_.mutex());
    for (const ObjectPtr& object : objects_.everything()) {
      const std::string name = objects_.name_of(*object).text();
      if (object->kind == ViewKind::volume && stored[object->branch->id] < 0) {
        find(fmt::format("{}: its count of mapped blocks is negative", name));
      }
      if (object->size_bytes.load() > kMaxVolumeBytes)
        find(fmt::format("{}: its size is out of range", name));
    }
    return {};
  }

 private:
  Result<> check_branch(BranchId id, std::uint64_t total, const Progress& progress) {
    const Branch* branch = nullptr;
    Viewers viewers;
    {
      MutexLock lock(objects_.mutex());
      branch = objects_.branch(id);
      if (branch != nullptr) viewers = *branch;
    }
    if (branch == nullptr) find(fmt::format("extents of branch {}, which does not exist", id.value()));
    for (RegionIndex region(0);;) {
      std::optional<RegionIndex> found;
      std::vector<ExtentRow> rows;
      VSNAP_TRY(engine_.db().read([&](SQLite::Database&) -> Result<> {
        found = engine_.index().next_region(id, region);
        if (found) rows = engine_.index().rows(id, *found);
        return {};
      }));
      if (!found) return {};
      check_rows(id, branch, rows);
      report_.extents_checked += rows.size();
      if (progress && !progress(report_.extents_checked, total))
        return failure(ErrorKind::failed, ECANCELED, "given up");
      region = RegionIndex(found->value() + 1);
    }
  }

  void check_rows(BranchId id, const Branch* branch, const std::vector<ExtentRow>& rows) {
    std::map<std::uint64_t, BlockIndex> last_end; // of each age: rows come in the order of their starts
    for (const ExtentRow& row : rows) {
      const std::string where =
          fmt::format("branch {} block {} born {}", id.value(), row.start.value(), row.born);
      if (branch != nullptr && row.born > branch->number.load())
        find(where + ": a version from the future of its branch");
      auto& end = last_end[row.born];
      if (end > row.start) find(where + ": overlaps another version of the same age");
      end = std::max(end, row.end());
      if (row.kind == BlockKind::hole) continue;
      if (!ownership_.inside(row.place, row.count))
        find(where + ": lies outside the members");
      else if (!ownership_.claim({row.place, row.count}))
        find(where + ": its blocks belong to somebody else as well");
    }
  }

  // Fills `expected`; true: it differs from what is stored.
  bool compare_group(SpaceGroup& expected, const SpaceGroup* old, std::uint64_t& leaked,
                     std::uint64_t& unrecorded) {
    const std::uint64_t first = expected.group * format::kGroupBlocks;
    std::uint64_t differing = 0;
    for (std::uint64_t i = 0; i < format::kGroupBlocks; ++i) {
      const bool exists = first + i < ownership_.blocks(expected.member);
      const bool data =
          exists && ownership_.owned(expected.member, first + i) && !metadata(expected.member, first + i);
      const bool recorded = old != nullptr && old->bitmap.size() == expected.bitmap.size() &&
                            ((static_cast<unsigned>(old->bitmap[i / 8]) >> (i % 8)) & 1U) != 0;
      if (data) expected.bitmap[i / 8] |= static_cast<std::byte>(1U << (i % 8));
      if (recorded && !data) ++leaked;
      if (data && !recorded) ++unrecorded;
      differing += recorded != data ? 1 : 0;
    }
    return differing > 0;
  }

  [[nodiscard]] bool metadata(std::uint32_t member, std::uint64_t block) const {
    if (block < format::kHeaderBlocks) return true;
    return std::any_of(layout_.segments.begin(), layout_.segments.end(), [&](const MetadataSegment& s) {
      return s.run.start.member() == member && block >= s.run.start.block() &&
             block < s.run.start.block() + s.run.count.value();
    });
  }

  Engine& engine_;
  Objects& objects_;
  CheckReport& report_;
  const Superblock layout_;
  Ownership ownership_;
};

} // namespace

Result<CheckReport> PoolImpl::check(bool repair, const Progress& progress) {
  CheckReport report;
  if (!options_.for_check && engine_->check_writable()) VSNAP_TRY(engine_->commit());
  MutexLock commit(engine_->commit_mutex());
  VSNAP_TRY_ASSIGN(const auto superblocks, engine_->members().check_superblocks(repair));
  for (const std::string& remark : superblocks) report.findings.push_back({remark, true, repair});
  VSNAP_TRY_ASSIGN(const auto problems, engine_->db().integrity_problems());
  for (const std::string& problem : problems)
    report.findings.push_back({"catalog: " + problem, false, false});
  Checker checker(*engine_, objects_, report);
  checker.check_segments();
  VSNAP_TRY(checker.check_extents(progress));
  // Only a pool nobody uses can be mended: the allocator of a running one has its own idea of what is free.
  VSNAP_TRY(checker.check_space(repair && options_.for_check));
  VSNAP_TRY(checker.check_counts());
  const bool clean = std::all_of(report.findings.begin(), report.findings.end(),
                                 [](const Finding& finding) { return finding.repaired; });
  if (clean && options_.for_check && engine_->members().needs_check())
    VSNAP_TRY(engine_->members().clear_needs_check());
  return report;
}

} // namespace vsnap
