// What a snapshot turned out to hold: whether those who used its volume stood still is known only after it
// was taken (and confirmed), so it is a transaction of its own. A crash in between leaves the lowest level.
#include <fmt/format.h>

#include "core/pool_impl.h"
#include "core/snapshot_level.h"

namespace vsnap {

// Ahead of whatever is pending, as the snapshots themselves were: it takes no longer when that is much.
Result<> PoolImpl::store_levels(std::span<const std::pair<ObjectPtr, SnapshotLevel>> levels) {
  const Engine::Hurry hurry(*engine_);
  MutexLock commit(engine_->commit_mutex());
  VSNAP_TRY(engine_->prepare_line());
  const Engine::Step step = with_generation([&](SQLite::Database& db) -> Result<> {
    for (const auto& [snapshot, level] : levels) catalog::level_rows::store(db, snapshot->id, level);
    return {};
  });
  return engine_->transact([&](SQLite::Database& db, std::vector<PlaceRun>&) { return step(db); });
}

Result<> PoolImpl::raise_levels(std::span<const LevelRaise> raises) {
  MutexLock config(config_mutex_);
  VSNAP_TRY(check_room());
  std::vector<std::pair<ObjectPtr, SnapshotLevel>> higher;
  {
    MutexLock lock(objects_.mutex());
    for (const LevelRaise& raise : raises) {
      const ObjectPtr object = objects_.find(raise.snapshot);
      if (!object) continue;
      if (object->kind != ViewKind::snapshot || object->draining) {
        return failure(ErrorKind::usage, EINVAL,
                       fmt::format("{}/{}: only a snapshot that was taken has a level", name_,
                                   objects_.name_of(*object).text()));
      }
      if (raise.to > object->level) higher.emplace_back(object, raise.to);
    }
  }
  if (higher.empty()) return {};
  VSNAP_TRY(check_up_to_date("level"));
  VSNAP_TRY(store_levels(higher));
  MutexLock lock(objects_.mutex());
  for (const auto& [snapshot, level] : higher) snapshot->level = std::max(snapshot->level, level);
  return {};
}

} // namespace vsnap
