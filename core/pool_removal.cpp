// Removal of volumes and snapshots, what it frees, and the sweep that frees it.
#include <fmt/format.h>
#include <algorithm>

#include "core/pool_impl.h"

namespace vsnap {

// Lets go of pins (and, in `step`, of their rows): where that lowers the floor of a head, versions that were
// frozen become its own, so its map is loaded anew; no write may be on its way through the old one.
Result<> PoolImpl::release_pins(const std::vector<Pin>& pins, const Engine::Step& step) {
  std::map<Branch*, Viewers> after;
  std::vector<Branch*> lowered;
  {
    MutexLock lock(objects_.mutex());
    for (const Pin& pin : pins) {
      Branch* const branch = objects_.branch(pin.branch);
      Viewers& viewers = after.emplace(branch, *branch).first->second;
      if (!pin.number)
        viewers.has_head = false;
      else if (const auto found = viewers.pins.find(*pin.number); found != viewers.pins.end())
        viewers.pins.erase(found);
    }
    for (const auto& [branch, viewers] : after) {
      const std::int64_t floor =
          viewers.pins.empty() ? kNoFloor : static_cast<std::int64_t>(*viewers.pins.rbegin());
      if (viewers.has_head && floor < branch->floor.load()) lowered.push_back(branch);
    }
  }
  for (Branch* const branch : lowered) branch->gate.close();
  for (Branch* const branch : lowered) branch->gate.drain();
  auto done = engine_->commit_with(step);
  if (done) {
    {
      MutexLock lock(objects_.mutex());
      for (const auto& [branch, viewers] : after) static_cast<Viewers&>(*branch) = viewers;
    }
    for (Branch* const branch : lowered) {
      if (const auto view = head_view(*branch))
        engine_->cache().drop_all(view->map(), [branch] { branch->set_floor(); });
      else
        branch->set_floor();
    }
  }
  for (Branch* const branch : lowered) branch->gate.open();
  engine_->cache().collect();
  if (done) note_pins_gone();
  return done;
}

Result<PoolImpl::RemovalSet> PoolImpl::plan_removal(std::span<const ViewName> names,
                                                    const RemoveOptions& options) {
  RemovalSet set;
  std::set<ObjectId> chosen;
  const auto add = [&](const ObjectPtr& object) {
    if (chosen.insert(object->id).second) set.objects.push_back(object);
  };
  std::set<std::string> named;
  for (const ViewName& name : names) named.insert(name.text());
  for (const ViewName& name : names) {
    VSNAP_TRY_ASSIGN(const ObjectPtr object, object_named(name));
    add(object);
    MutexLock lock(objects_.mutex());
    if (object->kind != ViewKind::volume) continue;
    for (const ObjectPtr& snapshot : objects_.snapshots(*object)) {
      if (options.recursive) {
        add(snapshot);
      } else if (!named.contains(objects_.name_of(*snapshot).text())) {
        return failure(ErrorKind::busy, fmt::format("{}/{}: has snapshots (vsnap rm -r removes them too)",
                                                    name_, name.text()));
      }
    }
  }
  MutexLock lock(objects_.mutex());
  for (const ObjectPtr& object : set.objects) {
    VSNAP_TRY(check_not_flattening(*object));
    VSNAP_TRY(check_settled(*object));
    if (!options.even_if_open) VSNAP_TRY(check_idle(*object));
    if (object->kind == ViewKind::volume) {
      if (objects_.has_unlinked_snapshot(*object)) {
        return failure(ErrorKind::busy,
                       fmt::format("{}/{}: a removed snapshot of it is still open", name_, object->name));
      }
      set.pins.insert({object->branch->id, std::nullopt});
    } else {
      VSNAP_TRY(check_not_held(*object));
      VSNAP_TRY(check_not_promised(*object));
      set.pins.insert({object->branch->id, object->number.value()});
    }
  }
  VSNAP_TRY(check_image_removal(set.objects, set.pins));
  return set;
}

namespace {

std::vector<ObjectId> volumes_among(const std::vector<ObjectPtr>& objects) {
  std::vector<ObjectId> volumes;
  for (const ObjectPtr& object : objects) {
    if (object->kind == ViewKind::volume) volumes.push_back(object->id);
  }
  return volumes;
}

} // namespace

Result<RemovalPlan> PoolImpl::remove(std::span<const ViewName> names, RemoveOptions options) {
  VSNAP_TRY(engine_->check_writable());
  VSNAP_TRY(finish_sweeps_of_images(names));
  RemovalPlan plan;
  if (options.dry_run || options.count_frees) {
    VSNAP_TRY_ASSIGN(plan, estimate_removal(names, options));
    if (options.dry_run) return plan;
  }
  const UntilGivenAgain given_again(env_);
  MutexLock config(config_mutex_);
  VSNAP_TRY_ASSIGN(const RemovalSet set, plan_removal(names, options));
  plan.removed.clear();
  plan.given_back.clear();
  std::vector<ObjectPtr> idle;
  std::vector<ObjectPtr> open;
  {
    MutexLock lock(objects_.mutex());
    for (const ObjectPtr& object : set.objects) {
      plan.removed.push_back(objects_.name_of(*object));
      if (object->kind == ViewKind::volume && object->branch->adopted())
        plan.given_back.push_back(object->branch->base.path);
      (object->open_handles > 0 ? open : idle).push_back(object);
    }
    for (const ObjectPtr& object : idle) object->withheld = true;
  }
  auto removed = take_back(volumes_among(set.objects));
  if (removed) removed = remove_planned(idle, open);
  if (!removed) {
    MutexLock lock(objects_.mutex());
    for (const ObjectPtr& object : idle) object->withheld = false;
    return Failure(removed.error());
  }
  for (const ViewName& name : plan.removed) tell_entry(name.text());
  return plan;
}

// What the removal would do. The scan of the index is done without the configuration lock.
Result<RemovalPlan> PoolImpl::estimate_removal(std::span<const ViewName> names,
                                               const RemoveOptions& options) {
  RemovalPlan plan;
  std::multiset<Pin> pins;
  {
    MutexLock config(config_mutex_);
    VSNAP_TRY_ASSIGN(const RemovalSet set, plan_removal(names, options));
    pins = set.pins;
    MutexLock lock(objects_.mutex());
    for (const ObjectPtr& object : set.objects) {
      plan.removed.push_back(objects_.name_of(*object));
      if (object->kind == ViewKind::volume && object->branch->adopted())
        plan.given_back.push_back(object->branch->base.path);
    }
  }
  VSNAP_TRY(engine_->commit());
  VSNAP_TRY_ASSIGN(const std::uint64_t freed, sweeper_->freed_by(sweeper_->family(), pins));
  plan.frees_bytes = freed * kBlockBytes;
  return plan;
}

Result<> PoolImpl::remove_planned(const std::vector<ObjectPtr>& idle, const std::vector<ObjectPtr>& open) {
  if (!open.empty()) {
    VSNAP_TRY(configure([&](SQLite::Database& db) -> Result<> {
      for (const ObjectPtr& object : open) catalog::rename(db, *object, "");
      return {};
    }));
  }
  std::vector<ObjectPtr> gone = idle;
  {
    MutexLock lock(objects_.mutex());
    for (const ObjectPtr& object : open) {
      objects_.rename(object, "");
      if (object->open_handles == 0) gone.push_back(object); // closed meanwhile, when it still had its name
    }
  }
  return gone.empty() ? Result<>() : erase_objects(gone);
}

Result<> PoolImpl::erase_objects(const std::vector<ObjectPtr>& objects, const Engine::Step& also) {
  std::vector<Pin> pins;
  for (const ObjectPtr& object : objects) {
    pins.push_back({object->branch->id,
                    object->kind == ViewKind::volume ? std::nullopt : std::optional(object->number.value())});
  }
  std::vector<std::shared_ptr<VolumeIo>> views; // destroyed without the locks
  {
    MutexLock commit(engine_->commit_mutex());
    VSNAP_TRY(release_pins(pins, with_generation([&](SQLite::Database& db) -> Result<> {
                             for (const ObjectPtr& object : objects) {
                               let_copy_go(db, *object);
                               catalog::erase(db, *object);
                               if (object->kind == ViewKind::volume && object->branch->adopted())
                                 base_rows::erase(db, object->branch->base.member);
                               delegation_rows::erase_all(db, object->id); // as a volume
                               engine_->index().start_sweep(object->branch->id);
                             }
                             return also ? also(db) : Result<>();
                           })));
    for (const ObjectPtr& object : objects) {
      if (object->kind == ViewKind::volume && object->branch->adopted()) forget_base(*object->branch);
    }
    // Before a sweep can free the branches: nobody finds an object without its branch.
    MutexLock lock(objects_.mutex());
    for (const ObjectPtr& object : objects) {
      forget_copy_of(*object);
      objects_.erase(object);
      for (const std::uint64_t number : delegations_.erase_all(object->id)) free_left_over(number);
      with_properties_.erase(object->id);
      futile_.erase(object->id);
      if (const auto found = views_.find(object->id); found != views_.end()) {
        views.push_back(std::move(found->second));
        views_.erase(found);
      }
    }
  }
  background_wake_.notify_all();
  return {};
}

// The analysis does not see that the sweeper's engine is ours.
Result<bool> PoolImpl::sweep_step() VSNAP_NO_THREAD_SAFETY_ANALYSIS {
  MutexLock commit(engine_->commit_mutex());
  VSNAP_TRY(release_unwanted_copies());
  return sweeper_->step();
}

Result<> PoolImpl::wait_for_removals(const Progress& progress) {
  VSNAP_TRY_ASSIGN(const std::uint64_t total, sweeper_->remaining());
  for (std::uint64_t round = 0;; ++round) {
    VSNAP_TRY_ASSIGN(const bool more, sweep_step());
    if (!more) break;
    if (!progress || round % 16 != 0) continue;
    VSNAP_TRY_ASSIGN(const std::uint64_t remaining, sweeper_->remaining());
    if (!progress(total - std::min(total, remaining), total))
      return failure(ErrorKind::failed, ECANCELED, "given up waiting");
  }
  if (progress) static_cast<void>(progress(total, total));
  return {};
}

namespace {

// What removing exactly one view frees; looks at each branch once.
class FreedAlone {
 public:
  FreedAlone(Sweeper& sweeper, const Family& family) : sweeper_(sweeper), family_(family) {}

