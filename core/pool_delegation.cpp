// Volumes that are delegated to a host: giving them, taking them back, and what becomes of those that never
// come back. delegation.h has the rules.
//
// Adopted volumes, and clones that see through one, are never delegated: adopting and releasing need nothing.
#include <fmt/format.h>
#include <algorithm>

#include "core/assert.h"
#include "core/catalog.h"
#include "core/delegation_rows.h"
#include "core/log.h"
#include "core/planted.h"
#include "core/pool_impl.h"
#include "core/wait_listener.h"

namespace vsnap {

namespace {

// The host is told again that it is to return one; longer than any of its writes should take.
constexpr std::int64_t kOverdue_ns = 5'000'000'000;
// Clocks are looked at that often by who waits; what is returned wakes them at once.
constexpr std::chrono::milliseconds kLook{100};
// "lost-" + this + "-" + number is a name, of kMaxNameLength at most.
constexpr std::size_t kMostOfHostName = 45;

bool sees(const Branch& branch, const Branch& other) {
  for (const Branch* link = &branch; link != nullptr; link = link->parent) {
    if (link == &other) return true;
  }
  return false;
}

} // namespace

// ---- the keeper ----

void PoolImpl::set_delegation_keeper(DelegationKeeper* keeper) {
  MutexLock lock(keeper_mutex_); // a call that is under way has ended then
  keeper_ = keeper;
}

bool PoolImpl::has_keeper() {
  MutexLock lock(keeper_mutex_);
  return keeper_ != nullptr;
}

void PoolImpl::tell_keeper(std::span<const DelegationTable::Entry> entries, bool overdue) {
  MutexLock lock(keeper_mutex_);
  if (keeper_ == nullptr) return;
  for (const DelegationTable::Entry& entry : entries) {
    if (!entry.storing && !entry.losing) keeper_->recall(entry.delegation, overdue);
  }
}

std::string PoolImpl::name_of_host(std::uint64_t id) {
  if (const auto all = hosts()) {
    for (const HostInfo& host : all->hosts) {
      if (host.id == id) return host.name;
    }
  }
  return "host"; // revoked since
}

// ---- giving ----

void PoolImpl::load_delegations(SQLite::Database& db) {
  MutexLock lock(objects_.mutex());
  std::vector<DelegationTable::Entry> found;
  for (const delegation_rows::Row& row : delegation_rows::load(db)) {
    DelegationTable::Entry entry;
    entry.delegation = row.delegation;
    entry.since_ns = row.since_ns;
    entry.from_before = entry.recalled = true;
    const ObjectPtr volume = objects_.find(row.delegation.volume);
    if (volume) entry.branch = volume->branch->id;
    // What was removed had been taken back before.
    entry.ended = !volume || volume->kind != ViewKind::volume || volume->name.empty();
    const ObjectPtr left = row.left ? objects_.find(*row.left) : nullptr;
    if (left && left->kind == ViewKind::snapshot) entry.left = row.left;
    found.push_back(std::move(entry));
  }
  delegations_.load(std::move(found));
}

bool PoolImpl::may_delegate(const Object& volume, std::uint32_t handles) {
  if (volume.kind != ViewKind::volume || volume.name.empty() || volume.withheld) return false;
  if (handles == 0 || volume.open_handles != handles) return false; // somebody else has it open
  return !head_may_move(volume);
}

// What this host's kernel has cached of the volume is stale from the host's first write on; nobody reads it
// here meanwhile. That it is gone is waited for without the lock: the kernel may wait for an operation that
// does.
Result<std::optional<Delegation>> PoolImpl::delegate(ObjectId id, std::uint64_t host, std::uint32_t handles) {
  std::optional<Delegation> given;
  {
    if (!config_mutex_.try_lock()) return std::nullopt; // for how long, nobody knows
    const MutexLock config(config_mutex_, std::adopt_lock);
    VSNAP_TRY_ASSIGN(given, give(id, host, handles));
  }
  if (!given) return std::nullopt;
  tell_content(id);
  settle();
  return given;
}

Result<std::optional<Delegation>> PoolImpl::give(ObjectId id, std::uint64_t host, std::uint32_t handles) {
  if (host == DelegationTable::kNobody || !has_keeper() || is_read_only() || !check_room())
    return std::nullopt;
  if (!engine_->members().all_direct()) return std::nullopt;
  DelegationTable::Entry given;
  VSNAP_TRY(engine_->db().read([&](SQLite::Database& db) -> Result<> {
    if (delegation_rows::known(db)) given.delegation = {delegation_rows::next_number(db), id, host};
    return {};
  }));
  if (given.delegation.number == 0) return std::nullopt;
  given.since_ns = env_.wall_clock_ns();
  given.storing = true;
  {
    // Who opens the volume counts as a handle first, and looks at the table then.
    MutexLock lock(objects_.mutex());
    const ObjectPtr volume = objects_.find(id);
    if (!volume || !may_delegate(*volume, handles)) return std::nullopt;
    given.branch = volume->branch->id;
    if (!delegations_.give(given)) return std::nullopt;
  }
  auto stored = engine_->sync();
  if (stored) stored = store_delegation({given.delegation, given.since_ns, std::nullopt});
  if (!stored) {
    delegations_.erase(given.delegation.number);
    return Failure(stored.error());
  }
  if (delegations_.stored(given.delegation.number)) return given.delegation;
  hurry_background();
  return std::nullopt;
}

// With those of the same volume that were returned, so that a crash leaves one of it to be asked for.
Result<> PoolImpl::store_delegation(const delegation_rows::Row& row) {
  std::vector<std::uint64_t> returned;
  for (const DelegationTable::Entry& entry : delegations_.entries()) {
    if (entry.ended && !entry.left && entry.delegation.volume == row.delegation.volume)
      returned.push_back(entry.delegation.number);
  }
  VSNAP_TRY(store_rows([&](SQLite::Database& db) -> Result<> {
    for (const std::uint64_t number : returned) delegation_rows::erase(db, number);
    delegation_rows::insert(db, row);
    return {};
  }));
  for (const std::uint64_t number : returned) {
    free_left_over(number);
    delegations_.erase(number);
  }
  return {};
}

// No change of what is seen: it needs no commit of anything else, and no generation.
Result<> PoolImpl::store_rows(const Engine::Step& rows) {
  const Engine::Hurry hurry(*engine_);
  MutexLock commit(engine_->commit_mutex());
  return engine_->transact([&](SQLite::Database& db, std::vector<PlaceRun>&) { return rows(db); });
}

// ---- taking back ----

// `config`: the caller holds the configuration lock, without which nobody can give up on what is lost.
Result<> PoolImpl::wait_for_return(std::span<const ObjectId> volumes, std::uint64_t but, bool config) {
  if (is_read_only()) return {}; // nothing is changed here, and nobody could be told
  std::optional<std::int64_t> told_ns;
  std::optional<Waits> waits; // others may be served meanwhile, unless they wait for the same
  for (;;) {
    if (options_.background) lose_old_delegations(); // its thread may wait for who waits here
    const DelegationTable::Standing standing = delegations_.recall(volumes, but);
    if (standing.entries.empty()) return {};
    VSNAP_TRY(check_will_return(standing.entries, config));
    const std::int64_t now_ns = env_.monotonic_ns();
    for (const DelegationTable::Entry& entry : standing.entries) {
      if (config && !told_ns) UntilGivenAgain::told(env_, entry.delegation.host);
    }
    if (!told_ns || now_ns - *told_ns >= kOverdue_ns) {
      tell_keeper(standing.entries, told_ns.has_value());
      told_ns = now_ns;
    }
    if (!config && !waits) waits.emplace();
    delegations_.wait(standing.turn, kLook);
  }
}

// Fails where waiting is of no use.
Result<> PoolImpl::check_will_return(std::span<const DelegationTable::Entry> standing, bool config) {
  for (const DelegationTable::Entry& entry : standing) {
    if (entry.losing) {
      VSNAP_TRY(engine_->check_writable());
      if (config || !entry.trouble.empty()) return lost_failure(entry);
    }
    const bool somebody_tells = entry.losing || has_keeper() || (entry.from_before && options_.background);
    if (somebody_tells && !waits_no_more_.load()) continue;
    const std::int64_t left_ns =
        snapshots_kept_until_ns_ - std::min(env_.monotonic_ns(), snapshots_kept_until_ns_);
    return failure(ErrorKind::busy,
                   fmt::format("{}/{}: host {} may still write to it, by what it was told before (try again "
                               "in {} s)",
                               name_, name_of_volume(entry.delegation.volume),
                               name_of_host(entry.delegation.host), left_ns / 1'000'000'000 + 1));
  }
  return {};
}

std::string PoolImpl::name_of_volume(ObjectId id) {
  MutexLock lock(objects_.mutex());
  const ObjectPtr volume = objects_.find(id);
  return volume ? objects_.name_of(*volume).text() : fmt::format("#{}", id.value());
}

Failure PoolImpl::lost_failure(const DelegationTable::Entry& entry) {
  const std::string host = name_of_host(entry.delegation.host);
  std::string text = fmt::format(
      "{0}/{1}: host {2} was lost while it wrote to it (vsnap lock ls {0}; vsnap "
      "lock break --fenced {0}/{1} {2}, once it is certain that it is off)",
      name_, name_of_volume(entry.delegation.volume), host);
  if (!entry.trouble.empty()) text += ": " + entry.trouble;
  return failure(ErrorKind::busy, std::move(text));
}

Result<> PoolImpl::take_back(std::span<const ObjectId> volumes) {
  return wait_for_return(volumes, DelegationTable::kNobody, true);
}

// What a lost host may still write would show in what is drawn now.
Result<> PoolImpl::check_not_lost(ObjectId volume) {
  const auto lost = delegations_.lost_of(volume);
  return lost ? lost_failure(*lost) : Result<>();
}

Result<> PoolImpl::check_not_left(ObjectId snapshot) {
  const auto lost = delegations_.that_left(snapshot);
  return lost ? lost_failure(*lost) : Result<>();
}

Result<> PoolImpl::take_back_for_line(std::span<const ObjectId> volumes) {
  for (const ObjectId volume : volumes) VSNAP_TRY(check_not_lost(volume));
  VSNAP_TRY(take_back(volumes));
  for (const ObjectId volume : volumes) VSNAP_TRY(check_not_lost(volume)); // it was lost meanwhile
  return {};
}

std::vector<ObjectId> PoolImpl::volumes_that_see(const Branch& branch) {
  std::vector<ObjectId> found;
  MutexLock lock(objects_.mutex());
  for (const ObjectPtr& object : objects_.everything()) {
    if (object->kind == ViewKind::volume && sees(*object->branch, branch)) found.push_back(object->id);
  }
  return found;
}

void PoolImpl::assert_taken_back(const Branch& branch) { VSNAP_ASSERT(!delegations_.stands_for(branch.id)); }

// ---- ending ----

Result<> PoolImpl::end_delegation(std::uint64_t host, std::uint64_t number) {
  if (delegations_.end(host, number)) hurry_background();
  return {};
}

Result<> PoolImpl::end_delegations(std::uint64_t host) {
  if (delegations_.end_all(host)) hurry_background();
  return {};
}

void PoolImpl::lose_delegations(std::uint64_t host) {
  // Who waits for one of them with the configuration lock gives that up. But who has it may wait for another
  // host, and the caller be the one that is to say when that is lost: so nobody waits for it here, but for
  // the background thread.
  const bool any = delegations_.lose(host);
  if (!options_.background)
    finish_delegations();
  else if (any)
    hurry_background();
}

// What the process before this one gave, and nobody has returned.
void PoolImpl::lose_old_delegations() {
  if (env_.monotonic_ns() < snapshots_kept_until_ns_) return;
  if (delegations_.lose_from_before()) hurry_background();
}

void PoolImpl::finish_delegations() {
  if (delegations_.is_losing()) { // whoever has the lock does not wait for those any more
    MutexLock config(config_mutex_);
    finish_delegations_locked();
  } else if (delegations_.has_ended() && config_mutex_.try_lock()) { // the rest is not urgent
    MutexLock config(config_mutex_, std::adopt_lock);
    finish_delegations_locked();
  }
}

void PoolImpl::finish_delegations_locked() {
  if (!engine_->check_writable()) return;
  for (const DelegationTable::Entry& entry : delegations_.entries()) {
    if (entry.storing || (!entry.ended && !(entry.losing && entry.stands()))) continue;
    const auto done = entry.ended ? clear_away(entry) : leave_behind(entry);
    if (done || !delegations_.note_trouble(entry.delegation.number, done.error().message)) continue;
    log::error("{}/{}: {} what host {} may still write: {}", name_, name_of_volume(entry.delegation.volume),
               entry.ended ? "letting go of" : "keeping", name_of_host(entry.delegation.host),
               done.error().message);
  }
}

ViewName PoolImpl::free_lost_name(const Object& volume, std::uint64_t host) {
  const std::string of_host = name_of_host(host).substr(0, kMostOfHostName);
  MutexLock lock(objects_.mutex());
  ViewName name = objects_.name_of(volume);
  unsigned n = 1;
  do name.snapshot = fmt::format("lost-{}-{}", of_host, n++);
  while (objects_.find(name));
  return name;
}

// The snapshot, its hold and the row that names it come in one transaction; until then the row keeps
// everybody away. The limit on the space of snapshots does not count here.
Result<> PoolImpl::leave_behind(const DelegationTable::Entry& entry) {
  const std::uint64_t number = entry.delegation.number;
  if (planted(Fault::lost_without_snapshot)) return clear_away(entry);
  ObjectPtr volume;
  {
    MutexLock lock(objects_.mutex());
    volume = objects_.find(entry.delegation.volume);
    VSNAP_ASSERT(volume && volume->kind == ViewKind::volume); // else it would have been taken back
  }
  const ViewName name = free_lost_name(*volume, entry.delegation.host);
  VSNAP_TRY_ASSIGN(const ObjectPtr snapshot, new_snapshot(name));
  const std::int64_t now_ns = env_.wall_clock_ns();
  snapshot->holds[kLostTag] = now_ns;
  std::vector<NewSnapshot> made;
  made.push_back({snapshot, nullptr, nullptr});
  VSNAP_TRY(draw_snapshots(made, [&](SQLite::Database& db) -> Result<> {
    hold_rows::insert(db, {snapshot->id, kLostTag, now_ns});
    delegation_rows::set_left(db, number, snapshot->id);
    return {};
  }));
  delegations_.set_left(number, snapshot->id);
  if (planted(Fault::left_over_freed)) free_left_over(number);
  tell_entry(name.text());
  log::warning(
      "{0}/{1}: host {2} was lost while it wrote to it; what it may still write to stays, as {0}/{3}, "
      "until it is back or fenced (vsnap lock ls {0})",
      name_, name.volume, name_of_host(entry.delegation.host), name.text());
  return {};
}

// The row, and the snapshot that there may be.
Result<> PoolImpl::clear_away(const DelegationTable::Entry& entry) {
  ObjectPtr left;
  bool goes = false; // nobody else holds it
  bool is_open = false;
  std::string name;
  {
    MutexLock lock(objects_.mutex());
    if (entry.left) left = objects_.find(*entry.left);
    if (left) {
      if (!check_not_promised(*left)) return {}; // later
      name = objects_.name_of(*left).text();
      goes = left->holds.size() == 1;
      is_open = left->open_handles > 0;
      left->withheld = goes && !is_open;
    }
  }
  const auto rows = [&](SQLite::Database& db) -> Result<> {
    if (left) hold_rows::erase(db, left->id, kLostTag);
    if (goes && is_open) catalog::rename(db, *left, "");
    delegation_rows::erase(db, entry.delegation.number);
    return {};
  };
  auto done = !left ? store_rows(rows) : goes && !is_open ? erase_objects({left}, rows) : configure(rows);
  {
    MutexLock lock(objects_.mutex());
    if (left) left->withheld = false;
    VSNAP_TRY(done);
    if (left) left->holds.erase(kLostTag);
    if (goes && is_open) objects_.rename(left, "");
    is_open = left && left->open_handles > 0;
  }
  free_left_over(entry.delegation.number);
  delegations_.erase(entry.delegation.number);
  if (goes) tell_entry(name);
  // Closed meanwhile, when it still had its name.
  {
    MutexLock lock(objects_.mutex());
    if (!goes || is_open || objects_.find(left->id) == nullptr) return {};
  }
  return erase_objects({left});
}

// ---- telling ----

std::vector<DelegationInfo> PoolImpl::delegations() {
  std::vector<DelegationInfo> infos;
  MutexLock lock(objects_.mutex());
  for (const DelegationTable::Entry& entry : delegations_.entries()) {
    const ObjectPtr volume = objects_.find(entry.delegation.volume);
    if (entry.ended || entry.storing || !volume) continue;
    DelegationInfo info{
        entry.delegation, DelegationState::held, entry.since_ns, objects_.name_of(*volume), {}};
    if (entry.recalled || entry.losing) info.state = DelegationState::recalled;
    if (const ObjectPtr left = entry.left ? objects_.find(*entry.left) : nullptr) {
      info.state = DelegationState::lost;
      info.left = objects_.name_of(*left);
    }
    infos.push_back(std::move(info));
  }
  return infos;
}

} // namespace vsnap
