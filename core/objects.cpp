#include "core/objects.h"

#include <fmt/format.h>
#include <algorithm>

#include "core/assert.h"

namespace vsnap {

std::string_view to_string(ViewForm form) {
  switch (form) {
    case ViewForm::thin:
      return "thin";
    case ViewForm::adopted:
      return "adopted";
    case ViewForm::full:
      return "full";
  }
  return "thin";
}

ObjectPtr Objects::volume(const std::string& name) {
  const auto found = volumes_.find(name);
  return found == volumes_.end() ? nullptr : found->second;
}

ObjectPtr Objects::find(const ViewName& name) {
  ObjectPtr object = volume(name.volume);
  if (!object || !name.is_snapshot()) return object;
  const auto found = snapshots_.find({object->id, name.snapshot});
  return found == snapshots_.end() ? nullptr : found->second;
}

ObjectPtr Objects::find(ObjectId id) {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : found->second;
}

std::vector<ObjectPtr> Objects::snapshots(const Object& volume) {
  std::vector<ObjectPtr> found;
  for (auto at = in_order_.lower_bound({volume.id, ObjectId(0)});
       at != in_order_.end() && at->first.first == volume.id; ++at) {
    if (!at->second->name.empty()) found.push_back(at->second);
  }
  // A preserved image has the number of the volume that it was.
  std::stable_sort(found.begin(), found.end(),
                   [](const ObjectPtr& a, const ObjectPtr& b) { return a->created_ns < b->created_ns; });
  return found;
}

bool Objects::has_unlinked_snapshot(const Object& volume) {
  for (auto at = in_order_.lower_bound({volume.id, ObjectId(0)});
       at != in_order_.end() && at->first.first == volume.id; ++at) {
    if (at->second->name.empty()) return true;
  }
  return false;
}

bool Objects::has_snapshot_on(const Object& volume, const Branch& branch) {
  for (auto at = by_view_.lower_bound({branch.id, Version(0), ObjectId(0)});
       at != by_view_.end() && at->second->branch == &branch; ++at) {
    if (at->second->volume.get() == &volume) return true;
  }
  return false;
}

bool Objects::has_snapshot_at(const Object& volume, const Branch& branch, Version number) {
  for (auto at = by_view_.lower_bound({branch.id, number, ObjectId(0)});
       at != by_view_.end() && at->second->branch == &branch && at->second->number == number; ++at) {
    const Object& snapshot = *at->second;
    const bool is_full = branch.copy && branch.copy->snapshot == snapshot.id;
    if (snapshot.volume.get() == &volume && !snapshot.name.empty() && !snapshot.draining && !is_full)
      return true;
  }
  return false;
}

std::vector<ObjectPtr> Objects::all() {
  std::vector<ObjectPtr> list;
  for (const auto& [name, volume] : volumes_) {
    list.push_back(volume);
    for (ObjectPtr& snapshot : snapshots(*volume)) list.push_back(std::move(snapshot));
  }
  return list;
}

std::vector<ObjectPtr> Objects::everything() {
  std::vector<ObjectPtr> list;
  for (const auto& [id, object] : by_id_) list.push_back(object);
  return list;
}

ViewName Objects::name_of(const Object& object) const {
  if (object.kind == ViewKind::volume) return {object.name, {}};
  return {object.volume->name, object.name};
}

ViewInfo Objects::describe(const Object& object) {
  const Object& owner = object.kind == ViewKind::snapshot ? *object.volume : object;
  ViewInfo info;
  info.id = object.id;
  info.kind = object.kind;
  info.name = name_of(object);
  info.size_bytes = object.size_bytes.load();
  const std::uint64_t mapped = object.kind == ViewKind::snapshot && !object.draining
                                   ? object.mapped_blocks
                                   : static_cast<std::uint64_t>(object.branch->mapped.load());
  info.used_bytes = mapped * kBlockBytes;
  info.draining = object.draining;
  info.moved_lately = object.moved_lately;
  if (object.draining) info.state = "draining";
  info.shows_draining = object.branch->parent_draining.load();
  for (const Branch* at = object.branch; at->parent_draining.load(); at = at->parent)
    info.used_bytes += static_cast<std::uint64_t>(at->parent->mapped.load()) * kBlockBytes; // at most
  info.created_ns = object.created_ns;
  info.modified_ns = object.modified_ns.load();
  info.mode = object.kind == ViewKind::snapshot ? owner.mode & 0444 : owner.mode;
  info.uid = owner.uid;
  info.gid = owner.gid;
  info.open_handles = object.open_handles;
  info.level = object.level;
  // One that was split off started from no snapshot that has a name of its own.
  if (object.kind == ViewKind::volume && !object.branch->copy) info.origin = origin_of(object);
  if (const auto& copy = object.branch->copy) {
    const bool is_full = copy->snapshot == object.id;
    if (is_full) info.form = ViewForm::full;
    if (is_full || (!copy->snapshot && object.kind == ViewKind::volume)) info.state = state_of(*copy);
  }
  if (object.kind == ViewKind::volume && object.branch->adopted()) {
    info.form = ViewForm::adopted;
    info.base = object.branch->base.path;
    if (!object.branch->base.problem.empty()) info.state = "no image";
  }
  for (const auto& [tag, created_ns] : object.holds) info.holds.push_back({tag, created_ns});
  if (object.kind == ViewKind::volume) describe_limit(object, info);
  return info;
}

void Objects::describe_limit(const Object& volume, ViewInfo& info) {
  const SnapshotLimit& limit = volume.snapshot_limit;
  if (!limit.active()) return;
  info.snapshot_space = SnapshotSpace{limit.most() * kBlockBytes, std::nullopt, limit.on_full()};
  if (limit.is_known()) info.snapshot_space->used_bytes = limit.used() * kBlockBytes;
  if (const unsigned waiting = limit.waiting(); waiting > 0) {
    info.state += fmt::format("{}{} {} for room for snapshots", info.state.empty() ? "" : ", ", waiting,
                              waiting == 1 ? "write waits" : "writes wait");
  }
}

// The snapshot a clone started from. A volume that was rolled back started from one of its own, which is
// none.
std::optional<std::string> Objects::origin_of(const Object& volume) {
  const Branch* const parent = volume.branch->parent;
  if (parent == nullptr) return std::nullopt;
  const Version number = volume.branch->parent_number;
  std::string origin = "(removed snapshot)";
  bool own = false;
  for (auto at = by_view_.lower_bound({parent->id, number, ObjectId(0)});
       at != by_view_.end() && at->second->branch == parent && at->second->number == number; ++at) {
    const Object& snapshot = *at->second;
    if (snapshot.name.empty()) continue;
    own = snapshot.volume->id == volume.id;
    origin = name_of(snapshot).text();
  }
  if (own) return std::nullopt;
  return origin;
}

std::vector<std::string> Objects::names() {
  std::vector<std::string> names;
  for (const ObjectPtr& object : all()) names.push_back(name_of(*object).text());
  return names;
}

void Objects::note_changed(const ObjectPtr& object) {
  MutexLock lock(changed_mutex_);
  if (!object->changed.exchange(true)) changed_.push_back(object);
}

std::vector<ObjectPtr> Objects::take_changed() {
  std::vector<ObjectPtr> taken;
  MutexLock lock(changed_mutex_);
  taken.swap(changed_);
  for (const ObjectPtr& object : taken) object->changed.store(false); // before its figures are read
  return taken;
}

void Objects::add(const ObjectPtr& object) {
  VSNAP_ASSERT(by_id_.emplace(object->id, object).second);
  if (object->kind == ViewKind::volume) {
    if (!object->name.empty()) VSNAP_ASSERT(volumes_.emplace(object->name, object).second);
  } else {
    if (!object->name.empty())
      VSNAP_ASSERT(snapshots_.emplace(std::pair(object->volume->id, object->name), object).second);
    in_order_.emplace(std::pair(object->volume->id, object->id), object);
    by_view_.emplace(std::tuple(object->branch->id, object->number, object->id), object);
  }
}

void Objects::rename(const ObjectPtr& object, const std::string& name) {
  if (object->kind == ViewKind::volume) {
    volumes_.erase(object->name);
    object->name = name;
    if (!name.empty()) VSNAP_ASSERT(volumes_.emplace(name, object).second);
  } else {
    snapshots_.erase({object->volume->id, object->name});
    object->name = name;
    if (!name.empty()) VSNAP_ASSERT(snapshots_.emplace(std::pair(object->volume->id, name), object).second);
  }
}

void Objects::erase(const ObjectPtr& object) {
  if (!object->name.empty()) rename(object, "");
  by_id_.erase(object->id);
  if (object->kind != ViewKind::snapshot) return;
  in_order_.erase({object->volume->id, object->id});
  by_view_.erase({object->branch->id, object->number, object->id});
}

void Objects::move_snapshots(const Object& from, const ObjectPtr& to) {
  std::vector<ObjectPtr> moved;
  for (auto at = in_order_.lower_bound({from.id, ObjectId(0)});
       at != in_order_.end() && at->first.first == from.id; ++at)
    moved.push_back(at->second);
  for (const ObjectPtr& snapshot : moved) {
    in_order_.erase({from.id, snapshot->id});
    if (!snapshot->name.empty()) snapshots_.erase({from.id, snapshot->name});
    snapshot->volume = to;
    in_order_.emplace(std::pair(to->id, snapshot->id), snapshot);
    if (!snapshot->name.empty())
      VSNAP_ASSERT(snapshots_.emplace(std::pair(to->id, snapshot->name), snapshot).second);
  }
}

Branch* Objects::branch(BranchId id) {
  const auto found = branches_.find(id);
  return found == branches_.end() ? nullptr : found->second.get();
}

Branch& Objects::add_branch(std::unique_ptr<Branch> branch) {
  const BranchId id = branch->id;
  const auto [at, added] = branches_.emplace(id, std::move(branch));
  VSNAP_ASSERT(added);
  return *at->second;
}

void Objects::erase_branch(BranchId id) { branches_.erase(id); }

std::vector<Branch*> Objects::branches() {
  std::vector<Branch*> list;
  for (const auto& [id, branch] : branches_) list.push_back(branch.get());
  return list;
}

} // namespace vsnap
