// Holds: what keeps a snapshot from being removed, replaced or split off, whoever asks.
#include <fmt/format.h>

#include "core/planted.h"
#include "core/pool_impl.h"

namespace vsnap {

// A row that says nothing is ignored here, and found by check.
void PoolImpl::load_holds(SQLite::Database& db) {
  MutexLock lock(objects_.mutex());
  for (const hold_rows::Row& row : hold_rows::load(db)) {
    const ObjectPtr snapshot = objects_.find(row.snapshot);
    if (!snapshot || snapshot->kind != ViewKind::snapshot || !valid_name(row.tag)) continue;
    snapshot->holds[row.tag] = row.created_ns;
  }
}

// Fails where the snapshot is held, and says by what.
Result<> PoolImpl::check_not_held(const Object& snapshot) {
  if (snapshot.holds.empty() || planted(Fault::hold_not_kept)) return {};
  VSNAP_TRY(check_no_lost_host(snapshot));
  std::vector<std::string> tags;
  for (const auto& [tag, created_ns] : snapshot.holds) tags.push_back(tag);
  const std::string name = fmt::format("{}/{}", name_, objects_.name_of(snapshot).text());
  return failure(ErrorKind::busy, fmt::format("{0}: held by {1} (vsnap release-hold {0} {2})", name,
                                              fmt::join(tags, ", "), tags.front()));
}

// That hold is the pool's own.
Result<> PoolImpl::check_no_lost_host(const Object& snapshot) {
  if (!delegations_.that_left(snapshot.id)) return {};
  return failure(ErrorKind::busy,
                 fmt::format("{}/{}: keeps what a lost host may still write to {} (vsnap lock ls {})", name_,
                             objects_.name_of(snapshot).text(), snapshot.volume->name, name_));
}

Result<std::vector<ObjectPtr>> PoolImpl::snapshots_to_hold(std::span<const ViewName> names,
                                                           const std::string& tag) {
  if (names.empty()) return failure(ErrorKind::usage, "no snapshot named (POOL/VOLUME@SNAPSHOT)");
  VSNAP_TRY(check_name("tag", tag));
  std::vector<ObjectPtr> found;
  for (const ViewName& name : names) {
    if (!name.is_snapshot()) {
      return failure(ErrorKind::usage, fmt::format("{0}/{1}: only snapshots are held (vsnap ls {0}/{1} lists "
                                                   "them)",
                                                   name_, name.text()));
    }
    VSNAP_TRY_ASSIGN(ObjectPtr snapshot, object_named(name));
    if (std::find(found.begin(), found.end(), snapshot) != found.end())
      return failure(ErrorKind::usage, fmt::format("{}/{}: named twice", name_, name.text()));
    found.push_back(std::move(snapshot));
  }
  return found;
}

Result<> PoolImpl::hold(std::span<const ViewName> names, const std::string& tag) {
  MutexLock config(config_mutex_);
  VSNAP_TRY_ASSIGN(const auto snapshots, snapshots_to_hold(names, tag));
  VSNAP_TRY(check_room());
  VSNAP_TRY(check_up_to_date("hold"));
  const std::int64_t now_ns = env_.wall_clock_ns();
  {
    MutexLock lock(objects_.mutex());
    for (const ObjectPtr& snapshot : snapshots) {
      if (!snapshot->holds.contains(tag)) continue;
      const std::string name = fmt::format("{}/{}", name_, objects_.name_of(*snapshot).text());
      return failure(ErrorKind::failed, EEXIST,
                     fmt::format("{0}: already held by {1} (vsnap info {0} shows its holds)", name, tag));
    }
  }
  VSNAP_TRY(configure([&](SQLite::Database& db) -> Result<> {
    for (const ObjectPtr& snapshot : snapshots) hold_rows::insert(db, {snapshot->id, tag, now_ns});
    return {};
  }));
  MutexLock lock(objects_.mutex());
  for (const ObjectPtr& snapshot : snapshots) snapshot->holds[tag] = now_ns;
  return {};
}

Result<> PoolImpl::release_hold(std::span<const ViewName> names, const std::string& tag) {
  MutexLock config(config_mutex_);
  VSNAP_TRY_ASSIGN(const auto snapshots, snapshots_to_hold(names, tag));
  VSNAP_TRY(engine_->check_writable());
  {
    MutexLock lock(objects_.mutex());
    for (const ObjectPtr& snapshot : snapshots) {
      if (tag == kLostTag) VSNAP_TRY(check_no_lost_host(*snapshot));
      if (snapshot->holds.contains(tag)) continue;
      const std::string name = fmt::format("{}/{}", name_, objects_.name_of(*snapshot).text());
      return failure(ErrorKind::failed, ENOENT,
                     fmt::format("{0}: not held by {1} (vsnap info {0} shows its holds)", name, tag));
    }
  }
  VSNAP_TRY(configure([&](SQLite::Database& db) -> Result<> {
    for (const ObjectPtr& snapshot : snapshots) hold_rows::erase(db, snapshot->id, tag);
    return {};
  }));
  {
    MutexLock lock(objects_.mutex());
    for (const ObjectPtr& snapshot : snapshots) snapshot->holds.erase(tag);
  }
  note_pins_gone(); // a writer may find one to drop
  return {};
}

} // namespace vsnap
