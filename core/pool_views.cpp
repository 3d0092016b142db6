// Snapshots, clones, rollback and sharing: configuration operations that draw a line through the versions of
// a branch.
#include <fmt/format.h>
#include <algorithm>

#include "core/assert.h"
#include "core/planted.h"
#include "core/pool_impl.h"

namespace vsnap {

// Holds the writes to the branches, waits for those in flight, runs `at_the_line` with the number of the last
// record so far, and lets the writes go on; what came before the line, and `step`, are made durable beside
// them. All branches are held before the first one goes on: a write that began after another one ended is
// never before it.
Result<> PoolImpl::draw_line(std::span<Branch* const> branches,
                             const std::function<void(std::uint64_t line)>& at_the_line,
                             const Engine::Step& step) {
  for (Branch* const branch : branches) assert_taken_back(*branch);
  {
    const WritesHeld held(env_);
    for (Branch* const branch : branches) branch->gate.close();
    for (Branch* const branch : branches) branch->gate.drain();
    at_the_line(engine_->draw_line());
    for (Branch* const branch : branches) branch->gate.open();
  }
  auto recorded = engine_->record_line(with_generation(step));
  // Writes already go by the new numbers.
  if (!recorded) engine_->fail(recorded.error());
  return recorded;
}

Result<ObjectPtr> PoolImpl::new_snapshot(const ViewName& name) {
  if (!name.is_snapshot()) {
    return failure(ErrorKind::usage,
                   fmt::format("{}/{}: name the snapshot, as in {}@monday", name_, name.text(), name.volume));
  }
  VSNAP_TRY(check_name("snapshot", name.snapshot));
  VSNAP_TRY_ASSIGN(ObjectPtr volume, volume_named(name.volume));
  auto snapshot = std::make_shared<Object>();
  snapshot->kind = ViewKind::snapshot;
  snapshot->name = name.snapshot;
  snapshot->branch = volume->branch;
  snapshot->volume = std::move(volume);
  return snapshot;
}

Result<> PoolImpl::snapshot(std::span<const ViewName> names) {
  if (names.empty()) return failure(ErrorKind::usage, "no snapshot named (POOL/VOLUME@SNAPSHOT)");
  const UntilGivenAgain given_again(env_);
  MutexLock config(config_mutex_);
  VSNAP_TRY(check_room());
  std::vector<NewSnapshot> made;
  for (const ViewName& name : names) {
    VSNAP_TRY_ASSIGN(ObjectPtr snapshot, new_snapshot(name));
    if (std::count(names.begin(), names.end(), name) > 1) {
      return failure(ErrorKind::usage, fmt::format("{}/{}: named twice", name_, name.text()));
    }
    VSNAP_TRY(check_free(name));
    {
      MutexLock lock(objects_.mutex());
      VSNAP_TRY(check_settled(*snapshot->volume));
      VSNAP_TRY(check_images(*snapshot->volume));
    }
    made.push_back({std::move(snapshot), nullptr, nullptr});
  }
  std::vector<ObjectId> volumes;
  for (const NewSnapshot& each : made) volumes.push_back(each.object->volume->id);
  VSNAP_TRY(take_back_for_line(volumes));
  VSNAP_TRY(check_snapshot_room(made));
  for (; planted(Fault::group_in_turn) && made.size() > 1; made.pop_back()) {
    std::vector<NewSnapshot> one(1);
    std::swap(one[0], made.back());
    VSNAP_TRY(draw_snapshots(one));
  }
  VSNAP_TRY(draw_snapshots(made));
  for (const ViewName& name : names) tell_entry(name.text());
  return {};
}

// All at one moment, and each in the place of what it replaces.
Result<> PoolImpl::draw_snapshots(std::vector<NewSnapshot>& made, const Engine::Step& also) {
  std::vector<Branch*> branches;
  for (const NewSnapshot& each : made) {
    Branch* const base = each.object->volume->branch;
    if (std::find(branches.begin(), branches.end(), base) == branches.end()) branches.push_back(base);
  }
  for (const NewSnapshot& each : made) VSNAP_TRY(finish_trim(each.object->volume));
  std::vector<std::shared_ptr<VolumeIo>> stale; // destroyed without the locks
  const Engine::Hurry hurry(*engine_);
  MutexLock commit(engine_->commit_mutex());
  VSNAP_TRY(engine_->prepare_line());
  VSNAP_TRY(draw_line(
      branches,
      [&](std::uint64_t line) {
        for (const NewSnapshot& each : made) draw_snapshot(each, line);
        for (Branch* const branch : branches) {
          // The floor first: see RegionCache::get().
          branch->floor.store(static_cast<std::int64_t>(branch->number.load()));
          branch->number.fetch_add(1);
        }
      },
      [&](SQLite::Database& db) -> Result<> {
        for (const NewSnapshot& each : made) {
          if (each.replaces) erase_replaced(db, *each.replaces);
          each.object->id = ObjectId(catalog::take_number(db, "next_object"));
          if (each.own) insert_full(db, each);
          catalog::insert_snapshot(db, *each.object);
        }
        for (Branch* const branch : branches) catalog::update_branch(db, branch->id, branch->version());
        return also ? also(db) : Result<>();
      }));
  for (const NewSnapshot& each : made) {
    if (each.own) VSNAP_TRY(hold_sweep(*each.own, true));
  }
  {
    MutexLock lock(objects_.mutex());
    for (NewSnapshot& each : made) {
      if (each.replaces) stale.push_back(forget_replaced(each.replaces));
      each.object->branch->pins.insert(each.object->number.value());
      if (each.own) {
        each.own->set_floor();
        copying_.insert(each.own->id);
        add_child(std::move(each.own));
      }
      objects_.add(each.object);
    }
  }
  if (stale.empty()) return {};
  note_pins_gone();
  return engine_->commit_with({}); // a sweep of what was replaced finds all rows that overtake others
}

// With the writes to its volume held.
void PoolImpl::draw_snapshot(const NewSnapshot& made, std::uint64_t line) {
  Object& snapshot = *made.object;
  const Branch& base = *snapshot.volume->branch;
  snapshot.line = line;
  snapshot.size_bytes.store(snapshot.volume->size_bytes.load());
  snapshot.mapped_blocks = static_cast<std::uint64_t>(base.mapped.load());
  snapshot.created_ns = env_.wall_clock_ns();
  snapshot.modified_ns.store(snapshot.created_ns);
  if (made.own) {
    made.own->parent_number = base.version();
    made.own->mapped.store(base.mapped.load());
    made.own->copy->line = line;
    made.own->copy->total_blocks = snapshot.mapped_blocks;
  }
  snapshot.number = snapshot.branch->version();
}

Result<ViewInfo> PoolImpl::clone(const ViewName& from, const std::string& new_volume) {
  MutexLock config(config_mutex_);
  VSNAP_TRY(check_room());
  if (!from.is_snapshot()) {
    return failure(ErrorKind::usage,
                   fmt::format("{}/{}: a clone starts from a snapshot (vsnap snapshot {}/{}@NAME first)",
                               name_, from.text(), name_, from.volume));
  }
  VSNAP_TRY_ASSIGN(const ObjectPtr origin, object_named(from));
  VSNAP_TRY(check_not_left(origin->id));
  VSNAP_TRY(check_free({new_volume, {}}));
  {
    MutexLock lock(objects_.mutex());
    VSNAP_TRY(check_settled(*origin));
  }
  auto branch = new_branch(origin->branch, origin->number, static_cast<std::int64_t>(origin->mapped_blocks));
  const ObjectPtr volume = make_volume(new_volume, origin->size_bytes.load());
  {
    MutexLock lock(objects_.mutex());
    volume->mode = origin->volume->mode;
    volume->uid = origin->volume->uid;
    volume->gid = origin->volume->gid;
  }
  return add_volume(std::move(branch), volume);
}

Result<RollbackResult> PoolImpl::rollback(const ViewName& to, bool discard, bool dry_run,
                                          const Progress& progress) {
  const UntilGivenAgain given_again(env_);
  MutexLock config(config_mutex_);
  if (!to.is_snapshot()) {
    return failure(ErrorKind::usage, fmt::format("{}/{}: name the snapshot to go back to, as in {}@monday",
                                                 name_, to.text(), to.volume));
  }
  VSNAP_TRY(check_room());
  VSNAP_TRY_ASSIGN(const ObjectPtr target, object_named(to));
  const ObjectPtr volume = target->volume;
  RollbackResult result{to, std::nullopt};
  auto kept = std::make_shared<Object>();
  {
    MutexLock lock(objects_.mutex());
    VSNAP_TRY(check_not_flattening(*volume));
    VSNAP_TRY(check_not_copying(*volume));
    VSNAP_TRY(check_settled(*volume));
    VSNAP_TRY(check_settled(*target));
    VSNAP_TRY(check_idle(*volume));
    if (!discard) {
      ViewName name;
      unsigned n = 1;
      do name = {to.volume, fmt::format("before-rollback-{}", n++)};
      while (objects_.find(name));
      kept->name = name.snapshot;
      result.kept = name;
    }
    if (volume->branch->adopted()) VSNAP_TRY(check_image_rollback(*volume, *target));
    volume->withheld = !dry_run;
  }
  if (dry_run) return result;
  // The state before is kept as a snapshot, like any other.
  auto done = check_not_left(target->id);
  if (done) done = discard ? take_back(std::span(&volume->id, 1)) : take_back_for_line(volume->id);
  if (done) {
    done = volume->branch->adopted() ? roll_back_image(volume, target, kept, discard, progress)
                                     : switch_branch(volume, *target, kept, discard);
  }
  {
    MutexLock lock(objects_.mutex());
    volume->withheld = false;
  }
  if (!done) return Failure(done.error());
  background_wake_.notify_all();
  tell_content(volume->id);
  if (result.kept) tell_entry(result.kept->text());
  return result;
}

// The volume goes on in a new branch that starts at `target`; the state before becomes `kept`, or is swept.
Result<> PoolImpl::switch_branch(const ObjectPtr& volume, const Object& target, const ObjectPtr& kept,
                                 bool discard) {
  MutexLock commit(engine_->commit_mutex());
  Branch* const old_branch = volume->branch;
  assert_taken_back(*old_branch);
  auto branch = new_branch(target.branch, target.number, static_cast<std::int64_t>(target.mapped_blocks));
  kept->kind = ViewKind::snapshot;
  kept->volume = volume;
  kept->branch = old_branch;
  kept->number = old_branch->version();
  kept->size_bytes.store(volume->size_bytes.load());
  kept->created_ns = env_.wall_clock_ns();
  kept->modified_ns.store(kept->created_ns);
  kept->mapped_blocks = static_cast<std::uint64_t>(old_branch->mapped.load());
  // Nobody has the volume open, so nothing is in flight; what was written goes to the old branch with this
  // commit.
  const std::uint64_t old_size = volume->size_bytes.exchange(target.size_bytes.load());
  auto done = configure_locked([&](SQLite::Database& db) -> Result<> {
    branch->id = BranchId(catalog::take_number(db, "next_branch"));
    catalog::insert_branch(db, *branch);
    catalog::point_volume(db, volume->id, branch->id, target.size_bytes.load());
    if (discard) {
      engine_->index().start_sweep(old_branch->id);
    } else {
      kept->id = ObjectId(catalog::take_number(db, "next_object"));
      catalog::insert_snapshot(db, *kept);
    }
    return {};
  });
  if (!done) {
    volume->size_bytes.store(old_size);
    return done;
  }
  std::shared_ptr<VolumeIo> stale; // destroyed without the lock
  {
    MutexLock lock(objects_.mutex());
    volume->branch = branch.get();
    volume->trim.store(Object::kNoTrim);
    volume->modified_ns.store(env_.wall_clock_ns());
    add_child(std::move(branch));
    old_branch->has_head = false;
    if (!discard) {
      old_branch->pins.insert(kept->number.value());
      objects_.add(kept);
    }
    if (const auto found = views_.find(volume->id); found != views_.end()) {
      stale = std::move(found->second);
      views_.erase(found);
    }
  }
  note_branches_changed();
  return {};
}

// Holds the writes to a branch until its map can be loaded with a parent in it; what it had before is
// committed.
Result<> PoolImpl::hold_empty(Branch& child) {
  assert_taken_back(child);
  child.gate.close();
  child.gate.drain();
  auto held = engine_->commit_with({});
  if (held) held = engine_->prepare_line();
  if (held && child.mapped.load() != 0) held = failure(ErrorKind::usage, EXDEV, "the volume is not empty");
  if (!held) child.gate.open();
  return held;
}

Result<> PoolImpl::share_into(ObjectId from, ObjectId to) {
  MutexLock config(config_mutex_);
  VSNAP_TRY(check_room());
  ObjectPtr origin;
  ObjectPtr volume;
  {
    MutexLock lock(objects_.mutex());
    origin = objects_.find(from);
    volume = objects_.find(to);
    if (!origin || !volume || volume->kind != ViewKind::volume || origin == volume) {
      return failure(ErrorKind::usage, EXDEV, "not a view and an empty volume");
    }
    if (!check_settled(*origin))
      return failure(ErrorKind::busy, EXDEV, "a preserved image is still written to");
    if (volume->branch->parent != nullptr || !volume->branch->pins.empty() ||
        volume->branch->mapped.load() != 0) {
      return failure(ErrorKind::usage, EXDEV, "the volume is not empty");
    }
  }
  Branch& child = *volume->branch;
  const bool live = origin->kind == ViewKind::volume;
  VSNAP_TRY(live ? take_back_for_line(from) : check_not_left(from));
  VSNAP_TRY(take_back(std::span(&to, 1))); // what it sees is other blocks from then on
  if (live) VSNAP_TRY(finish_trim(origin));
  VSNAP_TRY(finish_trim(volume));
  VSNAP_TRY(engine_->commit());
  MutexLock commit(engine_->commit_mutex());
  std::vector<Branch*> branches;
  if (live) branches.push_back(origin->branch);
  const auto view = view_of(volume);
  Version number = origin->number;
  std::int64_t mapped = 0;
  VSNAP_TRY(hold_empty(child));
  auto drawn = draw_line(
      branches,
      [&](std::uint64_t) {
        if (live) {
          number = origin->branch->version();
          mapped = origin->branch->mapped.load();
          origin->branch->floor.store(static_cast<std::int64_t>(number.value()));
          origin->branch->number.fetch_add(1);
        } else {
          mapped = static_cast<std::int64_t>(origin->mapped_blocks);
        }
        volume->size_bytes.store(origin->size_bytes.load());
        child.mapped.fetch_add(mapped);
      },
      [&](SQLite::Database& db) -> Result<> {
        catalog::set_parent(db, child.id, origin->branch, number);
        catalog::set_mapped(db, child.id, mapped);
        if (live) catalog::update_branch(db, origin->branch->id, origin->branch->version());
        catalog::update_volume(db, objects_, *volume);
        MutexLock lock(objects_.mutex());
        child.parent = origin->branch; // under the database's lock, where maps are loaded
        child.parent_number = number;
        return {};
      });
  const std::uint64_t line = engine_->log().last();
  if (drawn) drawn = engine_->commit_with({}); // what the child sees of its parent is read from the catalog
  VSNAP_ASSERT(!drawn || engine_->committed() >= line);
  engine_->cache().drop_all(view->map(), [] {});
  child.gate.open();
  if (!drawn) return drawn;
  {
    MutexLock lock(objects_.mutex());
    child.parent->pins.insert(number.value());
  }
  tell_content(to);
  return {};
}

bool PoolImpl::shares_all_of(ObjectId view, ObjectId origin_id) {
  MutexLock lock(objects_.mutex());
  const ObjectPtr volume = objects_.find(view);
  const ObjectPtr origin = objects_.find(origin_id);
  if (!volume || !origin || volume->kind != ViewKind::volume || volume->branch->parent != origin->branch)
    return false;
  const bool same_number = origin->kind == ViewKind::snapshot
                               ? volume->branch->parent_number == origin->number
                               : next(volume->branch->parent_number) == origin->branch->version();
  return same_number && volume->size_bytes.load() == origin->size_bytes.load();
}

} // namespace vsnap
