// Properties and holds of a ModelPool.
#include <fmt/format.h>
#include <algorithm>

#include "tests/support/model_pool.h"

namespace vsnap {

Result<> ModelPool::set_properties(const std::string& volume, const Properties& properties) {
  MutexLock lock(mutex_);
  VSNAP_TRY(look_up(ViewName{volume, {}}));
  for (const auto& [name, value] : properties) {
    VSNAP_TRY_ASSIGN(properties_[volume][name], checked_property(name, value));
  }
  return {};
}

Result<std::vector<PropertyInfo>> ModelPool::properties(const std::string& volume) {
  MutexLock lock(mutex_);
  VSNAP_TRY(look_up(ViewName{volume, {}}));
  std::vector<PropertyInfo> infos;
  for (const PropertyKind& kind : property_kinds()) {
    const auto found = properties_[volume].find(kind.name);
    const bool is_set = found != properties_[volume].end();
    infos.push_back(
        {volume, std::string(kind.name), is_set ? found->second : std::string(kind.otherwise), is_set});
  }
  return infos;
}

Result<> ModelPool::check_not_held(const ModelObject& snapshot) {
  if (snapshot.info.holds.empty()) return {};
  return failure(ErrorKind::busy, fmt::format("{}/{}: held by {} (vsnap release-hold)", name_,
                                              snapshot.info.name.text(), snapshot.info.holds.front().tag));
}

Result<std::vector<ModelPool::Object>> ModelPool::snapshots_to_hold(std::span<const ViewName> names,
                                                                    const std::string& tag, bool held) {
  VSNAP_TRY(check_name("tag", tag));
  std::vector<Object> found;
  for (const ViewName& name : names) {
    if (!name.is_snapshot())
      return failure(ErrorKind::usage, fmt::format("{}/{}: only snapshots are held", name_, name.text()));
    VSNAP_TRY_ASSIGN(const Object object, look_up(name));
    found.push_back(object);
  }
  for (const Object& object : found) {
    const auto& holds = object->info.holds;
    const bool has =
        std::any_of(holds.begin(), holds.end(), [&](const HoldInfo& hold) { return hold.tag == tag; });
    if (has == held) continue;
    return failure(
        ErrorKind::failed, has ? EEXIST : ENOENT,
        fmt::format("{}/{}: {} held by {}", name_, object->info.name.text(), has ? "already" : "not", tag));
  }
  return found;
}

Result<> ModelPool::hold(std::span<const ViewName> names, const std::string& tag) {
  MutexLock lock(mutex_);
  VSNAP_TRY_ASSIGN(const auto found, snapshots_to_hold(names, tag, false));
  for (const Object& object : found) {
    auto& holds = object->info.holds;
    holds.push_back({tag, 1});
    std::sort(holds.begin(), holds.end(), [](const HoldInfo& a, const HoldInfo& b) { return a.tag < b.tag; });
  }
  ++generation_;
  return {};
}

Result<> ModelPool::release_hold(std::span<const ViewName> names, const std::string& tag) {
  MutexLock lock(mutex_);
  VSNAP_TRY_ASSIGN(const auto found, snapshots_to_hold(names, tag, true));
  for (const Object& object : found)
    std::erase_if(object->info.holds, [&](const HoldInfo& hold) { return hold.tag == tag; });
  ++generation_;
  return {};
}

} // namespace vsnap
