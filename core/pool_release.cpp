// Releasing: the image of an adopted volume is given back, as it is.
//
// With snapshots that are to stay, what they still see in the image is copied to the pool first, by the way
// of copy-out, without anything being overwritten, and the volume stays an adopted one until nothing is left.
// Then, in one transaction, the branch lets go of the image. Its newest versions, which only the head saw,
// are in the image and nowhere else; without them the head shows what the newest snapshot shows, as a thin
// volume that starts from it.
#include <fmt/format.h>
#include <algorithm>

#include "core/pool_impl.h"

namespace vsnap {

Result<ReleaseResult> PoolImpl::release(const std::string& name, ReleaseOptions options,
                                        const Progress& progress) {
  const ViewName named{name, {}};
  VSNAP_TRY(engine_->check_writable());
  VSNAP_TRY(finish_sweeps_of_images(std::span(&named, 1)));
  ReleaseResult result;
  ObjectPtr volume;
  bool pinned = false;
  {
    MutexLock config(config_mutex_);
    VSNAP_TRY_ASSIGN(volume, volume_named(name));
    if (!volume->branch->adopted()) {
      return failure(ErrorKind::usage,
                     fmt::format("{}/{}: lies in the pool, not in an image of its own (vsnap rm removes it)",
                                 name_, name));
    }
    MutexLock lock(objects_.mutex());
    VSNAP_TRY(check_not_flattening(*volume));
    VSNAP_TRY(check_idle(*volume));
    result.path = volume->branch->base.path;
    for (const ObjectPtr& snapshot : objects_.snapshots(*volume))
      result.kept.push_back(objects_.name_of(*snapshot));
    pinned = !volume->branch->pins.empty();
    if (!options.keep_snapshots && !result.kept.empty()) {
      return failure(ErrorKind::busy,
                     fmt::format("{}/{}: has snapshots (vsnap rm them, or --keep-snapshots)", name_, name));
    }
    if (!options.keep_snapshots) {
      VSNAP_TRY(check_image_removal({volume}, {}));
      result.kept.clear();
    } else if (pinned) {
      VSNAP_TRY(check_images(*volume));
      result.copied_bytes = volume->branch->base.blocks * kBlockBytes;
    }
    if (options.dry_run) return result;
    volume->withheld = true;
    flattening_.insert(volume->id); // it stays what it is, though the configuration lock is let go of
  }
  const bool keeps = options.keep_snapshots && pinned;
  Result<> done = keeps ? keep_snapshots(volume, progress) : Result<>();
  MutexLock config(config_mutex_);
  flattening_.erase(volume->id);
  if (done) done = keeps ? detach_image(volume) : erase_objects({volume});
  {
    MutexLock lock(objects_.mutex());
    volume->withheld = false;
  }
  if (!done) return Failure(done.error());
  tell_entry(name);
  tell_content(volume->id);
  return result;
}

Result<> PoolImpl::keep_snapshots(const ObjectPtr& volume, const Progress& progress) {
  const std::shared_ptr<VolumeIo> view = view_of(volume);
  VSNAP_TRY(mark_base(*volume->branch));
  return view->save_image(progress);
}

namespace {

// Blocks that are mapped at a number of a branch, each in the pool by now.
Result<std::uint64_t> count_saved(Engine& engine, const Branch& branch, Version number) {
  std::uint64_t count = 0;
  for (RegionIndex at(0);; at = RegionIndex(at.value() + 1)) {
    std::optional<RegionIndex> found;
    const auto region_at = [&]() -> Result<> {
      return engine.db().read([&](SQLite::Database&) -> Result<> {
        found = engine.index().next_mapped_region(branch, at);
        if (!found) return {};
        const auto region = std::make_unique<Region>(*found, number);
        engine.index().load_region(branch, number, std::nullopt, *region);
        for (std::uint64_t block = 0; block < kRegionBlocks; ++block) {
          const Entry e = region->entry(block);
          if (!e.mapped()) continue;
          if (e.place().is_base()) return failure(ErrorKind::failed, "a snapshot still reads the image");
          ++count;
        }
        return {};
      });
    };
    VSNAP_TRY(region_at());
    if (!found) return count;
    at = *found;
  }
}

} // namespace

Result<> PoolImpl::detach_image(const ObjectPtr& volume) {
  {
    // Once more, and nothing can come between: a snapshot that was made meanwhile.
    const std::shared_ptr<VolumeIo> view = view_of(volume);
    VSNAP_TRY(view->save_image({}));
  }
  VSNAP_TRY(engine_->commit());
  Branch& branch = *volume->branch;
  const Version newest(static_cast<std::uint64_t>(branch.floor.load()));
  VSNAP_TRY_ASSIGN(const std::uint64_t mapped, count_saved(*engine_, branch, newest));
  std::uint64_t size = std::min(volume->size_bytes.load(), mapped * kBlockBytes);
  {
    MutexLock lock(objects_.mutex());
    for (const ObjectPtr& object : objects_.everything()) {
      if (object->kind == ViewKind::snapshot && object->branch == &branch && object->number == newest)
        size = object->size_bytes.load();
    }
  }
  MutexLock commit(engine_->commit_mutex());
  // What the head writes from now on is of a version of its own: rows of the image may lie under it for a
  // while.
  const Version number = next(branch.version());
  VSNAP_TRY(configure_locked([&](SQLite::Database& db) -> Result<> {
    base_rows::erase(db, branch.base.member);
    catalog::update_branch(db, branch.id, number);
    catalog::set_mapped(db, branch.id, static_cast<std::int64_t>(mapped));
    catalog::resize_volume(db, volume->id, size);
    engine_->index().start_sweep(branch.id); // of what only the head saw
    return {};
  }));
  branch.number.store(number.value());
  branch.mapped.store(static_cast<std::int64_t>(mapped));
  volume->size_bytes.store(size);
  std::shared_ptr<VolumeIo> stale; // its map shows the image
  {
    MutexLock lock(objects_.mutex());
    if (const auto found = views_.find(volume->id); found != views_.end()) {
      stale = std::move(found->second);
      views_.erase(found);
    }
  }
  forget_base(branch);
  note_branches_changed();
  background_wake_.notify_all();
  return {};
}

} // namespace vsnap
