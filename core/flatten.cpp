// Flatten: gives a clone places of its own for everything it still sees through its parent, then cuts the
// link.
//
// The copying (branch_copier.h) takes no lock and holds no I/O. Only the cut does, for a moment: every map in
// memory may name places of the parent and is loaded anew.
//
// From beginning to end the clone is neither removed nor rolled back, and of two volumes of which one starts
// from the other only one is flattened at a time, so that nothing is copied twice.
#include <fmt/format.h>
#include <algorithm>

#include "core/pool_impl.h"

namespace vsnap {

namespace {

bool starts_from(const Branch& branch, const Branch& ancestor) {
  for (const Branch* link = branch.parent; link != nullptr; link = link->parent) {
    if (link == &ancestor) return true;
  }
  return false;
}

} // namespace

Result<> PoolImpl::check_not_flattening(const Object& object) {
  if (!flattening_.contains(object.id)) return {};
  return failure(ErrorKind::busy, fmt::format("{}/{}: is being flattened (wait until that has ended)", name_,
                                              objects_.name_of(object).text()));
}

// Parents change under the config lock. Returns the most bytes that there may be to copy.
Result<std::uint64_t> PoolImpl::begin_flatten(const ObjectPtr& volume) {
  Branch* const branch = volume->branch;
  {
    MutexLock lock(objects_.mutex());
    if (branch->parent == nullptr) {
      return failure(
          ErrorKind::failed, EINVAL,
          fmt::format("{}/{}: shares nothing with an origin; there is nothing to do", name_, volume->name));
    }
    VSNAP_TRY(check_not_copying(*volume));
    VSNAP_TRY(check_settled(*volume));
    for (const ObjectId id : flattening_) {
      const Object& other = *objects_.find(id);
      if (&other == volume.get()) VSNAP_TRY(check_not_flattening(other));
      if (starts_from(*branch, *other.branch) || starts_from(*other.branch, *branch)) {
        return failure(ErrorKind::busy, fmt::format("{}/{}: {}/{}, of the same origin, is being flattened "
                                                    "(wait until that has ended)",
                                                    name_, volume->name, name_, other.name));
      }
    }
    VSNAP_TRY(check_not_exported(*branch));
    VSNAP_TRY(check_not_promised(*volume));
    branch->flattening = true;
  }
  // Nobody is given them from here on.
  auto begun = take_back(volumes_that_see(*branch));
  if (begun) begun = start_flatten(volume);
  if (!begun) set_flattening(*branch, false);
  VSNAP_TRY(begun);
  return static_cast<std::uint64_t>(branch->mapped.load()) * kBlockBytes;
}

void PoolImpl::set_flattening(Branch& branch, bool flattening) {
  MutexLock lock(objects_.mutex());
  branch.flattening = flattening;
}

Result<> PoolImpl::start_flatten(const ObjectPtr& volume) {
  Branch* const branch = volume->branch;
  MutexLock commit(engine_->commit_mutex());
  VSNAP_TRY(engine_->transact([&](SQLite::Database&, std::vector<PlaceRun>&) -> Result<> {
    engine_->index().start_sweep(branch->id); // done at last by whoever opens the pool after a crash
    return {};
  }));
  VSNAP_TRY(hold_sweep(*branch, true));
  flattening_.insert(volume->id);
  return {};
}

Result<> PoolImpl::flatten(const std::string& name, const Progress& progress) {
  ObjectPtr volume;
  std::uint64_t most_bytes = 0;
  {
    MutexLock config(config_mutex_);
    VSNAP_TRY(check_room());
    VSNAP_TRY_ASSIGN(volume, volume_named(name));
    VSNAP_TRY_ASSIGN(most_bytes, begin_flatten(volume));
  }
  Result<> done = copy_inherited(volume, most_bytes, progress);
  MutexLock config(config_mutex_);
  if (done) {
    MutexLock commit(engine_->commit_mutex());
    done = cut_parent(*volume->branch, {});
  }
  flattening_.erase(volume->id);
  set_flattening(*volume->branch, false);
  // Copies that a newer version of the head has overtaken meanwhile go with the sweep.
  Result<> released = hold_sweep(*volume->branch, false);
  background_wake_.notify_all();
  return done ? released : done;
}

Result<> PoolImpl::copy_inherited(const ObjectPtr& volume, std::uint64_t most_bytes,
                                  const Progress& progress) {
  BranchCopier copier(*engine_, objects_);
  std::uint64_t done_bytes = 0;
  for (BlockIndex at(0);;) {
    auto piece = copier.copy(volume->branch->id, at, {}, {});
    if (!piece && piece.error().kind == ErrorKind::no_space) {
      return failure(ErrorKind::no_space, fmt::format("{}/{}: the pool is full (vsnap pool add, then flatten "
                                                      "again)",
                                                      name_, volume->name));
    }
    VSNAP_TRY(piece);
    done_bytes += bytes(BlockCount(piece->blocks));
    if (progress && piece->blocks > 0 &&
        !progress(std::min(done_bytes, most_bytes), std::max(most_bytes, done_bytes))) {
      return failure(ErrorKind::failed, ECANCELED,
                     fmt::format("{}/{}: given up; what was copied is used next time", name_, volume->name));
    }
    if (!piece->next) return {};
    at = *piece->next;
  }
}

Result<> PoolImpl::hold_sweep(const Branch& branch, bool hold) {
  return engine_->db().read([&](SQLite::Database&) -> Result<> {
    engine_->index().hold_sweep(branch.id, hold);
    return {};
  });
}

Result<> PoolImpl::cut_parent(Branch& branch, const Engine::Step& step) {
  Branch* const parent = branch.parent;
  VSNAP_TRY(engine_->commit_with({})); // so that little is left for when writes are held
  std::vector<Branch*> branches;
  std::vector<std::shared_ptr<VolumeIo>> views;
  {
    MutexLock lock(objects_.mutex());
    branches = objects_.branches();
    for (const auto& [id, view] : views_) views.push_back(view);
  }
  for (Branch* const b : branches) {
    if (b == &branch || starts_from(*b, branch)) assert_taken_back(*b);
  }
  for (Branch* const b : branches) b->gate.close();
  for (Branch* const b : branches) b->gate.drain();
  const Version number = branch.parent_number;
  auto done = configure_locked([&](SQLite::Database& db) -> Result<> {
    catalog::set_parent(db, branch.id, nullptr, Version(0));
    engine_->index().start_sweep(parent->id);
    return step ? step(db) : Result<>();
  });
  if (done) {
    // Under the database's lock, where maps are loaded. One that was loaded just before still looked at the
    // parent, where it found nothing that the clone does not have itself.
    done = engine_->db().read([&](SQLite::Database&) -> Result<> {
      MutexLock lock(objects_.mutex());
      branch.parent = nullptr;
      parent->pins.erase(parent->pins.find(number.value()));
      return {};
    });
    for (const auto& view : views) {
      Branch* const head = view->map().head ? view->map().branch : nullptr;
      engine_->cache().drop_all(view->map(), [&] {
        if (head == parent) parent->set_floor();
      });
    }
    parent->set_floor();
  }
  for (Branch* const b : branches) b->gate.open();
  engine_->cache().collect();
  if (done) note_branches_changed();
  return done;
}

} // namespace vsnap
