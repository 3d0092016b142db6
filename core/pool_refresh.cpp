// Refresh: a snapshot takes the content that its volume has now. The new one is drawn as any snapshot, and in
// the same transaction takes the name of the old one, which goes as if it had been removed.
#include <fmt/format.h>

#include "core/pool_impl.h"

namespace vsnap {

// Whether a snapshot may become another, or a volume: whatever is to keep it as it is, says so here.
Result<> PoolImpl::check_replaceable(const Object& snapshot) {
  VSNAP_TRY(check_not_promised(snapshot));
  VSNAP_TRY(check_settled(snapshot));
  VSNAP_TRY(check_not_held(snapshot));
  return check_idle(snapshot);
}

Result<ViewInfo> PoolImpl::refresh(const ViewName& name) {
  const UntilGivenAgain given_again(env_);
  MutexLock config(config_mutex_);
  VSNAP_TRY(check_room());
  VSNAP_TRY_ASSIGN(const ObjectPtr fresh, new_snapshot(name));
  VSNAP_TRY_ASSIGN(const ObjectPtr old, object_named(name));
  std::vector<NewSnapshot> made(1);
  made[0].object = fresh;
  {
    MutexLock lock(objects_.mutex());
    VSNAP_TRY(check_replaceable(*old));
    VSNAP_TRY(check_settled(*fresh->volume));
    if (const auto& copy = old->branch->copy; copy && copy->snapshot == old->id) {
      FullCopy anew;
      anew.members = copy->members;
      anew.bytes_per_second = copy->bytes_per_second;
      made[0] = with_own_branch(fresh, std::move(anew));
    }
    made[0].replaces = old;
  }
  if (made[0].own) VSNAP_TRY(check_fits(name, *fresh->volume, made[0].own->copy->members));
  VSNAP_TRY(take_back_for_line(fresh->volume->id));
  VSNAP_TRY(hold_back(*old));
  if (auto done = draw_snapshots(made); !done) {
    MutexLock lock(objects_.mutex());
    old->withheld = false;
    return Failure(done.error());
  }
  background_wake_.notify_all();
  copying_wake_.notify_all();
  tell_entry(name.text());
  MutexLock lock(objects_.mutex());
  return objects_.describe(*fresh);
}

// Nobody opens it from now on.
Result<> PoolImpl::hold_back(Object& snapshot) {
  MutexLock lock(objects_.mutex());
  VSNAP_TRY(check_replaceable(snapshot));
  snapshot.withheld = true;
  return {};
}

void PoolImpl::erase_replaced(SQLite::Database& db, const Object& snapshot) {
  let_copy_go(db, snapshot);
  catalog::erase(db, snapshot);
  engine_->index().start_sweep(snapshot.branch->id);
}

// Clones that start from it keep its number. No head's floor becomes lower: the one that writes to its
// branch, if any, is that of its volume, of which a newer number was just taken.
std::shared_ptr<VolumeIo> PoolImpl::forget_replaced(const ObjectPtr& snapshot) {
  forget_copy_of(*snapshot);
  auto& pins = snapshot->branch->pins;
  pins.erase(pins.find(snapshot->number.value()));
  objects_.erase(snapshot);
  std::shared_ptr<VolumeIo> view;
  if (const auto found = views_.find(snapshot->id); found != views_.end()) {
    view = std::move(found->second);
    views_.erase(found);
  }
  return view;
}

} // namespace vsnap
