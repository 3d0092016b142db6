// Preserve: a second image for a volume, while programs go on writing to the first under the handles that
// they have.
//
//            preserve()                     last old handle closed,         make_final() count_second()
//   volume ──────────────► draining image   and no image below drains  ────────────────► snapshot
//   ─────────────► counted
//                                                                        one transaction            another
//
// The first image keeps its branch and its number: the inode of its open files. It has no name of its own as
// a volume, and is listed as the snapshot that it becomes. The second one is a new branch below which it
// shows, live at first (image_pair.h), and from the moment that it is final as the parent view of any clone.
// A crash closes all handles: then images are made final when the pool is opened.
#include <fmt/format.h>

#include "core/assert.h"
#include "core/late_reader.h"
#include "core/log.h"
#include "core/pool_impl.h"

namespace vsnap {

Failure PoolImpl::still_draining(const Object& image) {
  const std::string name = objects_.name_of(image).text();
  return failure(ErrorKind::busy,
                 fmt::format("{0}/{1}: programs still write to it under the handles that they had "
                             "(vsnap wait {0}/{1})",
                             name_, name));
}

Result<> PoolImpl::check_settled(const Object& object) {
  if (object.draining) return still_draining(object);
  if (!object.branch->parent_draining.load()) return {};
  for (const ObjectPtr& image : objects_.everything()) {
    if (image->draining && image->branch == object.branch->parent) return still_draining(*image);
  }
  return failure(ErrorKind::busy, "a preserved image is still written to");
}

Result<ObjectPtr> PoolImpl::plan_preserve(const ViewName& name) {
  VSNAP_TRY(check_room());
  if (!name.is_snapshot()) {
    return failure(
        ErrorKind::usage,
        fmt::format("{0}/{1}: name the image that is preserved, as in {0}/{1}@monday", name_, name.text()));
  }
  VSNAP_TRY(check_name("snapshot", name.snapshot));
  VSNAP_TRY_ASSIGN(ObjectPtr first, volume_named(name.volume));
  VSNAP_TRY(check_free(name));
  {
    MutexLock lock(objects_.mutex());
    VSNAP_TRY(check_not_flattening(*first));
    VSNAP_TRY(check_not_copying(*first));
    if (first->branch->adopted()) {
      return failure(ErrorKind::usage,
                     fmt::format("{}/{}: an adopted volume is not preserved (vsnap snapshot it, or "
                                 "vsnap release it first)",
                                 name_, name.volume));
    }
  }
  VSNAP_TRY(take_back_for_line(first->id));
  VSNAP_TRY(finish_trim(first));
  return first;
}

Result<ViewInfo> PoolImpl::preserve(const ViewName& name) {
  const UntilGivenAgain given_again(env_);
  MutexLock config(config_mutex_);
  VSNAP_TRY_ASSIGN(const ObjectPtr first, plan_preserve(name));
  Branch& below = *first->branch;
  auto branch = new_branch(&below, below.version(), 0);
  branch->parent_draining.store(true);
  const ObjectPtr second = make_volume(name.volume, 0);
  second->branch = branch.get();
  const auto view = view_of(first);
  const auto pair = std::make_shared<ImagePair>(view);
  VSNAP_TRY(engine_->commit()); // so that little is left for the transaction
  {
    MutexLock commit(engine_->commit_mutex());
    assert_taken_back(below);
    {
      const WritesHeld held(env_);
      below.gate.close(); // no write may go past the pair
      below.gate.drain();
      view->set_above(pair.get());
      second->size_bytes.store(first->size_bytes.load());
      below.gate.open();
    }
    auto done = store_preserve(name, first, second, *branch);
    if (!done) {
      below.gate.close();
      below.gate.drain();
      view->set_above(nullptr);
      below.gate.open();
      return Failure(done.error());
    }
    MutexLock lock(objects_.mutex());
    objects_.add_branch(std::move(branch)); // its parent is not pinned as long as it drains
    become_draining(name, first, second);
    view_of_locked(second)->set_below(pair);
  }
  tell_entry(name.volume);
  tell_entry(name.text());
  settle();
  {
    MutexLock lock(objects_.mutex());
    first->moved_lately = false;
  }
  VSNAP_TRY(finish_preserved());
  return info(first->id);
}

Result<> PoolImpl::store_preserve(const ViewName& name, const ObjectPtr& first, const ObjectPtr& second,
                                  Branch& branch) {
  {
    MutexLock lock(objects_.mutex());
    second->mode = first->mode;
    second->uid = first->uid;
    second->gid = first->gid;
    second->created_ns = first->created_ns;
    second->modified_ns.store(first->modified_ns.load());
  }
  return configure_locked([&](SQLite::Database& db) -> Result<> {
    branch.id = BranchId(catalog::take_number(db, "next_branch"));
    second->id = ObjectId(catalog::take_number(db, "next_object"));
    catalog::insert_branch(db, branch);
    catalog::rename(db, *first, "");
    catalog::insert_volume(db, *second);
    catalog::move_snapshots(db, first->id, second->id);
    property_rows::move(db, first->id, second->id);
    catalog::insert_preserved(db, first->id, second->id, name.snapshot);
    return {};
  });
}

void PoolImpl::become_draining(const ViewName& name, const ObjectPtr& first, const ObjectPtr& second) {
  objects_.erase(first);
  objects_.add(second);
  objects_.move_snapshots(*first, second);
  second->properties.swap(first->properties);
  apply_properties(second);
  apply_properties(first); // old handles are not held by the limit: whoever waits goes on
  first->kind = ViewKind::snapshot;
  first->name = name.snapshot;
  first->volume = second;
  first->continued_by = second;
  first->number = first->branch->version();
  first->created_ns = env_.wall_clock_ns();
  first->draining = true;
  first->moved_lately = true;
  first->old_handles = first->open_handles;
  objects_.add(first);
  if (!counters_) return;
  counters_->rename(first->id, name.text());
}

// Those that can be: the oldest first, as an image through which another shows is not final before that one.
Result<> PoolImpl::finish_preserved() {
  for (;;) {
    ObjectPtr ready;
    {
      MutexLock lock(objects_.mutex());
      for (const ObjectPtr& object : objects_.everything()) {
        if (!object->draining || object->old_handles > 0 || object->expected_handles > 0) continue;
        if (!object->branch->parent_draining.load()) ready = object;
      }
    }
    if (!ready) return {};
    VSNAP_TRY(make_final(ready));
    VSNAP_TRY(count_second(ready->id, *ready->continued_by));
    ready->continued_by.reset();
    tell_content(ready->id);
  }
}

Result<> PoolImpl::make_final(const ObjectPtr& image) {
  Branch& below = *image->branch;
  Branch& branch = *image->continued_by->branch;
  VSNAP_TRY(finish_trim(image));
  const auto first = view_of(image);
  const auto second = view_of(image->continued_by);
  std::shared_ptr<VolumeIo> unused; // destroyed without the locks
  // From now on the second image maps what it sees of the first; not what lies behind its end, should it
  // grow.
  VSNAP_TRY(second->hide_below(second->size_bytes(), first->size_bytes()));
  VSNAP_TRY(engine_->commit());
  MutexLock commit(engine_->commit_mutex());
  branch.gate.close();
  branch.gate.drain();
  {
    MutexLock lock(objects_.mutex());
    image->mapped_blocks = static_cast<std::uint64_t>(below.mapped.load());
  }
  auto done = configure_locked([&](SQLite::Database& db) -> Result<> {
    catalog::make_final(db, *image);
    catalog::set_parent(db, branch.id, &below, below.version());
    return {};
  });
  if (done) {
    {
      MutexLock lock(objects_.mutex());
      VSNAP_ASSERT(image->number == below.version());
      image->draining = false;
      image->frozen.store(true);
      below.has_head = false;
      below.pins.insert(image->number.value()); // of the snapshot, and of the branch that starts from it
      below.pins.insert(image->number.value());
      below.set_floor();
      branch.parent_number = image->number;
      if (image->open_handles == 0) {
        unused = std::move(views_[image->id]);
        views_.erase(image->id);
      }
    }
    engine_->cache().drop_all(second->map(), [&branch] { branch.parent_draining.store(false); });
    second->set_below(nullptr);
    first->set_above(nullptr);
  }
  branch.gate.open();
  engine_->grace().synchronize(); // whoever read through the pair
  second->let_pairs_go();
  note_branches_changed();
  background_wake_.notify_all();
  return done;
}

// As long as the first image drained, the second counted the blocks that it has itself; from now on it maps
// those of the first as well. Of the catalog, so that nobody has to wait: what is not in it yet counts for
// itself.
Result<> PoolImpl::count_second(ObjectId image, const Object& second) {
  Branch& branch = *second.branch;
  MutexLock commit(engine_->commit_mutex());
  VSNAP_TRY(engine_->commit_with({}));
  std::int64_t correction = 0;
  auto done = engine_->transact([&](SQLite::Database& db, std::vector<PlaceRun>&) -> Result<> {
    correction = catalog::mapped(db, branch.parent->id) - catalog::mapped(db, branch.id);
    ExtentIndex& index = engine_->index();
    for (std::optional<RegionIndex> at = index.next_region(branch.id, RegionIndex(0)); at;
         at = index.next_region(branch.id, RegionIndex(at->value() + 1))) {
      const auto whole = std::make_unique<Region>(*at, Version(0));
      const auto below = std::make_unique<Region>(*at, Version(0));
      index.load_region(branch, branch.version(), std::nullopt, *whole);
      index.load_region(*branch.parent, branch.parent_number, std::nullopt, *below);
      for (std::uint64_t block = 0; block < kRegionBlocks; ++block)
        correction += (whole->entry(block).mapped() ? 1 : 0) - (below->entry(block).mapped() ? 1 : 0);
    }
    catalog::add_mapped(db, branch.id, correction);
    catalog::erase_preserved(db, image);
    return {};
  });
  if (done) branch.mapped.fetch_add(correction);
  return done;
}

// What a crash or a predecessor left: counts that are not right yet, and images that drain. Those that a
// successor is to open again drain on.
Result<> PoolImpl::resume_preserved() {
  std::vector<std::pair<ObjectId, ObjectId>> uncounted;
  VSNAP_TRY(engine_->db().read([&](SQLite::Database& db) -> Result<> {
    uncounted = catalog::uncounted(db);
    return {};
  }));
  for (const auto& [image, volume] : uncounted) {
    ObjectPtr second;
    {
      MutexLock lock(objects_.mutex());
      second = objects_.find(volume);
    }
    if (second) VSNAP_TRY(count_second(image, *second));
  }
  {
    MutexLock lock(objects_.mutex());
    for (const ObjectPtr& object : objects_.everything()) {
      if (!object->draining) continue;
      const auto& kept = options_.still_open;
      object->expected_handles = static_cast<std::uint32_t>(std::count(kept.begin(), kept.end(), object->id));
      const auto first = view_of_locked(object);
      const auto pair = std::make_shared<ImagePair>(first);
      first->set_above(pair.get());
      view_of_locked(object->continued_by)->set_below(pair);
    }
  }
  return finish_preserved();
}

// Called by handle_closed(): true: the last one of those that keep a draining image from being final.
bool PoolImpl::note_old_handle_closed(Object& image) {
  if (!image.draining || keep_unlinked_) return false;
  VSNAP_ASSERT(image.old_handles > 0);
  return --image.old_handles == 0;
}

ViewHandle PoolImpl::open_draining(const ObjectPtr& image) {
  const auto view = view_of_locked(image);
  if (image->expected_handles == 0) return ViewHandle(this, std::make_shared<LateReader>(view));
  --image->expected_handles;
  ++image->old_handles;
  return ViewHandle(this, view);
}

void PoolImpl::finish_preserved_if_asked() {
  if (!preserve_ready_.exchange(false)) return;
  MutexLock config(config_mutex_);
  if (auto finished = finish_preserved(); !finished) {
    log::error("{}: a preserved image cannot be made final: {}", name_, finished.error().message);
    preserve_ready_.store(true); // tried again
  }
}

} // namespace vsnap
