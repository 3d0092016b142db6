// Volumes and members: create, rename, resize, attributes, add a member; and the configuration transaction
// itself.
#include <fmt/format.h>

#include "core/log.h"
#include "core/new_member.h"
#include "core/pool_impl.h"
#include "core/probe.h"
#include "core/request_note.h"

namespace vsnap {

// ---- configuration transactions ----

Engine::Step PoolImpl::with_generation(const Engine::Step& step) {
  return [this, step, asked_by = AskedBy::current()](SQLite::Database& db) -> Result<> {
    if (step) VSNAP_TRY(step(db));
    if (asked_by) request_note::put(db, *asked_by);
    generation_ = catalog::take_number(db, "generation") + 1;
    return {};
  };
}

Result<std::optional<ObjectId>> PoolImpl::carried_out(RequestId request) {
  std::optional<ObjectId> found;
  VSNAP_TRY(engine_->db().read([&](SQLite::Database& db) -> Result<> {
    found = request_note::find(db, request);
    return {};
  }));
  return found;
}

Result<> PoolImpl::configure(const Engine::Step& step) {
  MutexLock commit(engine_->commit_mutex());
  return configure_locked(step);
}

Result<> PoolImpl::configure_locked(const Engine::Step& step) {
  return engine_->commit_with(with_generation(step));
}

Result<> PoolImpl::check_room() const {
  VSNAP_TRY(engine_->check_writable());
  if (!engine_->metadata_low()) return {};
  return failure(ErrorKind::no_space,
                 fmt::format("pool {} has no room for more metadata (vsnap rm, or vsnap pool add)", name_));
}

std::unique_ptr<Branch> PoolImpl::new_branch(Branch* parent, Version number, std::int64_t mapped) {
  auto branch = std::make_unique<Branch>();
  branch->parent = parent;
  branch->parent_number = number;
  branch->mapped.store(mapped);
  branch->has_head = true;
  return branch;
}

void PoolImpl::add_child(std::unique_ptr<Branch> branch) {
  if (branch->parent != nullptr) branch->parent->pins.insert(branch->parent_number.value());
  objects_.add_branch(std::move(branch));
}

ObjectPtr PoolImpl::make_volume(const std::string& name, std::uint64_t size_bytes) {
  auto volume = std::make_shared<Object>();
  volume->name = name;
  volume->size_bytes.store(size_bytes);
  volume->created_ns = env_.wall_clock_ns();
  volume->modified_ns.store(volume->created_ns);
  return volume;
}

// ---- volumes ----

// Gives both their numbers and makes them part of the pool.
Result<ViewInfo> PoolImpl::add_volume(std::unique_ptr<Branch> branch, const ObjectPtr& volume,
                                      const Engine::Step& also) {
  volume->branch = branch.get();
  MutexLock commit(engine_->commit_mutex()); // the sweeper reads pins under it
  VSNAP_TRY(configure_locked([&](SQLite::Database& db) -> Result<> {
    branch->id = BranchId(catalog::take_number(db, "next_branch"));
    volume->id = ObjectId(catalog::take_number(db, "next_object"));
    catalog::insert_branch(db, *branch);
    catalog::insert_volume(db, *volume);
    return also ? also(db) : Result<>();
  }));
  ViewInfo info;
  {
    MutexLock lock(objects_.mutex());
    add_child(std::move(branch));
    objects_.add(volume);
    info = objects_.describe(*volume);
  }
  tell_entry(volume->name);
  return info;
}

Result<ViewInfo> PoolImpl::create_volume(const std::string& name, std::uint64_t size_bytes) {
  MutexLock config(config_mutex_);
  VSNAP_TRY(check_free({name, {}}));
  if (size_bytes > kMaxVolumeBytes)
    return failure(ErrorKind::usage, EFBIG, fmt::format("{}: at most 8 EiB - 1", name));
  VSNAP_TRY(check_room());
  auto branch = new_branch(nullptr, Version(0), 0);
  const ObjectPtr volume = make_volume(name, size_bytes);
  return add_volume(std::move(branch), volume);
}

Result<> PoolImpl::rename(const ViewName& from, const std::string& new_name, bool replace) {
  MutexLock config(config_mutex_);
  VSNAP_TRY_ASSIGN(const ObjectPtr object, object_named(from));
  {
    MutexLock lock(objects_.mutex());
    if (object->draining) return still_draining(*object);
  }
  const ViewName to = from.is_snapshot() ? ViewName{from.volume, new_name} : ViewName{new_name, {}};
  if (to == from) return {};
  if (new_name.empty()) return check_name(from.is_snapshot() ? "snapshot" : "volume", new_name);
  ObjectPtr replaced;
  if (replace && !to.is_snapshot()) {
    MutexLock lock(objects_.mutex());
    replaced = objects_.find(to);
    if (replaced && !objects_.snapshots(*replaced).empty())
      return failure(ErrorKind::busy, fmt::format("{}/{}: has snapshots (vsnap rm -r)", name_, to.text()));
    if (replaced) VSNAP_TRY(check_not_flattening(*replaced));
  }
  if (!replaced) VSNAP_TRY(check_free(to));
  if (replaced) VSNAP_TRY(take_back(std::span(&replaced->id, 1)));
  VSNAP_TRY(configure([&](SQLite::Database& db) -> Result<> {
    if (replaced) catalog::rename(db, *replaced, "");
    catalog::rename(db, *object, new_name);
    return {};
  }));
  std::vector<std::string> changed = {from.text(), to.text()};
  std::vector<ObjectPtr> gone;
  {
    MutexLock lock(objects_.mutex());
    if (!from.is_snapshot()) {
      for (const ObjectPtr& snapshot : objects_.snapshots(*object)) {
        changed.push_back(ViewName{from.volume, snapshot->name}.text());
        changed.push_back(ViewName{new_name, snapshot->name}.text());
      }
    }
    if (replaced) {
      objects_.rename(replaced, "");
      if (replaced->open_handles == 0) gone.push_back(replaced);
    }
    objects_.rename(object, new_name);
    if (counters_) {
      counters_->rename(object->id, to.text());
      if (!from.is_snapshot()) {
        for (const ObjectPtr& snapshot : objects_.snapshots(*object))
          counters_->rename(snapshot->id, objects_.name_of(*snapshot).text());
      }
    }
  }
  for (const std::string& name : changed) tell_entry(name);
  // It is renamed, whatever becomes of this; a nameless volume goes at the next start at the latest.
  if (auto erased = gone.empty() ? Result<>() : erase_objects(gone); !erased)
    log::warning("{}: removing the volume that {} replaced: {}", name_, new_name, erased.error().message);
  return {};
}

// What a shrink left behind the end; opens no view where there is nothing.
Result<> PoolImpl::finish_trim(const ObjectPtr& volume) {
  if (volume->trim.load() == Object::kNoTrim) return {};
  return view_of(volume)->finish_trim();
}

Result<> PoolImpl::resize(ObjectId id, std::uint64_t size_bytes, bool allow_shrink) {
  const UntilGivenAgain given_again(env_);
  MutexLock config(config_mutex_);
  ObjectPtr volume;
  std::string name;
  {
    MutexLock lock(objects_.mutex());
    volume = objects_.find(id);
    if (!volume || (volume->kind != ViewKind::volume && !volume->draining))
      return failure(ErrorKind::not_found, ESTALE, "no such volume");
    name = volume->name;
  }
  const std::uint64_t old_size = volume->size_bytes.load();
  if (size_bytes > kMaxVolumeBytes)
    return failure(ErrorKind::usage, EFBIG, fmt::format("{}/{}: at most 8 EiB - 1", name_, name));
  if (size_bytes == old_size) return {};
  VSNAP_TRY(engine_->check_writable());
  VSNAP_TRY(take_back(std::span(&id, 1)));
  if (volume->branch->adopted()) return resize_image(volume, size_bytes);
  const bool shrinks = size_bytes < old_size;
  if (shrinks && !allow_shrink) {
    return failure(ErrorKind::usage,
                   fmt::format("{}/{}: {} is smaller than its {}; what lies beyond would be lost (--shrink)",
                               name_, name, format_size(size_bytes), format_size(old_size)));
  }
  const auto view = view_of(volume);
  VSNAP_TRY(view->finish_trim());
  if (shrinks) {
    MutexLock lock(volume->size_mutex);
    volume->trim.store(blocks_for(size_bytes).value());
    volume->size_bytes.store(size_bytes);
  } else {
    VSNAP_TRY(view->hide_below(old_size, size_bytes));
    VSNAP_TRY(view->zero_tail(old_size));
    view->grow_to(size_bytes);
  }
  auto done = configure([&](SQLite::Database& db) -> Result<> {
    catalog::update_volume(db, objects_, *volume);
    return {};
  });
  if (!done) {
    std::uint64_t changed = size_bytes; // a write may have made it larger since
    volume->size_bytes.compare_exchange_strong(changed, old_size);
    volume->trim.store(Object::kNoTrim);
    return done;
  }
  // The size is what was asked for; the space may have to wait.
  if (auto trimmed = view->finish_trim(); !trimmed)
    log::warning("{}/{}: space behind the new end is not free yet: {}", name_, name, trimmed.error().message);
  tell_content(volume->id);
  return {};
}

Result<> PoolImpl::set_attributes(ObjectId id, std::optional<std::uint32_t> mode,
                                  std::optional<std::uint32_t> uid, std::optional<std::uint32_t> gid,
                                  std::optional<std::int64_t> modified_ns) {
  VSNAP_TRY(engine_->check_writable());
  if (engine_->log().full()) VSNAP_TRY(engine_->make_room());
  ObjectPtr object;
  {
    MutexLock lock(objects_.mutex());
    object = objects_.find(id);
    if (!object) return failure(ErrorKind::not_found, "no such volume");
    if (object->kind == ViewKind::snapshot && !object->draining)
      return failure(ErrorKind::failed, EROFS, "a snapshot never changes");
    if (mode) object->mode = *mode & 07777;
    if (uid) object->uid = *uid;
    if (gid) object->gid = *gid;
    if (modified_ns) object->modified_ns.store(*modified_ns);
    objects_.note_changed(object);
    engine_->log().append(
        attributes_record(id, object->mode, object->uid, object->gid, object->modified_ns.load()), false);
  }
  return {};
}

// ---- members ----

Result<> PoolImpl::add_member(const MemberSpec& member, bool force) {
  MutexLock config(config_mutex_);
  VSNAP_TRY(engine_->check_writable());
  const bool existed = member_exists(env_, member.path);
  VSNAP_TRY_ASSIGN(auto file, open_new_member(env_, member, force, false));
  const auto undo = [&](Failure why) {
    file.reset();
    if (!existed) static_cast<void>(env_.remove_file(member.path));
    return why;
  };
  if (auto fits = check_member_size(member.path, file->size_bytes()); !fits)
    return undo(Failure(fits.error()));
  if (auto claimed = engine_->members().claim(env_, member.path, *file, 0); !claimed)
    return undo(Failure(claimed.error()));
  if (!file->is_block_device()) {
    if (auto wiped = wipe_signatures(member.path); !wiped) return undo(Failure(wiped.error()));
  }
  const std::uint64_t blocks = file->size_bytes() / kBlockBytes;
  {
    MutexLock commit(engine_->commit_mutex());
    auto added = engine_->members().add(env_, member.path, std::move(file));
    if (!added && engine_->members().addition_cut_short()) {
      return failure(added.error().kind, added.error().errno_value,
                     fmt::format("{} (keep {}: pool {} may ask for it when it is next opened)",
                                 added.error().message, member.path, name_));
    }
    if (!added) return undo(Failure(added.error()));
  }
  engine_->note_member_added(blocks);
  engine_->members().write_owner_records(env_);
  return configure({});
}

} // namespace vsnap
