// Space that is granted to the hosts that volumes are delegated to, and the changes that they hand over:
// delegation.h has the rules, granted_space.h what is left of it.
#include <fmt/format.h>
#include <algorithm>

#include "core/budget.h"
#include "core/granted_rows.h"
#include "core/log.h"
#include "core/planted.h"
#include "core/pool_impl.h"

namespace vsnap {
namespace {

// In blocks. What hosts have and do not use is nobody else's, so it is little; but a host asks again when it
// has used up half, and that is a transaction of the catalog.
constexpr std::uint64_t kMostOutstanding = 32768; // 128 MiB, of one delegation
// What stays free for everybody else: 5 %, and as much as a few hosts may have; of small pools an eighth.
constexpr std::uint64_t kReserved = 65536; // 256 MiB
constexpr std::size_t kMostRuns = 16;      // that are granted at once

std::uint64_t most_outstanding(std::uint64_t pool_blocks) {
  return std::min(kMostOutstanding, pool_blocks / 16);
}

// Each block that is handed over may need a row, and is not refused one. With so many none needs more than
// half of what is pending beside writes may; see budget.h.
std::uint64_t most_outstanding_of_all(std::uint64_t pool_blocks) {
  return 4 * budget::headroom_blocks(pool_blocks);
}

std::uint64_t reserved(std::uint64_t pool_blocks) {
  return std::max(pool_blocks / 20, std::min(kReserved, pool_blocks / 8));
}

std::uint64_t less(std::uint64_t a, std::uint64_t b) { return a - std::min(a, b); }

Failure not_delegated() {
  return failure(ErrorKind::failed, ESTALE, "the volume is not delegated to this host any more");
}

template <class Start>
bool overlap(std::span<const MapRun> runs, Start start) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
  for (const MapRun& run : runs) ranges.emplace_back(start(run), start(run) + run.count.value());
  std::sort(ranges.begin(), ranges.end());
  for (std::size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].first < ranges[i - 1].second) return true;
  }
  return false;
}

} // namespace

// ---- granting ----

// A snapshot for which a commit under way gives way may only be hurried for under the configuration lock; who
// has that may be waiting for this very host.
Result<std::vector<PlaceRun>> PoolImpl::grant_space(std::uint64_t host, std::uint64_t number,
                                                    BlockCount wanted) {
  if (is_read_only() || wanted.value() == 0) return std::vector<PlaceRun>();
  if (config_mutex_.try_lock()) {
    const MutexLock config(config_mutex_, std::adopt_lock);
    const Engine::Hurry hurry(*engine_);
    MutexLock commit(engine_->commit_mutex());
    return grant(host, number, wanted);
  }
  MutexLock commit(engine_->commit_mutex());
  return grant(host, number, wanted);
}

std::uint64_t PoolImpl::grantable_blocks(std::uint64_t host, std::uint64_t number) {
  if (!engine_->check_writable() || engine_->metadata_low() || !engine_->members().all_direct()) return 0;
  const auto entry = delegations_.find(host, number);
  if (!entry || !entry->takes_changes() || entry->recalled) return 0;
  {
    MutexLock lock(objects_.mutex());
    const ObjectPtr volume = objects_.find(entry->delegation.volume);
    if (!volume || volume->snapshot_limit.active() || head_may_move(*volume)) return 0;
  }
  const std::uint64_t pool = engine_->space().size_bytes / kBlockBytes;
  return std::min({less(engine_->allocator().free_blocks(), reserved(pool)),
                   less(most_outstanding(pool), granted_.blocks(number)),
                   less(most_outstanding_of_all(pool), granted_.blocks())});
}

Result<std::vector<PlaceRun>> PoolImpl::grant(std::uint64_t host, std::uint64_t number, BlockCount wanted) {
  std::vector<PlaceRun> runs;
  std::uint64_t left = std::min(wanted.value(), grantable_blocks(host, number));
  while (left > 0 && runs.size() < kMostRuns) {
    const auto run = engine_->allocator().allocate_long(BlockCount(left));
    if (!run) break;
    runs.push_back(*run);
    left -= run->count.value();
  }
  if (runs.empty()) return runs;
  granted_.forget_taken(runs);
  const auto stored = planted(Fault::grant_not_durable) ? Result<bool>(true) : store_granted(number, runs);
  if (!stored || !*stored) {
    for (const PlaceRun& run : runs) engine_->allocator().release(run);
    if (!stored && stored.error().kind != ErrorKind::no_space) return Failure(stored.error());
    return std::vector<PlaceRun>();
  }
  for (const PlaceRun& run : runs) granted_.add(number, run);
  engine_->note_rows_added();
  return runs;
}

// With the new runs, and without what rows have beyond what is outstanding: the places are free, so whoever
// had been granted one of them before has committed it, and freed it since. False: the catalog knows of no
// grants.
Result<bool> PoolImpl::store_granted(std::uint64_t number, std::span<const PlaceRun> runs) {
  bool known = false;
  VSNAP_TRY(engine_->transact([&](SQLite::Database& db, std::vector<PlaceRun>&) -> Result<> {
    known = granted_rows::known(db);
    if (!known) return {};
    std::set<std::uint64_t> changed = granted_rows::with_some_of(db, runs);
    changed.insert(number);
    for (const std::uint64_t one : changed) {
      granted_rows::erase(db, one);
      granted_rows::insert(db, one, granted_.outstanding(one));
    }
    granted_rows::insert(db, number, runs);
    return {};
  }));
  return known;
}

