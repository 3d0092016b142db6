// Check: superblocks, SQLite's own integrity, and our invariants, in plain words. The catalog of a pool in
// use is copied first, in steps; reads, writes and commits go on meanwhile.
#include <fmt/format.h>
#include <algorithm>

#include "core/catalog_check.h"
#include "core/pool_impl.h"

namespace vsnap {
namespace {

// Damage that keeps the check from going on is one more thing that it found.
Result<> note_damage(CheckReport& report, const Result<>& result) {
  if (result || result.error().kind != ErrorKind::damaged) return result;
  report.findings.push_back({result.error().message, false, false});
  return {};
}

Result<> check_integrity(Database& db, CheckReport& report) {
  VSNAP_TRY_ASSIGN(const auto problems, db.integrity_problems());
  for (const std::string& problem : problems)
    report.findings.push_back({"catalog: " + problem, false, false});
  return {};
}

} // namespace

Result<> PoolImpl::check_in_use(CheckReport& report, const Progress& progress) {
  // Segments as of before the copy, members as of after it: rows may name a place that became a segment
  // later, and a member that was added meanwhile.
  const std::vector<MetadataSegment> segments = engine_->members().layout().segments;
  VSNAP_TRY_ASSIGN(const auto copy, engine_->db().copy([&](std::uint64_t, std::uint64_t) {
    return !progress || progress(0, 0);
  }));
  Superblock layout = engine_->members().layout();
  layout.segments = segments;
  VSNAP_TRY(check_integrity(*copy, report));
  return copy->read([&](SQLite::Database& db) -> Result<> {
    CatalogCheck catalog(db, std::move(layout), report);
    auto done = catalog.run(progress);
    catalog.close();
    return done;
  });
}

// Only a pool nobody uses can be mended: the allocator of a running one has its own idea of what is free.
Result<> PoolImpl::check_unused(bool repair, CheckReport& report, const Progress& progress) {
  VSNAP_TRY(check_integrity(engine_->db(), report));
  return engine_->db().write([&](SQLite::Database& db) -> Result<> {
    CatalogCheck catalog(db, engine_->members().layout(), report);
    auto done = catalog.run(progress);
    if (done && repair) catalog.repair();
    catalog.close();
    return done;
  });
}

Result<CheckReport> PoolImpl::check(bool repair, const Progress& progress) {
  CheckReport report;
  if (is_read_only()) {
    return failure(
        ErrorKind::failed, EROFS,
        fmt::format("pool {}: {} (only a whole pool can be checked)", name_, engine_->health()));
  }
  if (!options_.for_check && engine_->check_writable()) VSNAP_TRY(engine_->commit());
  VSNAP_TRY_ASSIGN(const auto superblocks, engine_->members().check_superblocks(repair));
  for (const std::string& remark : superblocks) report.findings.push_back({remark, true, repair});
  // After a crash the last checkpoint is to be made again; until then the copy may lack some of it.
  if (options_.for_check) VSNAP_TRY(note_damage(report, engine_->checkpoint()));
  VSNAP_TRY_ASSIGN(const auto pages, engine_->check_catalog_copy(repair));
  for (const std::string& remark : pages) report.findings.push_back({remark, true, repair});
  if (!journal_damage_.empty()) {
    if (repair) {
      VSNAP_TRY(engine_->mark_opened());
      VSNAP_TRY(engine_->reset_journal());
    }
    report.findings.push_back({journal_damage_, true, repair});
  }
  VSNAP_TRY(note_damage(
      report, options_.for_check ? check_unused(repair, report, progress) : check_in_use(report, progress)));
  const bool clean = std::all_of(report.findings.begin(), report.findings.end(),
                                 [](const Finding& finding) { return finding.repaired; });
  if (clean && options_.for_check && engine_->members().needs_check()) {
    VSNAP_TRY(engine_->forget_tail());
    VSNAP_TRY(engine_->members().clear_needs_check());
  }
  for (const std::string& problem : problems_of_images()) report.findings.push_back({problem, false, false});
  return report;
}

} // namespace vsnap
