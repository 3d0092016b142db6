// Maps of snapshots for other hosts; exported_map.h has the rules.
#include <fmt/format.h>

#include "core/catalog.h"
#include "core/pool_impl.h"

namespace vsnap {

namespace {

constexpr const char* kPromise = "snapshots_kept_ns";        // in the table pool
constexpr std::uint64_t kLongestKept_ns = 7'200'000'000'000; // where the catalog says more, it is damaged

} // namespace

bool PoolImpl::map_may_move(const Object& object) {
  if (object.kind != ViewKind::snapshot || object.draining) return true;
  for (const Branch* link = object.branch; link != nullptr; link = link->parent) {
    if (link->adopted() || link->flattening || link->parent_draining.load()) return true;
    if (link->copy && !link->copy->finished()) return true;
  }
  return false;
}

Result<std::optional<RegionMap>> PoolImpl::export_map(ObjectId id, RegionIndex region) {
  std::shared_ptr<VolumeIo> view;
  bool first = false;
  {
    MutexLock lock(objects_.mutex());
    const ObjectPtr object = objects_.find(id);
    if (!object || object->open_handles == 0) return failure(ErrorKind::not_found, "no such open snapshot");
    if (map_may_move(*object)) return std::nullopt;
    view = view_of_locked(object);
    first = !object->exported;
    object->exported = true;
  }
  // Its data does not change any more, so that once is enough; but it may be in a cache of this host.
  if (first) {
    if (auto flushed = engine_->sync(); !flushed) {
      MutexLock lock(objects_.mutex());
      view->object()->exported = false;
      return Failure(flushed.error());
    }
  }
  RegionMap map;
  VSNAP_TRY(view->copy_map(region, map));
  return map;
}

Result<> PoolImpl::keep_snapshots_for(std::int64_t lease_ns) {
  MutexLock config(config_mutex_);
  VSNAP_TRY(check_room());
  return configure([lease_ns](SQLite::Database& db) -> Result<> {
    catalog::set_value(db, kPromise, static_cast<std::uint64_t>(lease_ns));
    return {};
  });
}

// A margin, as the clocks of hosts do not go alike.
Result<> PoolImpl::load_promise() {
  std::uint64_t lease_ns = 0;
  VSNAP_TRY(engine_->db().read([&](SQLite::Database& db) -> Result<> {
    lease_ns = catalog::value(db, kPromise);
    return {};
  }));
  if (lease_ns == 0) return {};
  const std::uint64_t longest = std::min<std::uint64_t>(lease_ns, kLongestKept_ns);
  snapshots_kept_until_ns_ = env_.monotonic_ns() + static_cast<std::int64_t>(longest + longest / 16);
  return {};
}

Result<> PoolImpl::check_not_promised(const Object& snapshot) {
  const std::int64_t left_ns =
      snapshots_kept_until_ns_ - std::min(env_.monotonic_ns(), snapshots_kept_until_ns_);
  if (left_ns == 0) return {};
  return failure(
      ErrorKind::busy,
      fmt::format("{}/{}: a host that shares the pool may still read it, as the daemon before did not "
                  "end in order (try again in {} s)",
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
