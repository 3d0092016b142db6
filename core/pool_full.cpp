// Full-sized snapshots: snapshots with a branch of their own, that starts from the moment it is to preserve
// and gets copies of all it sees there (pool_copying.cpp). And what can be done with one: change how it is
// copied, split it off as a volume.
#include <fmt/format.h>
#include <algorithm>
#include <charconv>

#include "core/pool_impl.h"

namespace vsnap {

Result<> PoolImpl::snapshot_full(const ViewName& name, const FullSnapshotOptions& options) {
  const UntilGivenAgain given_again(env_);
  MutexLock config(config_mutex_);
  VSNAP_TRY(check_room());
  std::vector<NewSnapshot> made(1);
  VSNAP_TRY_ASSIGN(made[0], new_full(name, options));
  VSNAP_TRY(take_back_for_line(made[0].object->volume->id));
  VSNAP_TRY(draw_snapshots(made));
  copying_wake_.notify_all();
  tell_entry(name.text());
  return {};
}

Result<PoolImpl::NewSnapshot> PoolImpl::new_full(const ViewName& name, const FullSnapshotOptions& options) {
  VSNAP_TRY_ASSIGN(ObjectPtr snapshot, new_snapshot(name));
  VSNAP_TRY(check_free(name));
  {
    MutexLock lock(objects_.mutex());
    VSNAP_TRY(check_settled(*snapshot->volume));
  }
  VSNAP_TRY(check_up_to_date("copy"));
  FullCopy copy;
  VSNAP_TRY_ASSIGN(copy.members, members_named(options.members));
  copy.bytes_per_second = options.bytes_per_second;
  VSNAP_TRY(check_fits(name, *snapshot->volume, copy.members));
  return with_own_branch(std::move(snapshot), std::move(copy));
}

// The snapshot sees the branch's first number, and nobody writes to it.
PoolImpl::NewSnapshot PoolImpl::with_own_branch(ObjectPtr snapshot, FullCopy copy) {
  auto own = std::make_unique<Branch>();
  own->parent = snapshot->volume->branch;
  own->copy = std::move(copy);
  snapshot->branch = own.get();
  return {std::move(snapshot), std::move(own), nullptr};
}

// By number, or by the path under which the pool has it.
Result<std::vector<std::uint32_t>> PoolImpl::members_named(const std::vector<std::string>& names) {
  const MemberSet& members = engine_->members();
  std::vector<std::uint32_t> found;
  for (const std::string& name : names) {
    std::uint32_t index = 0;
    const auto [after, error] = std::from_chars(name.data(), name.data() + name.size(), index);
    if (error != std::errc() || after != name.data() + name.size()) {
      for (index = 0; index < members.count() && members.path(index) != name;) ++index;
    }
    if (index >= members.count()) {
      return failure(ErrorKind::usage, fmt::format("{}: no member of pool {} (vsnap pool status {} lists "
                                                   "them)",
                                                   vsnap::quoted(name), name_, name_));
    }
    if (std::find(found.begin(), found.end(), index) == found.end()) found.push_back(index);
  }
  return found;
}

// What the copy needs at most; whether it gets it shows while it is made.
Result<> PoolImpl::check_fits(const ViewName& name, const Object& volume,
                              const std::vector<std::uint32_t>& members) {
  std::uint64_t needed = static_cast<std::uint64_t>(volume.branch->mapped.load());
  // Holes of an image need nothing. Where its file system compresses, this is too little.
  if (const std::uint32_t base = volume.branch->base.member; base != 0 && engine_->members().has_base(base))
    needed = std::min(needed, blocks_for(engine_->members().base(base).allocated_bytes()).value());
  std::uint64_t free = engine_->allocator().free_blocks();
  std::string where = "the pool";
  if (!members.empty()) {
    free = 0;
    for (const std::uint32_t member : members) free += engine_->allocator().free_blocks(member);
    where = members.size() == 1 ? engine_->members().path(members[0]) : "those members";
  }
  if (needed <= free) return {};
  return failure(ErrorKind::no_space,
                 fmt::format("{}/{}: a copy needs {}, {} has {} free (vsnap pool add{})", name_, name.text(),
                             format_size(needed * kBlockBytes), where, format_size(free * kBlockBytes),
                             members.empty() ? "" : ", or --to another member"));
}

void PoolImpl::insert_full(SQLite::Database& db, const NewSnapshot& made) {
  Branch& own = *made.own;
  own.id = BranchId(catalog::take_number(db, "next_branch"));
  own.copy->snapshot = made.object->id;
  catalog::insert_branch(db, own);
  catalog::store_copy(db, own.id, *own.copy);
  engine_->index().start_sweep(own.id); // held until the copy has ended
}

// One that is under way is given up: clones see what it lacks through the parents.
void PoolImpl::let_copy_go(SQLite::Database& db, const Object& snapshot) {
  std::optional<FullCopy> copy;
  {
    MutexLock lock(objects_.mutex());
    copy = snapshot.branch->copy;
  }
  if (!copy || copy->snapshot != snapshot.id) return;
  copy->snapshot.reset();
  if (copy->finished())
    catalog::erase_copy(db, snapshot.branch->id);
  else
    catalog::store_copy(db, snapshot.branch->id, *copy);
}

void PoolImpl::forget_copy_of(const Object& snapshot) {
  auto& copy = snapshot.branch->copy;
  if (!copy || copy->snapshot != snapshot.id) return;
  if (copy->finished())
    copy.reset();
  else
    copy->snapshot.reset();
}

Result<> PoolImpl::check_not_copying(const Object& object) {
  if (!object.branch->being_copied()) return {};
  const std::string name = fmt::format("{}/{}", name_, objects_.name_of(object).text());
  return failure(ErrorKind::busy,
                 fmt::format("{0}: is being copied (vsnap wait {0}; vsnap info {0} says how far)", name));
}

// A full-sized snapshot, or a volume whose copy is still under way.
Result<ObjectPtr> PoolImpl::copying_object(const ViewName& name) {
  VSNAP_TRY_ASSIGN(ObjectPtr object, object_named(name));
  MutexLock lock(objects_.mutex());
  const auto& copy = object->branch->copy;
  if (copy && (copy->snapshot == object->id || (!copy->snapshot && object->kind == ViewKind::volume)))
    return object;
  return failure(
      ErrorKind::failed, EINVAL,
      fmt::format("{}/{}: is no full-sized snapshot (vsnap snapshot --full makes one)", name_, name.text()));
}

Result<> PoolImpl::set_copy(const ViewName& name, const CopySettings& settings) {
  MutexLock config(config_mutex_);
  VSNAP_TRY(engine_->check_writable());
  VSNAP_TRY_ASSIGN(const ObjectPtr object, copying_object(name));
  MutexLock commit(engine_->commit_mutex()); // pieces count under it
  Branch& branch = *object->branch;
  FullCopy changed;
  {
    MutexLock lock(objects_.mutex());
    changed = *branch.copy;
  }
  if (changed.finished()) {
    return failure(
        ErrorKind::failed, EINVAL,
        fmt::format("{}/{}: its copy is complete; there is nothing to change", name_, name.text()));
  }
  changed.paused = settings.paused.value_or(changed.paused);
  changed.bytes_per_second = settings.bytes_per_second.value_or(changed.bytes_per_second);
  changed.not_before_ns = 0;
  changed.trouble.clear();
  VSNAP_TRY(engine_->transact([&](SQLite::Database& db, std::vector<PlaceRun>&) -> Result<> {
    catalog::store_copy(db, branch.id, changed);
    return {};
  }));
  {
    MutexLock lock(objects_.mutex());
    branch.copy = changed;
  }
  copying_wake_.notify_all();
  return {};
}

Result<ViewInfo> PoolImpl::split(const ViewName& from, const std::string& new_volume) {
  MutexLock config(config_mutex_);
  VSNAP_TRY(check_room());
  VSNAP_TRY_ASSIGN(const ObjectPtr snapshot, object_named(from));
  VSNAP_TRY(check_free({new_volume, {}}));
  const ObjectPtr volume = make_volume(new_volume, snapshot->size_bytes.load());
  {
    MutexLock lock(objects_.mutex());
    const auto& copy = snapshot->branch->copy;
    if (snapshot->kind != ViewKind::snapshot || !copy || copy->snapshot != snapshot->id) {
      return failure(
          ErrorKind::usage,
          fmt::format("{0}/{1}: is not full-sized, its blocks are its volume's as well (vsnap clone "
                      "{0}/{1} {2} makes a volume that shares them; vsnap snapshot --full)",
                      name_, from.text(), new_volume));
    }
    VSNAP_TRY(check_not_promised(*snapshot));
    volume->branch = snapshot->branch;
    volume->mode = snapshot->volume->mode;
    volume->uid = snapshot->volume->uid;
    volume->gid = snapshot->volume->gid;
  }
  VSNAP_TRY(hold_back(*snapshot));
  if (auto done = point_at_branch(snapshot, volume); !done) {
    MutexLock lock(objects_.mutex());
    snapshot->withheld = false;
    return Failure(done.error());
  }
  tell_entry(from.text());
  tell_entry(new_volume);
  MutexLock lock(objects_.mutex());
  return objects_.describe(*volume);
}

// The volume takes the place of the snapshot, and writes to its branch from the next number on.
Result<> PoolImpl::point_at_branch(const ObjectPtr& snapshot, const ObjectPtr& volume) {
  MutexLock commit(engine_->commit_mutex());
  Branch& branch = *snapshot->branch;
  const Version number = next(branch.version());
  const auto mapped = static_cast<std::int64_t>(snapshot->mapped_blocks);
  VSNAP_TRY(configure_locked([&](SQLite::Database& db) -> Result<> {
    volume->id = ObjectId(catalog::take_number(db, "next_object"));
    let_copy_go(db, *snapshot);
    catalog::erase(db, *snapshot);
    catalog::update_branch(db, branch.id, number);
    catalog::set_mapped(db, branch.id, mapped);
    catalog::insert_volume(db, *volume);
    return {};
  }));
  std::shared_ptr<VolumeIo> stale; // destroyed without the lock
  MutexLock lock(objects_.mutex());
  stale = forget_replaced(snapshot);
  branch.number.store(number.value());
  branch.mapped.store(mapped);
  branch.has_head = true;
  branch.set_floor();
  objects_.add(volume);
  return {};
}

} // namespace vsnap