  // In blocks. A branch that loses its last viewer lets go of its parent, and so on.
  Result<std::uint64_t> by(const Pin& view) {
    std::uint64_t freed = 0;
    for (std::optional<Pin> pin = view; pin;) {
      const auto found = family_.find(pin->branch);
      if (found == family_.end()) break; // made since
      const Relative& viewers = found->second;
      if (pin->number && viewers.pins.count(*pin->number) > 1) break; // somebody else sees the same
      VSNAP_TRY_ASSIGN(const BranchUsage* const usage, usage_of(pin->branch));
      if (!pin->number)
        freed += usage->only_head;
      else if (const auto only = usage->only_pin.find(*pin->number); only != usage->only_pin.end())
        freed += only->second;
      const bool last = viewers.pins.size() + (viewers.has_head ? 1 : 0) == 1;
      pin = last ? viewers.parent : std::nullopt;
    }
    return freed;
  }

 private:
  Result<const BranchUsage*> usage_of(BranchId branch) {
    auto found = usage_.find(branch);
    if (found == usage_.end()) {
      VSNAP_TRY_ASSIGN(BranchUsage usage, sweeper_.usage(family_, branch));
      found = usage_.emplace(branch, std::move(usage)).first;
    }
    return &found->second;
  }

  Sweeper& sweeper_;
  const Family& family_;
  std::map<BranchId, BranchUsage> usage_;
};

} // namespace

Result<DiskUsage> PoolImpl::disk_usage() {
  VSNAP_TRY(engine_->check_writable() ? engine_->commit_if_needed() : Result<>());
  // No configuration lock: this reads the whole index. What changes meanwhile may show as before or after.
  const Family family = sweeper_->family();
  DiskUsage usage;
  std::vector<Pin> pins;
  {
    MutexLock lock(objects_.mutex());
    for (const ObjectPtr& object : objects_.all()) {
      const auto number = object->kind == ViewKind::volume || object->draining
                              ? std::nullopt
                              : std::optional(object->number.value());
      usage.rows.push_back({objects_.describe(*object), 0});
      pins.push_back({object->branch->id, number});
    }
  }
  FreedAlone freed(*sweeper_, family);
  for (std::size_t i = 0; i < pins.size(); ++i) {
    VSNAP_TRY_ASSIGN(const std::uint64_t blocks, freed.by(pins[i]));
    usage.rows[i].frees_bytes = blocks * kBlockBytes;
  }
  usage.space = engine_->space();
  VSNAP_TRY_ASSIGN(const std::uint64_t dead, sweeper_->dead_blocks(family));
  usage.space.freeing_bytes = dead * kBlockBytes;
  return usage;
}

} // namespace vsnap
