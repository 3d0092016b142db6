#include "core/pool.h"

#include <fmt/format.h>
#include <algorithm>
#include <array>
#include <system_error>

#include "core/late_reader.h"
#include "core/log.h"
#include "core/member_set.h"
#include "core/new_member.h"
#include "core/pool_impl.h"
#include "core/probe.h"

namespace vsnap {

// ---- handles ----

ViewHandle& ViewHandle::operator=(ViewHandle&& other) noexcept {
  if (this != &other) {
    close();
    pool_ = other.pool_;
    view_ = std::move(other.view_);
    other.pool_ = nullptr;
  }
  return *this;
}

ViewHandle::~ViewHandle() { close(); }

void ViewHandle::close() {
  if (!view_) return;
  const std::shared_ptr<View> view = std::move(view_);
  view_.reset();
  if (pool_ != nullptr) pool_->handle_closed(*view);
  pool_ = nullptr;
}

// ---- create, identify, destroy ----

Result<> Pool::create(Env& env, const CreatePoolOptions& options) {
  VSNAP_TRY(check_name("pool", options.name));
  if (options.members.empty()) return failure(ErrorKind::usage, "a pool needs at least one member");
  if (options.members.size() > format::kMaxMembers)
    return failure(ErrorKind::usage, "a pool has at most 255 members");
  std::vector<std::pair<std::string, std::unique_ptr<File>>> files;
  std::uint64_t total = 0;
  std::vector<std::string> made;
  const auto undo = [&](Failure why) {
    files.clear();
    for (const std::string& path : made) static_cast<void>(env.remove_file(path));
    return why;
  };
  for (const MemberSpec& spec : options.members) {
    const bool missing = spec.size_bytes > 0 && !env.open_file(spec.path, {});
    auto file = open_new_member(env, spec, options.force, options.dry_run);
    if (!file) return undo(Failure(file.error()));
    if (missing && !options.dry_run) made.push_back(spec.path);
    const std::uint64_t size = *file ? (*file)->size_bytes() : spec.size_bytes;
    if (auto fits = check_member_size(spec.path, std::max(size, options.dry_run ? spec.size_bytes : 0));
        !fits) {
      return undo(Failure(fits.error()));
    }
    total += std::max(size, options.dry_run ? spec.size_bytes : 0);
    if (!*file) continue;
    for (const auto& [path, other] : files) {
      if (other->identity() == (*file)->identity()) {
        return undo(
            failure(ErrorKind::usage, fmt::format("{}: the same file or device as {}", spec.path, path)));
      }
    }
    if (auto locked = lock_member(env, **file, spec.path, 0); !locked) return undo(Failure(locked.error()));
    files.emplace_back(spec.path, std::move(*file));
  }
  if (total < format::kMinPoolBytes) {
    return undo(
        failure(ErrorKind::usage, fmt::format("{} in all is too small for a pool (at least {})",
                                              format_size(total), format_size(format::kMinPoolBytes))));
  }
  if (options.dry_run) return {};
  for (const auto& [path, file] : files) {
    // libblkid opens the path again; a device that is claimed by us would refuse it, so the header is cleared
    // by us.
    if (!file->is_block_device()) {
      if (auto wiped = wipe_signatures(path); !wiped) return undo(Failure(wiped.error()));
    }
  }
  auto members = MemberSet::create(env, options.name, std::move(files));
  if (!members) return undo(Failure(members.error()));
  Engine engine(env, std::move(*members), 0);
  if (auto created = engine.create_catalog(); !created) return undo(Failure(created.error()));
  return {};
}

namespace {

Result<MemberIdentity> identity_on(File& file, const std::string& path) {
  VSNAP_TRY_ASSIGN(const Superblock superblock, newest_superblock(file, path, nullptr));
  return MemberIdentity{superblock.pool_name, superblock.pool_uuid,
                        superblock.roster[superblock.member_index].uuid, superblock.member_index,
                        static_cast<std::uint32_t>(superblock.roster.size())};
}

// A record that a killed process left is told from one that counts by the lock alone: process ids mean
// nothing across hosts and name spaces. Without a record the lock is not touched, and with one it is most
// likely taken; whoever wants it in the moment that it is had here tries again (lock_member).
std::optional<OwnerRecord> owner_on(File& file) {
  auto owner = read_owner(file);
  if (!owner) return owner;
  const auto locked = file.try_lock();
  if (locked && *locked) owner.reset();
  return owner;
}

Result<> check_uuid(const Superblock& layout, const std::string& expected) {
  if (expected.empty() || to_string(layout.pool_uuid) == expected) return {};
  return failure(
      ErrorKind::damaged,
      fmt::format("the members found belong to pool {} ({}), expected {} (vsnap pool attach with the "
                  "paths that the members have now)",
                  layout.pool_name, to_string(layout.pool_uuid), expected));
}

} // namespace

Result<MemberIdentity> Pool::identify(Env& env, const std::string& path) {
  VSNAP_TRY_ASSIGN(const auto file, env.open_file(path, {}));
  return identity_on(*file, path);
}

Result<MemberLook> Pool::look(Env& env, const std::string& path) {
  VSNAP_TRY_ASSIGN(const auto file, env.open_file(path, {.read_only = true}));
  return MemberLook{identity_on(*file, path), owner_on(*file)};
}

Result<> Pool::destroy(Env& env, const std::vector<std::string>& member_paths,
                       const std::string& expected_uuid) {
  VSNAP_TRY_ASSIGN(const auto members, MemberSet::open(env, member_paths, "command", 0));
  VSNAP_TRY(check_uuid(members->layout(), expected_uuid));
  const Uuid pool = members->layout().pool_uuid;
  VSNAP_TRY(members->erase_headers());
  static_cast<void>(Tail::remove(env, pool));
  return {};
}

Result<std::unique_ptr<Pool>> Pool::open(Env& env, OpenPoolOptions options) {
  std::optional<std::string> may_miss;
  if (options.degraded) may_miss = options.expected_uuid;
  VSNAP_TRY_ASSIGN(auto members,
                   MemberSet::open(env, options.member_paths, options.role, options.lock_wait_ms,
                                   options.direct, options.held_members, std::move(may_miss)));
  VSNAP_TRY(check_uuid(members->layout(), options.expected_uuid));
  auto pool = std::make_unique<PoolImpl>(env, std::move(options), std::move(members));
  VSNAP_TRY(pool->start());
  return std::unique_ptr<Pool>(std::move(pool));
}

// ---- open and close ----

PoolImpl::PoolImpl(Env& env, OpenPoolOptions options, std::unique_ptr<MemberSet> members)
    : env_(env), options_(std::move(options)) {
  const Superblock layout = members->layout();
  name_ = layout.pool_name;
  uuid_ = layout.pool_uuid;
  members->write_owner_records(env);
  engine_ = std::make_unique<Engine>(env, std::move(members), options_.cache_bytes);
}

PoolImpl::~PoolImpl() {
  if (auto closed = close(); !closed) log::error("closing pool {}: {}", name_, closed.error().message);
}

Result<> PoolImpl::start() {
  if (!options_.for_check && !is_read_only() && engine_->members().needs_check()) {
    return failure(
        ErrorKind::damaged,
        fmt::format("pool {}: writing to a member failed when it was last used (vsnap check {} says "
                    "whether anything is damaged, and opens it again)",
                    name_, name_));
  }
  if (auto opened = engine_->open_catalog(options_.for_check); !opened) {
    if (is_read_only()) return not_enough(opened.error());
    if (opened.error().kind != ErrorKind::failed || opened.error().errno_value != EIO) return opened;
    return failure(
        ErrorKind::damaged,
        fmt::format("pool {0}: the catalog cannot be read: {1} (once it can, vsnap check {0} says whether "
                    "all is well; if it never can, restore the members from a copy)",
                    name_, opened.error().message));
  }
  VSNAP_TRY(engine_->db().read([&](SQLite::Database& db) -> Result<> {
    generation_ = catalog::value(db, "generation");
    VSNAP_TRY(catalog::load(db, objects_));
    load_properties(db);
    load_holds(db);
    load_delegations(db);
    return load_bases(db);
  }));
  VSNAP_TRY(load_promise());
  listen_to_engine();
  VSNAP_TRY(attach_bases());
  VSNAP_TRY(hold_sweeps_of_copies());
  {
    MutexLock lock(copying_mutex_);
    copier_ = std::make_unique<BranchCopier>(*engine_, objects_);
  }
  sweeper_ =
      std::make_unique<Sweeper>(*engine_, objects_,
                                [this](const std::vector<Pin>& pins, const Engine::Step& step)
                                    VSNAP_NO_THREAD_SAFETY_ANALYSIS { return release_pins(pins, step); });
  if (is_read_only()) return start_degraded();
  auto recovered = recover();
  if (!recovered && options_.for_check && recovered.error().kind == ErrorKind::damaged)
    journal_damage_ = recovered.error().message;
  else if (!recovered)
    return recovered;
  if (options_.for_check) return {};
  VSNAP_TRY(engine_->mark_opened());
  // Members without space can be read all the same.
  if (auto upgraded = engine_->upgrade_catalog(); !upgraded) {
    if (upgraded.error().kind != ErrorKind::no_space) return upgraded;
    log::warning("pool {}: bringing the catalog to its present version: {}", name_, upgraded.error().message);
  }
  may_change_ = true;
  VSNAP_TRY(note_promise_seen());
  engine_->make_journal();
  engine_->make_catalog_copy();
  VSNAP_TRY(start_tail());
  {
    MutexLock config(config_mutex_);
    VSNAP_TRY(finish_open());
  }
  return options_.background ? start_background() : Result<>();
}

void PoolImpl::listen_to_engine() {
  engine_->set_room_maker([this](const ObjectPtr& volume) { return make_snapshot_room(volume); });
  engine_->set_space_seeker([this] { recall_for_space(); });
  engine_->set_extra_step(
      [this](SQLite::Database& db) -> Result<> {
        being_stored_ = objects_.take_changed();
        for (const ObjectPtr& object : being_stored_) catalog::update_volume(db, objects_, *object);
        return {};
      },
      [this] {
        for (const ObjectPtr& object : being_stored_) objects_.note_changed(object);
      });
}

Result<> PoolImpl::start_background() {
  if (auto counters = LiveCounters::create(env_, to_string(uuid_)))
    counters_ = std::move(*counters);
  else
    log::warning("{}", counters.error().message); // vsnap top does without
  LiveCounters::remove_dead(env_);
  engine_->set_committer([this] { hurry_background(); });
  try {
    background_ = std::thread([this] { background_loop(); });
    copying_thread_ = std::thread([this] { copying_loop(); });
  } catch (const std::system_error& e) {
    return system_failure(e.code().value(), fmt::format("pool {}: a thread", name_));
  }
  return {};
}

// A pool whose members have no space, which can be read all the same, goes without.
Result<> PoolImpl::start_tail() {
  auto started = engine_->start_tail(options_.keep_tail);
  if (!started && started.error().kind != ErrorKind::no_space) return started;
  if (!started) log::warning("{}", started.error().message);
  // Who takes over looks at no other pool: its members may lie behind what is to be served here.
  if (!options_.keep_tail || options_.takes_over) return {};
  Tail::remove_dead(env_, [this](const std::string& member, const Uuid& pool) {
    const auto look = Pool::look(env_, member);
    if (!look) return Tail::Seen::nothing;
    if (look->identity) return look->identity->pool_uuid == pool ? Tail::Seen::member : Tail::Seen::other;
    const bool has_none = look->identity.error().kind == ErrorKind::not_found; // no superblock at all
    return has_none ? Tail::Seen::other : Tail::Seen::nothing;
  });
  return {};
}

// What a crash may have left half done.
Result<> PoolImpl::finish_open() {
  std::vector<ObjectPtr> unlinked;
  std::vector<ObjectPtr> trims;
  {
    MutexLock lock(objects_.mutex());
    for (const ObjectPtr& object : objects_.everything()) {
      const auto& kept = options_.still_open;
      // Also what other hosts may read, until the pool is opened next.
      const bool promised = object->kind == ViewKind::snapshot && !check_not_promised(*object);
      object->still_open =
          object->name.empty() && (promised || std::find(kept.begin(), kept.end(), object->id) != kept.end());
      if (object->name.empty() && !object->still_open)
        unlinked.push_back(object);
      else if (object->trim.load() != Object::kNoTrim)
        trims.push_back(object);
    }
  }
  for (const ObjectPtr& volume : trims) {
    if (auto trimmed = finish_trim(volume); !trimmed) // before the volume grows it is tried again
      log::warning("{}/{}: freeing what a shrink left: {}", name_, volume->name, trimmed.error().message);
  }
  VSNAP_TRY(finish_rollbacks());
  // Members without space can be read all the same; it is tried again later.
  if (auto resumed = resume_preserved(); !resumed) {
    if (resumed.error().kind != ErrorKind::no_space) return resumed;
    log::warning("{}: a preserved image cannot be made final yet: {}", name_, resumed.error().message);
    preserve_ready_.store(true);
  }
  if (!unlinked.empty()) VSNAP_TRY(erase_objects(unlinked));
  lose_old_delegations();
  finish_delegations_locked();
  return {};
}

Result<> PoolImpl::close() {
  if (closed_) return {};
  closed_ = true;
  if (engine_) wait_for_room_makers();
  if (background_.joinable()) {
    {
      MutexLock lock(background_mutex_);
      stop_ = true;
    }
    background_wake_.notify_all();
    copying_wake_.notify_all();
    background_.join();
    if (copying_thread_.joinable()) copying_thread_.join();
  }
  Result<> done;
  bool whole = false; // and nothing is left to be done
  if (may_change_ && engine_->check_writable()) {
    finish_preserved_if_asked();
    finish_delegations();
    done = engine_->commit();
    if (done) done = close_bases();
    // A command leaves nothing to be done; the daemon's successor goes on where it stopped.
    while (done && !options_.background) {
      auto more = sweep_step();
      if (!more) done = Failure(more.error());
      if (!more || !*more) break;
    }
    if (done) engine_->end_tail();
    whole = done.has_value();
  }
  mark_failure();
  {
    std::map<ObjectId, std::shared_ptr<VolumeIo>> views; // destroyed without the lock
    {
      MutexLock lock(objects_.mutex());
      views.swap(views_);
    }
  }
  counters_.reset();
  sweeper_.reset();
  if (whole) {
    if (auto closed = engine_->close_catalog(); !closed) // it is whole all the same
      log::warning("pool {}: noting that it is closed: {}", name_, closed.error().message);
  }
  engine_->members().clear_owner_records();
  engine_.reset();
  return done;
}

// On the members, where the next opening finds it.
void PoolImpl::mark_failure() {
  if (engine_ && engine_->needs_check()) engine_->mark_failure();
}

// A removal goes on for a quarter of the time.
constexpr int kSweepPause = 3;

void PoolImpl::hurry_background() {
  {
    MutexLock lock(background_mutex_);
    hurried_ = true;
  }
  background_wake_.notify_all();
}

void PoolImpl::background_loop() {
  for (;;) {
    {
      MutexLock lock(background_mutex_);
      if (!stop_ && !hurried_) background_wake_.wait_for(background_mutex_, std::chrono::seconds(1));
      if (stop_) return;
      hurried_ = false;
    }
    mark_failure();
    lose_old_delegations();
    if (!engine_->check_writable()) continue;
    if (auto committed = engine_->commit_if_needed(); !committed)
      log::error("commit: {}", committed.error().message);
    warn_about_space();
    warn_about_limits();
    recall_if_short();
    finish_preserved_if_asked();
    finish_delegations();
    for (bool more = true; more;) {
      const std::int64_t begin = env_.monotonic_ns();
      auto swept = sweep_step();
      const std::chrono::nanoseconds took(env_.monotonic_ns() - begin);
      if (!swept) log::error("freeing removed snapshots: {}", swept.error().message);
      MutexLock lock(background_mutex_);
      more = swept && *swept;
      // The load has the processor, the catalog and the disk for most of the time.
      if (more && !stop_ && !hurried_) background_wake_.wait_for(background_mutex_, kSweepPause * took);
      if (stop_) return;
      more = more && !hurried_;
    }
  }
}

void PoolImpl::warn_about_space() {
  static constexpr std::array<unsigned, 3> kLimits = {95, 90, 80};
  const unsigned percent = percent_used(engine_->space());
  const auto* const limit =
      std::find_if(kLimits.begin(), kLimits.end(), [&](unsigned l) { return percent >= l; });
  const unsigned reached = limit == kLimits.end() ? 0 : *limit;
  if (reached > warned_percent_.load()) {
    log::warning("pool {} is {} % full (vsnap pool add, or vsnap rm; vsnap df says what frees how much)",
                 name_, percent);
  }
  warned_percent_.store(reached);
}

// ---- description ----

unsigned percent_used(const SpaceInfo& space) {
  if (space.size_bytes == 0) return 0;
  return static_cast<unsigned>((space.size_bytes - space.available_bytes) / (space.size_bytes / 100 + 1));
}

PoolStatus PoolImpl::status() {
  if (engine_->check_writable())
    static_cast<void>(engine_->commit_if_needed()); // so that what was freed shows
  PoolStatus status;
  status.name = name_;
  status.uuid = uuid_;
  status.generation = generation_.load();
  status.health = engine_->health();
  status.space = engine_->space();
  if (const unsigned percent = percent_used(status.space); status.health == "ok" && percent >= 80) {
    status.health = fmt::format("warning: {} % full (vsnap pool add, or vsnap rm)", percent);
  }
  if (const auto problems = problems_of_images(); status.health == "ok" && !problems.empty())
    status.health = "warning: " + problems.front();
  if (const std::string limit = limit_health(); status.health == "ok" && !limit.empty())
    status.health = limit;
  const MemberSet& members = engine_->members();
  const Superblock layout = members.layout();
  for (std::uint32_t i = 0; i < members.count(); ++i) {
    status.members.push_back({i, members.path(i), layout.roster[i].uuid,
                              layout.roster[i].blocks * kBlockBytes,
                              engine_->allocator().free_blocks(i) * kBlockBytes, members.is_block_device(i)});
  }
  {
    MutexLock lock(objects_.mutex());
    for (const ObjectPtr& object : objects_.all())
      ++(object->kind == ViewKind::volume ? status.volumes : status.snapshots);
  }
  status.cache_bytes = engine_->cache().bytes_in_use();
  static_cast<void>(engine_->db().read([&](SQLite::Database&) -> Result<> {
    status.extents = engine_->index().count_rows();
    status.removal_pending = engine_->index().first_sweep().has_value();
    return {};
  }));
  return status;
}

std::vector<ViewInfo> PoolImpl::list() {
  MutexLock lock(objects_.mutex());
  std::vector<ViewInfo> infos;
  for (const ObjectPtr& object : objects_.all()) infos.push_back(objects_.describe(*object));
  return infos;
}

Result<ViewInfo> PoolImpl::find(const ViewName& name) {
  VSNAP_TRY_ASSIGN(const ObjectPtr object, object_named(name));
  return info(object->id);
}

Result<ViewInfo> PoolImpl::info(ObjectId id) {
  MutexLock lock(objects_.mutex());
  const ObjectPtr object = objects_.find(id);
  if (!object) return failure(ErrorKind::not_found, "no such volume or snapshot");
  return objects_.describe(*object);
}

// ---- names ----

Failure PoolImpl::not_found(const ViewName& name) {
  MutexLock lock(objects_.mutex());
  const auto suggestion = nearest(name.text(), objects_.names());
  const std::string hint = suggestion ? fmt::format("did you mean {}/{}?", name_, *suggestion)
                                      : fmt::format("vsnap ls {} lists them", name_);
  return failure(ErrorKind::not_found, fmt::format("{}/{}: no such {} ({})", name_, name.text(),
                                                   name.is_snapshot() ? "snapshot" : "volume", hint));
}

Result<ObjectPtr> PoolImpl::object_named(const ViewName& name) {
  VSNAP_TRY(check_name("volume", name.volume));
  if (name.is_snapshot()) VSNAP_TRY(check_name("snapshot", name.snapshot));
  {
    MutexLock lock(objects_.mutex());
    if (ObjectPtr object = objects_.find(name)) return object;
  }
  return not_found(name);
}

Result<ObjectPtr> PoolImpl::volume_named(const std::string& name) { return object_named({name, {}}); }

Result<> PoolImpl::check_free(const ViewName& name) {
  VSNAP_TRY(check_name("volume", name.volume));
  if (name.is_snapshot()) VSNAP_TRY(check_name("snapshot", name.snapshot));
  MutexLock lock(objects_.mutex());
  if (!objects_.find(name)) return {};
  return failure(ErrorKind::failed, EEXIST,
                 fmt::format("{}/{}: exists already (choose another name)", name_, name.text()));
}

void PoolImpl::tell_entry(const std::string& file_name) {
  if (PoolObserver* const observer = observer_.load()) observer->entry_changed(file_name);
}

void PoolImpl::tell_content(ObjectId id) {
  if (PoolObserver* const observer = observer_.load()) observer->content_changed(id);
}

void PoolImpl::tell_changed(ObjectId id, std::uint64_t offset, std::uint64_t length) {
  PoolObserver* const observer = observer_.load();
  if (observer == nullptr) return;
  observer->range_changed(id, offset, length);
  observer->settle();
}

void PoolImpl::settle() {
  if (PoolObserver* const observer = observer_.load()) observer->settle();
}

// ---- views ----

Result<> PoolImpl::check_idle(const Object& object) {
  if (object.open_handles == 0) return {};
  return failure(ErrorKind::busy,
                 fmt::format("{}/{}: in use, {} open (unmount its file systems, vsnap unmap it, stop its VM)",
                             name_, objects_.name_of(object).text(), object.open_handles));
}

std::shared_ptr<VolumeIo> PoolImpl::view_of_locked(const ObjectPtr& object) {
  auto& view = views_[object->id];
  if (view) return view;
  auto slot = counters_ ? counters_->take(object->id, objects_.name_of(*object).text()) : nullptr;
  view = std::make_shared<VolumeIo>(*engine_, objects_, object, std::move(slot));
  return view;
}

std::shared_ptr<VolumeIo> PoolImpl::view_of(const ObjectPtr& object) {
  MutexLock lock(objects_.mutex());
  return view_of_locked(object);
}

std::shared_ptr<VolumeIo> PoolImpl::head_view(const Branch& branch) {
  MutexLock lock(objects_.mutex());
  for (const auto& [id, view] : views_) {
    if (view->map().head && view->map().branch == &branch) return view;
  }
  return nullptr;
}

Result<ViewHandle> PoolImpl::open_view_for(ObjectId id, std::uint64_t host) {
  {
    ObjectPtr object;
    {
      MutexLock lock(objects_.mutex());
      object = objects_.find(id);
    }
    // A snapshot is read from the catalog, as long as that gets what belongs to it.
    if (object && engine_->committed() < object->line && !engine_->failed()) {
      if (auto committed = engine_->commit(); !committed && !engine_->failed())
        return Failure(committed.error());
    }
  }
  ViewHandle handle;
  {
    MutexLock lock(objects_.mutex());
    const ObjectPtr object = objects_.find(id);
    if (!object || (object->name.empty() && !object->still_open))
      return failure(ErrorKind::not_found, "no such volume or snapshot");
    if (object->withheld) {
      return failure(ErrorKind::busy, fmt::format("{}/{}: is being rolled back or removed (try again)", name_,
                                                  objects_.name_of(*object).text()));
    }
    VSNAP_TRY(check_images(*object));
    ++object->open_handles; // from here on it is delegated to nobody else
    handle = object->draining ? open_draining(object) : ViewHandle(this, view_of_locked(object));
  }
  VSNAP_TRY(wait_for_return(std::span(&id, 1), host, false));
  return handle;
}

void PoolImpl::handle_closed(View& view) noexcept {
  std::shared_ptr<VolumeIo> last;
  ObjectPtr unlinked;
  {
    MutexLock lock(objects_.mutex());
    auto* const late = dynamic_cast<LateReader*>(&view);
    const ObjectPtr object = late != nullptr ? late->image().object() : static_cast<VolumeIo&>(view).object();
    if (late == nullptr && note_old_handle_closed(*object)) {
      preserve_ready_.store(true);
      background_wake_.notify_all();
    }
    if (--object->open_handles > 0) return;
    object->exported = object->export_flushed = false;
    if (object->draining) return; // as with a volume
    // What another host may read stays until the pool is opened next.
    const bool promised = object->kind == ViewKind::snapshot && !check_not_promised(*object);
    object->still_open = object->still_open && (keep_unlinked_ || promised);
    if (object->name.empty() && promised) return;
    if (object->name.empty() && keep_unlinked_) return;
    if (object->name.empty())
      unlinked = object;
    else if (object->kind == ViewKind::volume)
      return; // its map may hold what is not committed yet
    const auto found = views_.find(object->id);
    if (found != views_.end()) {
      last = std::move(found->second);
      views_.erase(found);
    }
    if (unlinked && last) views_.emplace(object->id, last); // still needed to let go of it in order
  }
  if (!unlinked) return;
  MutexLock config(config_mutex_);
  if (auto erased = erase_objects({unlinked}); !erased)
    log::error("removing an unlinked file: {}", erased.error().message);
}

// ---- dump ----

Result<> PoolImpl::dump_catalog(const std::string& path, const Progress& progress) {
  if (!is_read_only()) VSNAP_TRY(engine_->commit());
  return engine_->db().copy_to(
      path, [&](std::uint64_t done, std::uint64_t total) { return !progress || progress(done, total); });
}

} // namespace vsnap
