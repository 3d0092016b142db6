// What the limit on the space of a volume's snapshots asks for: counting it, making room, and saying how full
// it is. snapshot_limit.h has what counts.
#include <fmt/format.h>
#include <algorithm>

#include "core/log.h"
#include "core/planted.h"
#include "core/pool_impl.h"
#include "core/wait_listener.h"

namespace vsnap {

// ---- counting ----

std::set<BranchId> PoolImpl::branches_of_snapshots(const Object& volume) {
  std::set<BranchId> branches;
  for (const ObjectPtr& snapshot : objects_.snapshots(volume)) {
    const auto& copy = snapshot->branch->copy;
    if (!copy || copy->snapshot != snapshot->id) branches.insert(snapshot->branch->id);
  }
  return branches;
}

// The figure of the moment at which the gate was drained is compared with the catalog, which has everything
// up to then and stands still under the commit lock; writers go on beside it. Who asks may hold nothing that
// keeps the volume, but its branch stays while it has the commit lock and there is the volume.
Result<bool> PoolImpl::count_snapshots_of(const ObjectPtr& volume) {
  SnapshotLimit& limit = volume->snapshot_limit;
  for (;;) {
    VSNAP_TRY(engine_->commit()); // so that little is left for when writes are held
    MutexLock commit(engine_->commit_mutex());
    {
      MutexLock lock(objects_.mutex());
      if (objects_.find(volume->id) != volume) return false;
    }
    if (limit.is_exact() || !limit.active()) return true; // somebody else has counted
    IoGate& gate = volume->branch->gate;
    const bool held = !planted(Fault::counted_while_written);
    std::optional<WritesHeld> noted;
    if (held) {
      noted.emplace(env_);
      gate.close();
      gate.drain();
    }
    const std::uint64_t line = engine_->log().last();
    const SnapshotLimit::Count count = limit.begin_count();
    auto committed = engine_->commit_with({});
    if (held) gate.open();
    noted.reset();
    VSNAP_TRY(committed);
    if (engine_->committed() < line) continue; // it gave way to a snapshot
    const Family family = sweeper_->family();
    std::set<BranchId> line_of_branches;
    {
      MutexLock lock(objects_.mutex());
      line_of_branches = branches_of_snapshots(*volume);
    }
    VSNAP_TRY_ASSIGN(const std::uint64_t kept,
                     sweeper_->kept_beside(family, volume->branch->id, std::move(line_of_branches)));
    if (limit.end_count(count, kept)) return true;
  }
}

std::vector<ObjectPtr> PoolImpl::limited_volumes() {
  std::vector<ObjectPtr> limited;
  MutexLock lock(objects_.mutex());
  for (const auto& [id, volume] : with_properties_) {
    apply_properties(volume); // the size may be another
    if (volume->snapshot_limit.active()) limited.push_back(volume);
  }
  return limited;
}

void PoolImpl::count_snapshot_space(Figures wanted) {
  if (!engine_->check_writable()) return;
  for (const ObjectPtr& volume : limited_volumes()) {
    const SnapshotLimit& limit = volume->snapshot_limit;
    if (wanted == Figures::exact ? limit.is_exact() : limit.is_known()) continue;
    if (auto counted = count_snapshots_of(volume); !counted)
      log::warning("{}: counting what its snapshots use: {}", full_name(*volume), counted.error().message);
  }
}

// Pins went, or branches are others.
void PoolImpl::note_pins_gone() {
  for (const ObjectPtr& volume : limited_volumes()) volume->snapshot_limit.may_be_less();
}

void PoolImpl::note_branches_changed() {
  for (const ObjectPtr& volume : limited_volumes()) volume->snapshot_limit.forget();
}

// ---- making room ----

Failure PoolImpl::no_snapshot_room(const Object& volume) {
  MutexLock lock(objects_.mutex());
  const SnapshotLimit& limit = volume.snapshot_limit;
  return failure(ErrorKind::no_space,
                 fmt::format("{0}/{1}: its snapshots use all of their {2} (vsnap rm some, or vsnap set "
                             "{0}/{1} snapshot-limit=SIZE)",
                             name_, volume.name, format_size(limit.most() * kBlockBytes)));
}

Result<bool> PoolImpl::has_snapshot_room(const ObjectPtr& volume) {
  {
    MutexLock lock(objects_.mutex());
    apply_properties(volume); // the size may be another
  }
  for (;;) {
    const SnapshotLimit::Room room = volume->snapshot_limit.room();
    if (room != SnapshotLimit::Room::unknown) return room == SnapshotLimit::Room::some;
    VSNAP_TRY_ASSIGN(const bool counted, count_snapshots_of(volume));
    if (!counted) return true; // nothing limits what is gone
  }
}

Result<> PoolImpl::make_snapshot_room(const ObjectPtr& volume) {
  const RoomMaker here(*this);
  SnapshotLimit& limit = volume->snapshot_limit;
  for (;;) {
    const std::uint64_t turn = limit.turn();
    VSNAP_TRY_ASSIGN(const bool room, has_snapshot_room(volume));
    if (room) return {};
    if (limit.on_full() == OnFull::drop_oldest) {
      MutexLock config(config_mutex_);
      VSNAP_TRY_ASSIGN(const bool made, drop_for_room(volume));
      if (made) return {};
    }
    const Failure full = no_snapshot_room(*volume);
    const std::atomic<bool>* const given_up = wait_given_up();
    const bool waits = limit.on_full() == OnFull::pause && !waits_no_more_.load() &&
                       (given_up == nullptr || !given_up->load());
    if (limit.tell_full()) log::warning("{}{}", full.value().message, waits ? "; writes wait" : "");
    if (!waits) return full;
    const Waits here_meanwhile;
    limit.wait(turn);
  }
}

void PoolImpl::stop_waiting() {
  waits_no_more_.store(true);
  look_for_room();
}

void PoolImpl::look_for_room() {
  for (const ObjectPtr& volume : limited_volumes()) volume->snapshot_limit.wake();
}

// Before the engine goes.
void PoolImpl::wait_for_room_makers() {
  stop_waiting();
  MutexLock lock(room_mutex_);
  while (room_makers_ > 0) room_made_.wait(room_mutex_);
}

PoolImpl::RoomMaker::RoomMaker(PoolImpl& pool) : pool_(pool) {
  MutexLock lock(pool_.room_mutex_);
  ++pool_.room_makers_;
}

PoolImpl::RoomMaker::~RoomMaker() {
  MutexLock lock(pool_.room_mutex_);
  --pool_.room_makers_;
  pool_.room_made_.notify_all();
}

// Whether there is room once all are gone that may go: else none does, for nothing. That takes a look at all
// rows of their branches, so a no is remembered: while the same ones may go, nobody woke who waits, and the
// figure is not less, what is kept beside them is not less either.
Result<bool> PoolImpl::dropping_makes_room(const ObjectPtr& volume) {
  SnapshotLimit& limit = volume->snapshot_limit;
  Futile now{limit.turn(), limit.used(), {}};
  {
    MutexLock lock(objects_.mutex());
    for (const ObjectPtr& snapshot : droppable(*volume)) {
      if (check_replaceable(*snapshot)) now.pins.insert({snapshot->branch->id, snapshot->number.value()});
    }
  }
  if (now.pins.empty()) return false;
  const auto known = futile_.find(volume->id);
  if (known != futile_.end() && known->second.turn == now.turn && known->second.pins == now.pins &&
      known->second.used <= now.used)
    return false;
  VSNAP_TRY(engine_->commit());
  VSNAP_TRY_ASSIGN(const std::uint64_t freed, sweeper_->freed_by(sweeper_->family(), now.pins));
  if (limit.used() < limit.most() + freed) return true;
  futile_[volume->id] = std::move(now);
  return false;
}

// Removes the oldest until there is room, if that can be.
Result<bool> PoolImpl::drop_for_room(const ObjectPtr& volume) {
  VSNAP_TRY_ASSIGN(const bool enough, dropping_makes_room(volume));
  if (!enough) return has_snapshot_room(volume);
  for (;;) {
    VSNAP_TRY_ASSIGN(const bool room, has_snapshot_room(volume)); // somebody else may have made some
    if (room) return true;
    VSNAP_TRY_ASSIGN(const bool dropped, drop_oldest(volume));
    if (!dropped) return false;
  }
}

// Those that removing frees something that counts, the oldest first; never the newest of all.
std::vector<ObjectPtr> PoolImpl::droppable(const Object& volume) {
  std::vector<ObjectPtr> sharing;
  for (const ObjectPtr& snapshot : objects_.snapshots(volume)) {
    const auto& copy = snapshot->branch->copy;
    if (!copy || copy->snapshot != snapshot->id) sharing.push_back(snapshot);
  }
  if (!sharing.empty()) sharing.pop_back();
  std::erase_if(sharing, [](const ObjectPtr& snapshot) {
    return snapshot->draining || snapshot->branch->pins.count(snapshot->number.value()) > 1;
  });
  return sharing;
}

Result<bool> PoolImpl::drop_oldest(const ObjectPtr& volume) {
  std::vector<std::pair<ObjectPtr, ViewName>> candidates;
  {
    MutexLock lock(objects_.mutex());
    for (const ObjectPtr& snapshot : droppable(*volume))
      candidates.emplace_back(snapshot, objects_.name_of(*snapshot));
  }
  for (const auto& [snapshot, name] : candidates) {
    // Open, held, or needed by what is under way.
    if (!plan_removal(std::span(&name, 1), {}) || !hold_back(*snapshot)) continue;
    auto erased = erase_objects({snapshot});
    {
      MutexLock lock(objects_.mutex());
      snapshot->withheld = false;
    }
    VSNAP_TRY(erased);
    log::info("{}/{}: removed, as the snapshots of {}/{} reached their limit", name_, name.text(), name_,
              name.volume);
    tell_entry(name.text());
    return true;
  }
  return false;
}

// Before one is made.
Result<> PoolImpl::check_snapshot_room(const ObjectPtr& volume) {
  VSNAP_TRY_ASSIGN(bool room, has_snapshot_room(volume));
  if (!room && volume->snapshot_limit.on_full() == OnFull::drop_oldest) {
    VSNAP_TRY_ASSIGN(room, drop_for_room(volume));
  }
  return room ? Result<>() : no_snapshot_room(*volume);
}

// First those that only look: nothing is dropped for what is refused then.
Result<> PoolImpl::check_snapshot_room(std::span<const NewSnapshot> made) {
  for (const bool drops : {false, true}) {
    for (const NewSnapshot& each : made) {
      const ObjectPtr& volume = each.object->volume;
      if ((volume->snapshot_limit.on_full() == OnFull::drop_oldest) == drops)
        VSNAP_TRY(check_snapshot_room(volume));
    }
  }
  return {};
}

// ---- saying so ----

void PoolImpl::warn_about_limits() {
  for (const ObjectPtr& volume : limited_volumes()) {
    SnapshotLimit& limit = volume->snapshot_limit;
    if (limit.wants_count() && !count_snapshots_of(volume)) continue; // said elsewhere
    if (limit.tell_mark() == 0) continue;
    log::warning(
        "{0}: its snapshots use {1} % of their limit (vsnap rm some, or vsnap set {0} snapshot-limit=SIZE)",
        full_name(*volume), limit.percent());
  }
}

std::string PoolImpl::full_name(const Object& volume) {
  MutexLock lock(objects_.mutex());
  return fmt::format("{}/{}", name_, volume.name);
}

// Of the fullest; empty: none is worth a word.
std::string PoolImpl::limit_health() {
  std::string fullest;
  unsigned percent = 0, waiting = 0;
  const std::vector<ObjectPtr> limited = limited_volumes();
  {
    MutexLock lock(objects_.mutex());
    for (const ObjectPtr& volume : limited) {
      const SnapshotLimit& limit = volume->snapshot_limit;
      if (volume->name.empty() || !limit.is_known() || limit.percent() <= percent) continue; // or unlinked
      fullest = volume->name;
      percent = limit.percent();
      waiting = limit.waiting();
    }
  }
  if (percent < SnapshotLimit::kWarnPercent) return {};
  return fmt::format(
      "warning: snapshots of {0}/{1} use {2} % of their limit{3} (vsnap rm some, or vsnap set "
      "{0}/{1} snapshot-limit=SIZE)",
      name_, fullest, percent, waiting > 0 ? ", and writes wait" : "");
}

} // namespace vsnap
