// Properties of volumes: set, told, and loaded. What they mean is where they count: pool_limit.cpp.
#include <fmt/format.h>

#include "core/log.h"
#include "core/pool_impl.h"

namespace vsnap {

void PoolImpl::apply_properties(const ObjectPtr& volume) {
  const SnapshotSettings settings = snapshot_settings(volume->properties);
  const auto limit_bytes = settings.limit_of(volume->size_bytes.load());
  volume->snapshot_limit.set(limit_bytes ? std::optional(*limit_bytes / kBlockBytes) : std::nullopt,
                             settings.on_full);
  if (volume->properties.empty())
    with_properties_.erase(volume->id);
  else
    with_properties_[volume->id] = volume;
}

// A row that says nothing is ignored here, and found by check.
void PoolImpl::load_properties(SQLite::Database& db) {
  MutexLock lock(objects_.mutex());
  for (property_rows::Row& row : property_rows::load(db)) {
    const ObjectPtr volume = objects_.find(row.volume);
    const auto value = checked_property(row.name, row.value);
    if (!volume || volume->kind != ViewKind::volume || !value) continue;
    volume->properties[std::move(row.name)] = *value;
    apply_properties(volume);
  }
}

Result<> PoolImpl::set_properties(const std::string& name, const Properties& properties) {
  Properties checked;
  for (const auto& [property, value] : properties) {
    VSNAP_TRY_ASSIGN(checked[property], checked_property(property, value));
  }
  ObjectPtr volume;
  {
    MutexLock config(config_mutex_);
    VSNAP_TRY_ASSIGN(volume, volume_named(name));
    VSNAP_TRY(check_room());
    VSNAP_TRY(check_up_to_date("property"));
    VSNAP_TRY(configure([&](SQLite::Database& db) -> Result<> {
      for (const auto& [property, value] : checked) property_rows::put(db, volume->id, property, value);
      return {};
    }));
    MutexLock lock(objects_.mutex());
    for (const auto& [property, value] : checked) volume->properties[property] = value;
    apply_properties(volume);
  }
  // It is set, whatever becomes of this; the next write that needs room counts.
  if (auto counted = count_snapshots_of(volume); !counted)
    log::warning("{}/{}: counting what its snapshots use: {}", name_, name, counted.error().message);
  return {};
}

Result<std::vector<PropertyInfo>> PoolImpl::properties(const std::string& name) {
  VSNAP_TRY_ASSIGN(const ObjectPtr volume, volume_named(name));
  std::vector<PropertyInfo> infos;
  MutexLock lock(objects_.mutex());
  for (const PropertyKind& kind : property_kinds()) {
    const auto found = volume->properties.find(kind.name);
    const bool is_set = found != volume->properties.end();
    infos.push_back(
        {name, std::string(kind.name), is_set ? found->second : std::string(kind.otherwise), is_set});
  }
  return infos;
}

// The catalog of an older pool gets its new tables when it is opened, if there is space.
Result<> PoolImpl::check_up_to_date(const char* table) {
  return engine_->db().read([&](SQLite::Database& db) -> Result<> {
    if (db.tableExists(table)) return {};
    return failure(
        ErrorKind::no_space,
        fmt::format("pool {}: there was no space to bring its catalog to the present version (make "
                    "some, and open it again)",
                    name_));
  });
}

} // namespace vsnap
