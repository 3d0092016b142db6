// Maps of snapshots, and of delegated volumes, for other hosts; exported_map.h has the rules.
#include <fmt/format.h>

#include "core/catalog.h"
#include "core/planted.h"
#include "core/pool_impl.h"
#include "core/superblock.h"

namespace vsnap {

namespace {

// In the table pool.
constexpr const char* kPromise = "snapshots_kept_ns";
constexpr const char* kSeen = "snapshots_kept_since"; // on the clock of the boot that the next one names
constexpr const char* kSeenBoot = "snapshots_kept_boot";
constexpr std::uint64_t kLongestKept_ns = 7'200'000'000'000; // where the catalog says more, it is damaged

} // namespace

namespace {

bool places_may_move(const Branch& branch) {
  for (const Branch* link = &branch; link != nullptr; link = link->parent) {
    if (link->adopted() || link->flattening || link->parent_draining.load()) return true;
    if (link->copy && !link->copy->finished()) return true;
  }
  return false;
}

} // namespace

bool PoolImpl::map_may_move(const Object& object) {
  return object.kind != ViewKind::snapshot || object.draining || places_may_move(*object.branch);
}

bool PoolImpl::head_may_move(const Object& volume) {
  return volume.trim.load() != Object::kNoTrim || places_may_move(*volume.branch);
}

Result<std::optional<RegionMap>> PoolImpl::export_map(ObjectId id, RegionIndex region) {
  std::shared_ptr<VolumeIo> view;
  bool flushed = false;
  {
    MutexLock lock(objects_.mutex());
    const ObjectPtr object = objects_.find(id);
    if (!object || object->open_handles == 0) return failure(ErrorKind::not_found, "no such open snapshot");
    view = view_of_locked(object);
    if (object->kind == ViewKind::volume) {
      if (head_may_move(*object)) return std::nullopt;
    } else {
      if (map_may_move(*object)) return std::nullopt;
      object->exported = true; // from here on nothing of it moves
      flushed = object->export_flushed;
    }
  }
  if (view->writable()) return export_head(*view, region);
  // Its data does not change any more, so that once is enough; but it may be in a cache of this host.
  if (!flushed) {
    VSNAP_TRY(engine_->sync());
    MutexLock lock(objects_.mutex());
    view->object()->export_flushed = true;
  }
  RegionMap map;
  VSNAP_TRY(view->copy_map(region, map));
  return map;
}

// What it names is durable before anybody hears of it, the map as well as the data: after a power cut of this
// host the other one still writes there, and nobody else may have got the places.
Result<std::optional<RegionMap>> PoolImpl::export_head(VolumeIo& view, RegionIndex region) {
  if (!delegations_.is_held(view.id()) || !engine_->members().all_direct()) return std::nullopt;
  RegionMap map;
  VSNAP_TRY(view.copy_map(region, map));
  if (!planted(Fault::exported_unsynced)) VSNAP_TRY(engine_->sync());
  return delegations_.is_held(view.id()) ? std::optional(std::move(map)) : std::nullopt;
}

// A promise of a process before this one holds until it has run out.
Result<> PoolImpl::keep_snapshots_for(std::int64_t lease_ns) {
  MutexLock config(config_mutex_);
  VSNAP_TRY(check_room());
  const std::int64_t now_ns = env_.monotonic_ns();
  const std::int64_t left_ns = snapshots_kept_until_ns_ - std::min(now_ns, snapshots_kept_until_ns_);
  return configure([&](SQLite::Database& db) -> Result<> {
    catalog::set_value(db, kPromise, static_cast<std::uint64_t>(std::max(lease_ns, left_ns)));
    catalog::set_value(db, kSeen, 0);
    return {};
  });
}

// It is counted from when it was first seen after the process that made it, on this boot of this machine: its
// clock says when that was. With a margin, as the clocks of hosts do not go alike.
Result<> PoolImpl::load_promise() {
  const std::string boot_id = env_.boot_id();
  const std::uint64_t boot = std::uint64_t{crc32c(std::as_bytes(std::span(boot_id)))} + 1;
  const std::int64_t now_ns = env_.monotonic_ns();
  std::uint64_t lease_ns = 0;
  std::int64_t seen_ns = 0;
  VSNAP_TRY(engine_->db().read([&](SQLite::Database& db) -> Result<> {
    lease_ns = std::min<std::uint64_t>(catalog::value(db, kPromise), kLongestKept_ns);
    if (catalog::value(db, kSeenBoot) == boot) seen_ns = static_cast<std::int64_t>(catalog::value(db, kSeen));
    return {};
  }));
  if (lease_ns == 0) return {};
  const bool known = seen_ns > 0 && seen_ns <= now_ns;
  snapshots_kept_until_ns_ = (known ? seen_ns : now_ns) + static_cast<std::int64_t>(lease_ns + lease_ns / 16);
  if (!known) promise_seen_ = {boot, static_cast<std::uint64_t>(std::max<std::int64_t>(now_ns, 1))};
  return {};
}

Result<> PoolImpl::note_promise_seen() {
  if (!promise_seen_) return {};
  return engine_->db().write([&](SQLite::Database& db) -> Result<> {
    catalog::set_value(db, kSeenBoot, promise_seen_->first);
    catalog::set_value(db, kSeen, promise_seen_->second);
    return {};
  });
}

Result<> PoolImpl::check_not_promised(const Object& snapshot) {
  const std::int64_t left_ns =
      snapshots_kept_until_ns_ - std::min(env_.monotonic_ns(), snapshots_kept_until_ns_);
  if (left_ns == 0) return {};
  return failure(
      ErrorKind::busy,
      fmt::format("{}/{}: a host that shares the pool may still read it, by what the daemon before has "
                  "told it (try again in {} s)",
                  name_, objects_.name_of(snapshot).text(), left_ns / 1'000'000'000 + 1));
}

Result<> PoolImpl::check_not_exported(const Branch& branch) {
  for (const ObjectPtr& object : objects_.everything()) {
    if (!object->exported) continue;
    for (const Branch* link = object->branch; link != nullptr; link = link->parent) {
      if (link != &branch) continue;
      return failure(ErrorKind::busy, fmt::format("{}/{}: another host reads it (close it there first; vsnap "
                                                  "host list says who is there)",
                                                  name_, objects_.name_of(*object).text()));
    }
  }
  return {};
}

} // namespace vsnap
