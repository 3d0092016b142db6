// Full-sized snapshots of a ModelPool: copies are whole maps anyway, so they differ in what they are called,
// and from the end of their copying on in that they share no block.
#include <fmt/format.h>
#include <unistd.h>

#include "tests/support/model_pool.h"

namespace vsnap {

Result<ModelPool::Object> ModelPool::look_up_copy(const ViewName& name) {
  VSNAP_TRY_ASSIGN(const Object object, look_up(name));
  if (object->info.form == ViewForm::full || object->copying) return object;
  return failure(ErrorKind::failed, EINVAL,
                 fmt::format("{}/{}: is no full-sized snapshot", name_, name.text()));
}

Result<> ModelPool::snapshot_full(const ViewName& name, const FullSnapshotOptions&) {
  {
    MutexLock lock(mutex_);
    VSNAP_TRY(check_name("snapshot", name.snapshot));
    VSNAP_TRY_ASSIGN(const Object volume, look_up(ViewName{name.volume, {}}));
    if (look_up(name))
      return failure(ErrorKind::failed, EEXIST, fmt::format("{}/{}: exists already", name_, name.text()));
    VSNAP_TRY(check_settled(*volume));
    const Object made = copy_as_snapshot(*volume, name.snapshot);
    made->info.form = ViewForm::full;
    made->copying = true;
    ++generation_;
  }
  announce({{name.text()}, {}});
  return {};
}

Result<> ModelPool::wait_for_copy(const ViewName& name, const Progress& progress) {
  MutexLock lock(mutex_);
  VSNAP_TRY_ASSIGN(const Object object, look_up_copy(name));
  if (!object->copying) return {};
  if (progress && !progress(0, object->blocks.size() * kBlockBytes))
    return failure(ErrorKind::failed, ECANCELED, fmt::format("{}/{}: given up", name_, name.text()));
  if (object->paused)
    return failure(ErrorKind::failed, EAGAIN, fmt::format("{}/{}: paused", name_, name.text()));
  object->copying = false;
  for (auto& [index, block] : object->blocks) block.stamp = next_stamp_++;
  return {};
}

Result<> ModelPool::set_copy(const ViewName& name, const CopySettings& settings) {
  MutexLock lock(mutex_);
  VSNAP_TRY_ASSIGN(const Object object, look_up_copy(name));
  if (!object->copying)
    return failure(ErrorKind::failed, EINVAL, fmt::format("{}/{}: is complete", name_, name.text()));
  object->paused = settings.paused.value_or(object->paused);
  return {};
}

Result<ViewInfo> ModelPool::split(const ViewName& from, const std::string& new_volume) {
  ViewInfo info;
  {
    MutexLock lock(mutex_);
    VSNAP_TRY_ASSIGN(const Object snapshot, look_up(from));
    VSNAP_TRY_ASSIGN(const Object object, free_volume_name(new_volume));
    if (snapshot->info.form != ViewForm::full)
      return failure(ErrorKind::usage, fmt::format("{}/{}: is not full-sized", name_, from.text()));
    VSNAP_TRY(check_not_held(*snapshot));
    if (snapshot->handles != 0)
      return failure(ErrorKind::busy, fmt::format("{}/{}: in use (close it first)", name_, from.text()));
    object->info.size_bytes = snapshot->info.size_bytes;
    object->info.mode = snapshot->info.mode;
    object->blocks = std::move(snapshot->blocks);
    object->copying = snapshot->copying;
    object->paused = snapshot->paused;
    objects_.erase(snapshot->info.id.value());
    objects_[next_id_++] = object;
    ++generation_;
    info = describe(*object);
  }
  announce({{from.text(), new_volume}, {}});
  return info;
}

Result<> ModelPool::raise_levels(std::span<const LevelRaise> raises) {
  MutexLock lock(mutex_);
  for (const LevelRaise& raise : raises) {
    const auto found = objects_.find(raise.snapshot.value());
    if (found == objects_.end()) continue;
    const ModelObject& object = *found->second;
    if (object.info.kind != ViewKind::snapshot || object.draining)
      return failure(ErrorKind::usage, EINVAL, fmt::format("{}: has no level", object.info.name.text()));
  }
  for (const LevelRaise& raise : raises) {
    const auto found = objects_.find(raise.snapshot.value());
    if (found == objects_.end()) continue;
    SnapshotLevel& level = found->second->info.level;
    level = std::max(level, raise.to);
  }
  return {};
}

Result<ViewInfo> ModelPool::refresh(const ViewName& name) {
  ViewInfo info;
  {
    MutexLock lock(mutex_);
    VSNAP_TRY(check_name("snapshot", name.snapshot));
    VSNAP_TRY_ASSIGN(const Object old, look_up(name));
    VSNAP_TRY_ASSIGN(const Object volume, look_up(ViewName{name.volume, {}}));
    VSNAP_TRY(check_settled(*old));
    VSNAP_TRY(check_settled(*volume));
    VSNAP_TRY(check_not_held(*old));
    if (old->handles != 0)
      return failure(ErrorKind::busy, fmt::format("{}/{}: in use (close it first)", name_, name.text()));
    objects_.erase(old->info.id.value());
    const Object made = copy_as_snapshot(*volume, name.snapshot);
    made->info.form = old->info.form;
    made->copying = old->info.form == ViewForm::full;
    ++generation_;
    info = describe(*made);
  }
  announce({{name.text()}, {}});
  return info;
}

} // namespace vsnap
