// The configuration operations of a ModelPool: each checks everything first, then changes, then tells the
// observer.
#include <fmt/format.h>
#include <unistd.h>
#include <algorithm>
#include <set>

#include "tests/support/model_pool.h"

namespace vsnap {

void ModelPool::next_generation() {
  ++generation_;
  if (const auto request = AskedBy::current()) carried_out_[request->number] = ObjectId(next_id_ - 1);
}

Result<std::optional<ObjectId>> ModelPool::carried_out(RequestId request) {
  MutexLock lock(mutex_);
  const auto found = carried_out_.find(request.number);
  return found == carried_out_.end() ? std::nullopt : std::optional(found->second);
}

Result<ModelPool::Object> ModelPool::free_volume_name(const std::string& volume) {
  VSNAP_TRY(check_name("volume", volume));
  if (look_up(ViewName{volume, {}})) {
    return failure(ErrorKind::failed, EEXIST, fmt::format("{}/{}: exists already", name_, volume));
  }
  auto object = std::make_shared<ModelObject>();
  object->info.id = ObjectId(next_id_);
  object->info.name.volume = volume;
  object->info.created_ns = object->info.modified_ns = Env::real().wall_clock_ns();
  object->info.uid = ::geteuid();
  object->info.gid = ::getegid();
  object->family = next_id_;
  return object;
}

ModelPool::Object ModelPool::copy_as_snapshot(const ModelObject& volume, const std::string& snapshot) {
  auto object = std::make_shared<ModelObject>(volume);
  object->info.id = ObjectId(next_id_++);
  object->info.kind = ViewKind::snapshot;
  object->info.name.snapshot = snapshot;
  object->info.created_ns = Env::real().wall_clock_ns();
  object->handles = 0;
  object->adopted = false;
  object->info.form = ViewForm::thin;
  object->info.base.clear();
  object->clone_of.reset();
  object->copying = object->paused = false;
  objects_[object->info.id.value()] = object;
  return object;
}

ModelBlock& ModelPool::block_for_writing(ModelObject& object, std::uint64_t index) {
  ModelBlock& block = object.blocks[index];
  block.stamp = next_stamp_++;
  block.reserved = false;
  return block;
}

Result<> ModelPool::make_room(ModelObject& object, std::uint64_t first, std::uint64_t last) {
  if (capacity_bytes_ == kDefaultCapacityBytes) return {}; // more than any test writes
  std::map<std::uint64_t, unsigned> owners;                // of a stamp
  for (const auto& [id, other] : objects_) {
    for (const auto& [index, block] : other->blocks) ++owners[block.stamp];
  }
  std::uint64_t needed = 0; // a block that only this view has is written in place
  for (std::uint64_t index = first; index <= last; ++index) {
    const auto found = object.blocks.find(index);
    if (found == object.blocks.end() || owners[found->second.stamp] > 1) ++needed;
  }
  if ((owners.size() + needed) * kBlockBytes <= capacity_bytes_) return {};
  return failure(ErrorKind::no_space,
                 fmt::format("{}/{}: no space left in the pool", name_, object.info.name.text()));
}

void ModelPool::set_size(ModelObject& object, std::uint64_t size_bytes) {
  hide_below(object, size_bytes);
  decide_end(object, size_bytes > object.info.size_bytes);
  if (size_bytes < object.info.size_bytes) {
    for (auto it = object.blocks.lower_bound(blocks_for(size_bytes).value()); it != object.blocks.end(); ++it)
      decide(object, it->first);
    object.blocks.erase(object.blocks.lower_bound(blocks_for(size_bytes).value()), object.blocks.end());
    const auto last = object.blocks.find(size_bytes / kBlockBytes);
    if (last != object.blocks.end() && may_show(object, *last)) {
      decide(object, last->first);
      auto& content = block_for_writing(object, last->first).content;
      std::fill(content.begin() + static_cast<std::ptrdiff_t>(size_bytes % kBlockBytes), content.end(),
                std::byte{0});
    }
  }
  object.info.size_bytes = size_bytes;
  object.info.modified_ns = Env::real().wall_clock_ns();
  show_through(object, size_bytes / kBlockBytes, blocks_for(kMaxVolumeBytes).value());
}

void ModelPool::decide_end(ModelObject& object, bool grows) {
  if (!grows || object.info.size_bytes % kBlockBytes == 0) return;
  const auto last = object.blocks.find(object.info.size_bytes / kBlockBytes);
  if (last == object.blocks.end() || !may_show(object, *last)) return;
  decide(object, last->first);
  last->second.reserved = false;
  auto& content = last->second.content;
  std::fill(content.begin() + static_cast<std::ptrdiff_t>(object.info.size_bytes % kBlockBytes),
            content.end(), std::byte{0});
  show_through(object, last->first, last->first);
}

void ModelPool::hide_below(ModelObject& object, std::uint64_t end) {
  if (!object.own) return;
  const std::uint64_t last = blocks_for(end).value();
  for (auto it = object.blocks.lower_bound(blocks_for(object.info.size_bytes).value());
       it != object.blocks.end() && it->first < last;) {
    if (object.own->insert(it->first).second)
      it = object.blocks.erase(it);
    else
      ++it;
  }
  show_through(object, blocks_for(object.info.size_bytes).value(), last);
}

Result<> ModelPool::add_member(const MemberSpec& member, bool) {
  MutexLock lock(mutex_);
  MemberInfo info;
  info.index = static_cast<std::uint32_t>(members_.size());
  info.path = member.path;
  info.size_bytes = info.free_bytes = member.size_bytes;
  members_.push_back(std::move(info));
  capacity_bytes_ += member.size_bytes;
  next_generation();
  return {};
}

// ---- preserve ----

Result<> ModelPool::check_settled(const ModelObject& object) {
  if (!object.draining && !object.own) return {};
  return failure(ErrorKind::busy,
                 fmt::format("{}/{}: a preserved image is still written to", name_, object.info.name.text()));
}

void ModelPool::show_through(const ModelObject& object, std::uint64_t first, std::uint64_t last) {
  const Object above = object.above.lock();
  if (!above || !above->own) return;
  std::set<std::uint64_t> blocks;
  for (auto it = object.blocks.lower_bound(first); it != object.blocks.end() && it->first <= last; ++it)
    blocks.insert(it->first);
  for (auto it = above->blocks.lower_bound(first); it != above->blocks.end() && it->first <= last; ++it)
    blocks.insert(it->first);
  for (const std::uint64_t block : blocks) {
    if (above->own->contains(block)) continue;
    const auto found = object.blocks.find(block);
    if (found == object.blocks.end())
      above->blocks.erase(block);
    else
      above->blocks[block] = found->second;
    const std::uint64_t start = block * kBlockBytes;
    if (found == object.blocks.end() || start + kBlockBytes <= object.info.size_bytes) continue;
    const std::uint64_t kept = object.info.size_bytes > start ? object.info.size_bytes - start : 0;
    auto& content = above->blocks[block].content; // nothing shows from behind the end
    std::fill(content.begin() + static_cast<std::ptrdiff_t>(kept), content.end(), std::byte{0});
  }
  show_through(*above, first, last);
}

Result<ViewInfo> ModelPool::preserve(const ViewName& name) {
  ViewInfo info;
  {
    MutexLock lock(mutex_);
    if (!name.is_snapshot()) return failure(ErrorKind::usage, "name the image");
    VSNAP_TRY(check_name("snapshot", name.snapshot));
    VSNAP_TRY_ASSIGN(const Object first, look_up(ViewName{name.volume, {}}));
    if (look_up(name)) return failure(ErrorKind::failed, EEXIST, name_ + ": exists already");
    if (first->copying) return failure(ErrorKind::busy, name_ + ": is being copied");
    if (first->info.form == ViewForm::adopted)
      return failure(ErrorKind::usage, name_ + ": an adopted volume is not preserved");
    auto second = std::make_shared<ModelObject>(*first);
    second->info.id = ObjectId(next_id_++);
    second->handles = 0;
    second->own.emplace();
    second->clone_of.reset();
    objects_[second->info.id.value()] = second;
    first->info.kind = ViewKind::snapshot;
    first->info.name = name;
    first->info.created_ns = Env::real().wall_clock_ns();
    first->draining = true;
    first->clone_of.reset();
    first->above = second;
    ++generation_;
    info.id = first->info.id;
  }
  finish_preserved();
  announce({{name.volume, name.text()}, {}});
  return this->info(info.id);
}

void ModelPool::finish_preserved() {
  MutexLock lock(mutex_);
  for (bool more = true; more;) {
    more = false;
    for (const auto& [id, object] : objects_) {
      if (!object->draining || object->own || object->handles > 0) continue;
      object->draining = false;
      if (const Object above = object->above.lock()) {
        hide_below(*above, kMaxVolumeBytes);
        above->own.reset();
      }
      object->above.reset();
      more = true;
    }
  }
}

Result<ViewInfo> ModelPool::create_volume(const std::string& volume, std::uint64_t size_bytes) {
  ViewInfo info;
  {
    MutexLock lock(mutex_);
    VSNAP_TRY_ASSIGN(const Object object, free_volume_name(volume));
    if (size_bytes > kMaxVolumeBytes) {
      return failure(ErrorKind::usage, EFBIG, fmt::format("{}/{}: larger than 8 EiB - 1", name_, volume));
    }
    object->info.size_bytes = size_bytes;
    objects_[next_id_++] = object;
    next_generation();
    info = describe(*object);
  }
  announce({{volume}, {}});
  return info;
}

Result<> ModelPool::rename(const ViewName& from, const std::string& new_name, bool replace) {
  Events events;
  {
    MutexLock lock(mutex_);
    VSNAP_TRY(check_name(from.is_snapshot() ? "snapshot" : "volume", new_name));
    VSNAP_TRY_ASSIGN(const Object object, look_up(from));
    if (object->draining) VSNAP_TRY(check_settled(*object));
    const ViewName to = from.is_snapshot() ? ViewName{from.volume, new_name} : ViewName{new_name, {}};
    if (to == from) return {};
    if (const auto there = look_up(to)) {
      if (!replace || to.is_snapshot())
        return failure(ErrorKind::failed, EEXIST, fmt::format("{}/{}: exists already", name_, to.text()));
      if (!snapshots_of(to.volume).empty())
        return failure(ErrorKind::busy, fmt::format("{}/{}: has snapshots", name_, to.text()));
      (*there)->removed = true;
      if ((*there)->handles == 0) objects_.erase((*there)->info.id.value());
    }
    std::vector<Object> moved{object};
    if (!from.is_snapshot()) {
      for (const Object& snapshot : snapshots_of(from.volume)) moved.push_back(snapshot);
    }
    for (const Object& each : moved) {
      events.entries.push_back(each->info.name.text());
      (from.is_snapshot() ? each->info.name.snapshot : each->info.name.volume) = new_name;
      events.entries.push_back(each->info.name.text());
    }
    next_generation();
  }
  announce(events);
  return {};
}

Result<> ModelPool::resize(ObjectId id, std::uint64_t size_bytes, bool allow_shrink) {
  Events events;
  {
    MutexLock lock(mutex_);
    VSNAP_TRY_ASSIGN(const Object object, look_up(id));
    const std::string& volume = object->info.name.volume;
    if (size_bytes > kMaxVolumeBytes) {
      return failure(ErrorKind::usage, EFBIG, fmt::format("{}/{}: larger than 8 EiB - 1", name_, volume));
    }
    if (object->adopted && size_bytes < object->info.size_bytes)
      return failure(ErrorKind::failed, EINVAL, fmt::format("{}/{}: adopted", name_, volume));
    if (size_bytes < object->info.size_bytes && !allow_shrink) {
      return failure(ErrorKind::usage,
                     fmt::format("{}/{}: that would make it smaller and lose what is past the new end "
                                 "(--shrink does it)",
                                 name_, volume));
    }
    for (std::uint64_t block = blocks_for(object->info.size_bytes).value();
         object->adopted && block < blocks_for(size_bytes).value(); ++block)
      block_for_writing(*object, block);
    set_size(*object, size_bytes);
    next_generation();
    events.contents.push_back(object->info.id);
  }
  announce(events);
  return {};
}

Result<> ModelPool::set_attributes(ObjectId id, std::optional<std::uint32_t> mode,
                                   std::optional<std::uint32_t> uid, std::optional<std::uint32_t> gid,
                                   std::optional<std::int64_t> modified_ns) {
  MutexLock lock(mutex_);
  VSNAP_TRY_ASSIGN(const Object object, look_up(id));
  if (object->info.kind == ViewKind::snapshot) {
    return failure(ErrorKind::failed, EROFS, "a snapshot never changes");
  }
  if (mode) object->info.mode = *mode;
  if (uid) object->info.uid = *uid;
  if (gid) object->info.gid = *gid;
  if (modified_ns) object->info.modified_ns = *modified_ns;
  next_generation();
  return {};
}

Result<> ModelPool::snapshot(std::span<const ViewName> names) {
  Events events;
  {
    MutexLock lock(mutex_);
    std::set<std::string> wanted;
    for (const ViewName& name : names) {
      VSNAP_TRY(check_name("snapshot", name.snapshot));
      VSNAP_TRY(look_up(ViewName{name.volume, {}}));
      if (look_up(name) || !wanted.insert(name.text()).second) {
        return failure(ErrorKind::failed, EEXIST, fmt::format("{}/{}: exists already", name_, name.text()));
      }
      VSNAP_TRY(check_settled(**look_up(ViewName{name.volume, {}})));
    }
    for (const ViewName& name : names) {
      copy_as_snapshot(**look_up(ViewName{name.volume, {}}), name.snapshot);
      events.entries.push_back(name.text());
    }
    next_generation();
  }
  announce(events);
  return {};
}

Result<RollbackResult> ModelPool::rollback(const ViewName& to, bool discard, bool dry_run,
                                           const Progress& /*progress*/) {
  Events events;
  RollbackResult result{to, std::nullopt};
  {
    MutexLock lock(mutex_);
    VSNAP_TRY(check_name("snapshot", to.snapshot));
    VSNAP_TRY_ASSIGN(const Object snapshot, look_up(to));
    VSNAP_TRY_ASSIGN(const Object volume, look_up(ViewName{to.volume, {}}));
    VSNAP_TRY(check_settled(*snapshot));
    VSNAP_TRY(check_settled(*volume));
    if (volume->copying) return failure(ErrorKind::busy, name_ + ": is being copied");
    if (volume->handles != 0) {
      return failure(ErrorKind::busy, fmt::format("{}/{}: in use (close it first)", name_, to.volume));
    }
    if (!discard) {
      ViewName kept{to.volume, {}};
      for (unsigned n = 1; kept.snapshot.empty() || look_up(kept); ++n) {
        kept.snapshot = fmt::format("before-rollback-{}", n);
      }
      result.kept = kept;
    }
    if (dry_run) return result;
    if (volume->adopted && volume->info.size_bytes != snapshot->info.size_bytes)
      return failure(ErrorKind::failed, EINVAL, fmt::format("{}/{}: adopted", name_, to.volume));
    if (result.kept) {
      copy_as_snapshot(*volume, result.kept->snapshot);
      events.entries.push_back(result.kept->text());
    }
    volume->blocks = snapshot->blocks;
    volume->info.size_bytes = snapshot->info.size_bytes;
    volume->info.modified_ns = Env::real().wall_clock_ns();
    volume->starts_from = snapshot->info.id;
    next_generation();
    events.contents.push_back(volume->info.id);
  }
  announce(events);
  return result;
}

Result<ViewInfo> ModelPool::clone(const ViewName& from, const std::string& new_volume) {
  ViewInfo info;
  {
    MutexLock lock(mutex_);
    VSNAP_TRY(check_name("snapshot", from.snapshot));
    VSNAP_TRY_ASSIGN(const Object origin, look_up(from));
    VSNAP_TRY_ASSIGN(const Object object, free_volume_name(new_volume));
    VSNAP_TRY(check_settled(*origin));
    object->info.size_bytes = origin->info.size_bytes;
    object->info.mode = origin->info.mode;
    object->info.uid = origin->info.uid;
    object->info.gid = origin->info.gid;
    object->family = origin->family;
    object->clone_of = object->starts_from = origin->info.id;
    object->blocks = origin->blocks;
    objects_[next_id_++] = object;
    next_generation();
    info = describe(*object);
  }
  announce({{new_volume}, {}});
  return info;
}

Result<> ModelPool::share_into(ObjectId from, ObjectId to) {
  {
    MutexLock lock(mutex_);
    VSNAP_TRY_ASSIGN(const Object origin, look_up(from));
    VSNAP_TRY_ASSIGN(const Object object, look_up(to));
    if (object->info.kind == ViewKind::snapshot) {
      return failure(ErrorKind::failed, EROFS, "a snapshot never changes");
    }
    if (!object->blocks.empty() || !snapshots_of(object->info.name.volume).empty()) {
      return failure(ErrorKind::usage, fmt::format("{}/{}: not empty", name_, object->info.name.text()));
    }
    object->blocks = origin->blocks;
    object->info.size_bytes = origin->info.size_bytes;
    object->info.modified_ns = Env::real().wall_clock_ns();
    object->family = origin->family;
    object->starts_from = from;
    next_generation();
  }
  announce({{}, {to}});
  return {};
}

Result<> ModelPool::flatten(const std::string& volume, const Progress& progress) {
  if (progress && !progress(0, 1)) {
    return failure(ErrorKind::failed, ECANCELED, fmt::format("{}/{}: given up", name_, volume));
  }
  MutexLock lock(mutex_);
  VSNAP_TRY_ASSIGN(const Object object, look_up(ViewName{volume, {}}));
  VSNAP_TRY(check_settled(*object));
  if (!object->clone_of) return {};
  object->clone_of.reset();
  object->starts_from.reset();
  std::vector<Object> own = snapshots_of(volume);
  own.push_back(object);
  for (const Object& each : own) each->family = object->info.id.value();
  for (auto& [index, block] : object->blocks) block.stamp = next_stamp_++;
  next_generation();
  return {};
}

Result<std::vector<ModelPool::Object>> ModelPool::chosen_for_removal(std::span<const ViewName> names,
                                                                     const RemoveOptions& options) {
  std::vector<Object> chosen;
  const auto choose = [&](const Object& object) {
    if (std::find(chosen.begin(), chosen.end(), object) == chosen.end()) chosen.push_back(object);
  };
  for (const ViewName& name : names) {
    VSNAP_TRY_ASSIGN(const Object object, look_up(name));
    VSNAP_TRY(check_settled(*object));
    choose(object);
    if (name.is_snapshot() || !options.recursive) continue;
    for (const Object& snapshot : snapshots_of(name.volume)) choose(snapshot);
  }
  for (const Object& object : chosen) {
    if (object->handles != 0 && !options.even_if_open) {
      return failure(ErrorKind::busy,
                     fmt::format("{}/{}: in use (close it first)", name_, object->info.name.text()));
    }
    if (object->info.kind == ViewKind::snapshot) VSNAP_TRY(check_not_held(*object));
    if (object->info.kind == ViewKind::snapshot) continue;
    for (const Object& snapshot : snapshots_of(object->info.name.volume)) {
      if (std::find(chosen.begin(), chosen.end(), snapshot) != chosen.end()) continue;
      return failure(ErrorKind::busy, fmt::format("{}/{}: has snapshots (-r removes them too)", name_,
                                                  object->info.name.text()));
    }
  }
  return chosen;
}

Result<RemovalPlan> ModelPool::remove(std::span<const ViewName> names, RemoveOptions options) {
  Events events;
  RemovalPlan plan;
  {
    MutexLock lock(mutex_);
    VSNAP_TRY_ASSIGN(const std::vector<Object> chosen, chosen_for_removal(names, options));
    plan.frees_bytes = freed_by_removing(chosen);
    for (const Object& object : chosen) plan.removed.push_back(object->info.name);
    if (options.dry_run) return plan;
    for (const Object& object : chosen) {
      events.entries.push_back(object->info.name.text());
      object->removed = true;
      if (object->handles == 0) objects_.erase(object->info.id.value());
    }
    next_generation();
  }
  announce(events);
  return plan;
}

} // namespace vsnap
