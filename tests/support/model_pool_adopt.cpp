// Adopted volumes of a ModelPool: volumes that have every block.
#include <fmt/format.h>
#include <algorithm>

#include "tests/support/model_pool.h"

namespace vsnap {

void ModelPool::set_images(std::function<std::vector<std::byte>(const std::string& path)> images) {
  MutexLock lock(mutex_);
  images_ = std::move(images);
}

Result<ViewInfo> ModelPool::adopt(const AdoptOptions& options) {
  ViewInfo info;
  {
    MutexLock lock(mutex_);
    VSNAP_TRY_ASSIGN(const Object object, free_volume_name(options.volume));
    const std::vector<std::byte> content = images_ ? images_(options.path) : std::vector<std::byte>();
    if (content.empty()) return failure(ErrorKind::not_found, fmt::format("{}: no such image", options.path));
    object->adopted = true;
    object->info.form = ViewForm::adopted;
    object->info.base = options.path;
    object->info.size_bytes = content.size();
    for (std::uint64_t at = 0; at < content.size(); at += kBlockBytes) {
      const std::uint64_t part = std::min(kBlockBytes, content.size() - at);
      std::copy_n(content.begin() + static_cast<std::ptrdiff_t>(at), part,
                  block_for_writing(*object, at / kBlockBytes).content.begin());
    }
    objects_[next_id_++] = object;
    ++generation_;
    info = describe(*object);
  }
  announce({{options.volume}, {}});
  return info;
}

Result<ReleaseResult> ModelPool::release(const std::string& volume, ReleaseOptions options, const Progress&) {
  ReleaseResult result;
  {
    MutexLock lock(mutex_);
    VSNAP_TRY_ASSIGN(const Object object, look_up(ViewName{volume, {}}));
    if (!object->adopted) return failure(ErrorKind::usage, fmt::format("{}: not adopted", volume));
    if (object->handles != 0) return failure(ErrorKind::busy, fmt::format("{}: in use", volume));
    const std::vector<Object> snapshots = snapshots_of(volume);
    if (!options.keep_snapshots && !snapshots.empty())
      return failure(ErrorKind::busy, fmt::format("{}: has snapshots", volume));
    result.path = object->info.base;
    for (const Object& snapshot : snapshots) result.kept.push_back(snapshot->info.name);
    if (options.dry_run) return result;
    ++generation_;
    if (snapshots.empty()) {
      objects_.erase(object->info.id.value());
    } else {
      object->adopted = false;
      object->info.form = ViewForm::thin;
      object->info.base.clear();
      object->blocks = snapshots.back()->blocks;
      object->info.size_bytes = snapshots.back()->info.size_bytes;
    }
  }
  announce({{volume}, {}});
  return result;
}

} // namespace vsnap