// ---- handing over ----

Result<> PoolImpl::check_handed_over(VolumeIo& view, std::uint64_t number, std::span<const MapRun> runs) {
  const std::uint64_t end = blocks_for(view.size_bytes()).value();
  for (const MapRun& run : runs) {
    if (run.kind != BlockKind::data || run.count.value() == 0 || !run.place.in_pool())
      return failure(ErrorKind::failed, EINVAL, "no run of data");
    if (run.start.value() >= end || run.count.value() > end - run.start.value())
      return failure(ErrorKind::failed, EINVAL, "a block past the end of the volume");
    if (run.count.value() > (1ULL << Place::kBlockBits) - run.place.block())
      return failure(ErrorKind::failed, EINVAL, "a place past the end of its member");
  }
  if (overlap(runs, [](const MapRun& run) { return run.start.value(); }) ||
      overlap(runs, [](const MapRun& run) { return run.place.packed(); }))
    return failure(ErrorKind::failed, EINVAL, "runs that overlap");
  if (planted(Fault::commit_of_foreign_place)) return {};
  // What is taken another copy of the same change is about to name, perhaps: that is seen once it has.
  for (const MapRun& run : runs) {
    for (const PlaceRun& part : granted_.unknown(number, {run.place, run.count})) {
      const BlockCount at(part.start.packed() - run.place.packed());
      VSNAP_TRY_ASSIGN(const bool done, view.lies_there({run.start + at, part.count, run.kind, part.start}));
      if (!done)
        return failure(ErrorKind::failed, EINVAL, "a place that is not granted, or is another block's");
    }
  }
  return {};
}

// Takes no lock that who waits for the delegation may hold.
Result<> PoolImpl::commit_blocks(std::uint64_t host, std::uint64_t number, std::span<const MapRun> runs) {
  const auto stands = [&] {
    const auto entry = delegations_.find(host, number);
    return entry && entry->takes_changes();
  };
  const auto entry = delegations_.find(host, number);
  if (!entry || !entry->takes_changes()) return not_delegated();
  VSNAP_TRY(engine_->check_writable());
  std::shared_ptr<VolumeIo> view;
  {
    MutexLock lock(objects_.mutex());
    const ObjectPtr volume = objects_.find(entry->delegation.volume);
    if (!volume || volume->kind != ViewKind::volume) return not_delegated();
    view = view_of_locked(volume);
  }
  VSNAP_TRY(check_handed_over(*view, number, runs));
  for (const MapRun& run : runs) VSNAP_TRY(view->name_granted(run, {granted_, number, stands}));
  VSNAP_TRY(engine_->sync(0));
  for (const MapRun& run : runs) granted_.settle(number, {run.place, run.count});
  return {};
}

// ---- the end, and after a crash ----

// Its rows are gone, durably; nothing of its host is under way.
void PoolImpl::free_left_over(std::uint64_t number) { engine_->release_unnamed(granted_.end(number)); }

// Once everything that names places has taken them, and before anybody allocates. Rows of a delegation that
// does not exist, which check removes, keep theirs until then.
Result<> PoolImpl::take_granted() {
  std::vector<granted_rows::Row> rows;
  VSNAP_TRY(engine_->db().read([&](SQLite::Database& db) -> Result<> {
    rows = granted_rows::load(db);
    return {};
  }));
  std::vector<std::uint64_t> member_blocks;
  for (const RosterEntry& member : engine_->members().layout().roster) member_blocks.push_back(member.blocks);
  for (const granted_rows::Row& row : rows) {
    const auto run = row.run(member_blocks);
    if (!run || planted(Fault::granted_not_taken)) continue;
    for (std::uint64_t i = 0; i < run->count.value(); ++i) {
      const PlaceRun place{run->start + BlockCount(i), BlockCount(1)};
      if (engine_->allocator().take(place)) granted_.add(row.delegation, place);
    }
  }
  return {};
}

// ---- when space is short ----

// Hosts that have space left give it back with their volumes, which takes them as long as what they have
// under way. Nobody waits for that: a write that finds the pool full is refused, and finds space when it is
// tried again.
void PoolImpl::recall_for_space() {
  std::vector<ObjectId> volumes;
  for (const DelegationTable::Entry& entry : delegations_.entries()) {
    if (entry.takes_changes() && !entry.recalled && granted_.has_left(entry.delegation.number))
      volumes.push_back(entry.delegation.volume);
  }
  if (volumes.empty()) return;
  tell_keeper(delegations_.recall(volumes, DelegationTable::kNobody).entries, false);
}

void PoolImpl::recall_if_short() {
  if (granted_.blocks() == 0) return;
  const std::uint64_t pool = engine_->space().size_bytes / kBlockBytes;
  if (engine_->allocator().free_blocks() < reserved(pool) / 2) recall_for_space();
}

} // namespace vsnap
