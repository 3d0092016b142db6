// What a ModelPool tells about itself. Its changes are in model_pool_change.cpp, its I/O in model_view.cpp.
#include "tests/support/model_pool.h"

#include <fmt/format.h>
#include <algorithm>
#include <set>

#include "core/wait_listener.h"
#include "tests/support/model_view.h"

namespace vsnap {
namespace {

constexpr std::uint64_t kMetadataBytes = 1U << 20; // made up, so that SpaceInfo has all its parts

} // namespace

std::unique_ptr<ModelPool> ModelPool::make(std::string name) {
  return std::unique_ptr<ModelPool>(new ModelPool(std::move(name)));
}

void ModelPool::set_capacity(std::uint64_t bytes) {
  MutexLock lock(mutex_);
  capacity_bytes_ = bytes;
}

void ModelPool::set_before_write(std::function<void()> hook) {
  MutexLock lock(mutex_);
  before_write_ = std::move(hook);
}

void ModelPool::pause_writes(ObjectId view, WriteWait foreseen, std::uint64_t end) {
  MutexLock lock(mutex_);
  pause_end_ = end;
  foreseen_ = foreseen;
  may_pause_ = view;
  paused_ = true;
  stops_waiting_ = false;
}

void ModelPool::let_writes_go() {
  MutexLock lock(mutex_);
  paused_ = false;
  go_on_.notify_all();
}

void ModelPool::stop_waiting() {
  MutexLock lock(mutex_);
  stops_waiting_ = true;
  go_on_.notify_all();
}

std::size_t ModelPool::waiting_writes() {
  MutexLock lock(mutex_);
  return waiting_writes_;
}

Result<> ModelPool::wait_while_paused(ObjectId view, std::uint64_t offset) {
  if (view != may_pause_.load() || offset >= pause_end_) return {};
  ++waiting_writes_;
  if (paused_ && !stops_waiting_) {
    const Waits here;
    while (paused_ && !stops_waiting_) go_on_.wait(mutex_);
  }
  --waiting_writes_;
  return paused_ ? failure(ErrorKind::no_space, "no room, and not to be waited for") : Result<>();
}

void ModelPool::set_observer(PoolObserver* observer) {
  MutexLock lock(observer_mutex_);
  observer_ = observer;
}

void ModelPool::settle() {
  PoolObserver* observer = nullptr;
  {
    MutexLock lock(observer_mutex_);
    observer = observer_;
  }
  if (observer != nullptr) observer->settle();
}

void ModelPool::announce(const Events& events) {
  MutexLock lock(observer_mutex_);
  if (observer_ == nullptr) return;
  for (const std::string& entry : events.entries) observer_->entry_changed(entry);
  for (const ObjectId id : events.contents) observer_->content_changed(id);
}

Result<ModelPool::Object> ModelPool::look_up(const ViewName& name) {
  VSNAP_TRY(check_name("volume", name.volume));
  if (name.is_snapshot()) VSNAP_TRY(check_name("snapshot", name.snapshot));
  for (const auto& [id, object] : objects_) {
    if (!object->removed && object->info.name == name) return object;
  }
  return failure(ErrorKind::not_found,
                 fmt::format("{}/{}: no such {} (vsnap ls {} lists them)", name_, name.text(),
                             name.is_snapshot() ? "snapshot" : "volume", name_));
}

Result<ModelPool::Object> ModelPool::look_up(ObjectId id) {
  const auto found = objects_.find(id.value());
  if (found == objects_.end()) {
    return failure(ErrorKind::not_found, fmt::format("{}: no view has the id {}", name_, id.value()));
  }
  return found->second;
}

std::vector<ModelPool::Object> ModelPool::snapshots_of(const std::string& volume) {
  std::vector<Object> out;
  for (const auto& [id, object] : objects_) {
    if (!object->removed && object->info.name.is_snapshot() && object->info.name.volume == volume) {
      out.push_back(object);
    }
  }
  return out;
}

ViewInfo ModelPool::describe(const ModelObject& object) {
  ViewInfo out = object.info;
  if (object.removed) (object.info.name.is_snapshot() ? out.name.snapshot : out.name.volume).clear();
  out.used_bytes = object.blocks.size() * kBlockBytes;
  out.open_handles = object.handles;
  out.draining = object.draining;
  out.shows_draining = object.own.has_value();
  if (object.draining) out.state = "draining";
  if (object.clone_of) {
    const auto origin = objects_.find(object.clone_of->value());
    const bool there = origin != objects_.end() && !origin->second->removed;
    out.origin = there ? origin->second->info.name.text() : "(removed snapshot)";
  }
  if (object.copying) out.state = object.paused ? "copying 0 %, paused" : "copying 0 %";
  return out;
}

std::vector<ViewInfo> ModelPool::list() {
  MutexLock lock(mutex_);
  std::map<std::string, ViewInfo> volumes;
  for (const auto& [id, object] : objects_) {
    if (!object->removed && !object->info.name.is_snapshot()) {
      volumes[object->info.name.volume] = describe(*object);
    }
  }
  std::vector<ViewInfo> out;
  for (auto& [volume, info] : volumes) {
    out.push_back(std::move(info));
    for (const Object& snapshot : snapshots_of(volume)) out.push_back(describe(*snapshot));
  }
  return out;
}

Result<ViewInfo> ModelPool::find(const ViewName& name) {
  MutexLock lock(mutex_);
  VSNAP_TRY_ASSIGN(const Object object, look_up(name));
  return describe(*object);
}

Result<ViewInfo> ModelPool::info(ObjectId id) {
  MutexLock lock(mutex_);
  VSNAP_TRY_ASSIGN(const Object object, look_up(id));
  return describe(*object);
}

std::uint64_t ModelPool::blocks_in_use() {
  std::set<std::uint64_t> stamps;
  for (const auto& [id, object] : objects_) {
    for (const auto& [index, block] : object->blocks) stamps.insert(block.stamp);
  }
  return stamps.size();
}

std::uint64_t ModelPool::freed_by_removing(const std::vector<Object>& gone) {
  std::set<std::uint64_t> kept;
  std::set<std::uint64_t> freed;
  for (const auto& [id, object] : objects_) {
    const bool goes = std::find(gone.begin(), gone.end(), object) != gone.end();
    for (const auto& [index, block] : object->blocks) (goes ? freed : kept).insert(block.stamp);
  }
  const auto is_kept = [&](std::uint64_t stamp) { return kept.contains(stamp); };
  const auto shared = std::count_if(freed.begin(), freed.end(), is_kept);
  return (freed.size() - static_cast<std::uint64_t>(shared)) * kBlockBytes;
}

SpaceInfo ModelPool::space_locked() {
  SpaceInfo out;
  out.size_bytes = capacity_bytes_ + kMetadataBytes;
  out.data_bytes = blocks_in_use() * kBlockBytes;
  out.metadata_bytes = kMetadataBytes;
  out.metadata_used_bytes = kMetadataBytes / 2;
  out.free_bytes = capacity_bytes_ - std::min(capacity_bytes_, out.data_bytes);
  out.available_bytes = out.free_bytes;
  return out;
}

SpaceInfo ModelPool::space() {
  MutexLock lock(mutex_);
  return space_locked();
}

PoolStatus ModelPool::status() {
  MutexLock lock(mutex_);
  PoolStatus out;
  out.name = name_;
  out.generation = generation_;
  out.health = "ok";
  out.space = space_locked();
  out.members = members_;
  for (const auto& [id, object] : objects_) {
    if (object->removed) continue;
    (object->info.kind == ViewKind::volume ? out.volumes : out.snapshots) += 1;
    out.extents += object->blocks.size();
  }
  return out;
}

Result<DiskUsage> ModelPool::disk_usage() {
  DiskUsage out;
  for (ViewInfo& info : list()) out.rows.push_back({std::move(info), 0});
  MutexLock lock(mutex_);
  out.space = space_locked();
  for (UsageRow& row : out.rows) {
    const auto found = objects_.find(row.view.id.value());
    if (found != objects_.end()) row.frees_bytes = freed_by_removing({found->second});
  }
  return out;
}

bool ModelPool::shares_all_of(ObjectId view, ObjectId origin) {
  MutexLock lock(mutex_);
  const auto found = objects_.find(view.value());
  return found != objects_.end() && found->second->starts_from == origin;
}

Result<> ModelPool::diff(const ViewName& from, const ViewName& to,
                         const std::function<bool(const DiffRange&)>& each) {
  std::vector<DiffRange> ranges;
  {
    MutexLock lock(mutex_);
    VSNAP_TRY_ASSIGN(const Object older, look_up(from));
    VSNAP_TRY_ASSIGN(const Object newer, look_up(to));
    if (older->family != newer->family) {
      return failure(ErrorKind::usage,
                     fmt::format("{}/{} and {}: not made from one another, so there is no difference to tell",
                                 name_, from.text(), to.text()));
    }
    std::set<std::uint64_t> candidates;
    for (const auto& [index, block] : older->blocks) candidates.insert(index);
    for (const auto& [index, block] : newer->blocks) candidates.insert(index);
    const auto stamp_of = [](const ModelObject& object, std::uint64_t index) { // 0: a hole
      const auto found = object.blocks.find(index);
      return found == object.blocks.end() || found->second.reserved ? 0 : found->second.stamp;
    };
    const std::uint64_t end = std::max(older->info.size_bytes, newer->info.size_bytes);
    for (const std::uint64_t index : candidates) {
      const std::uint64_t stamp = stamp_of(*newer, index);
      if (stamp == stamp_of(*older, index)) continue;
      const std::uint64_t offset = index * kBlockBytes;
      const DiffRange range{offset, std::min(kBlockBytes, end - offset),
                            stamp == 0 ? DiffState::hole : DiffState::data};
      if (!ranges.empty() && ranges.back().state == range.state &&
          ranges.back().offset + ranges.back().length == offset) {
        ranges.back().length += range.length;
      } else {
        ranges.push_back(range);
      }
    }
  }
  for (const DiffRange& range : ranges) {
    if (!each(range)) break;
  }
  return {};
}

Result<CheckReport> ModelPool::check(bool, const Progress&) {
  CheckReport report;
  report.extents_checked = status().extents;
  return report;
}

Result<> ModelPool::dump_catalog(const std::string&, const Progress&) {
  return failure(ErrorKind::failed, EOPNOTSUPP,
                 fmt::format("{}: a pool in memory has no catalog to dump", name_));
}

Result<ViewHandle> ModelPool::open_view(ObjectId id) {
  MutexLock lock(mutex_);
  VSNAP_TRY_ASSIGN(const Object object, look_up(id));
  if (object->removed && !keep_unlinked_)
    return failure(ErrorKind::not_found, fmt::format("{}: that view was removed", name_));
  ++object->handles;
  return ViewHandle(this, std::make_shared<ModelView>(*this, object));
}

void ModelPool::handle_closed(View& view) noexcept {
  MutexLock lock(mutex_);
  const auto found = objects_.find(view.id().value());
  if (found == objects_.end()) return;
  if (--found->second->handles == 0 && found->second->removed && !keep_unlinked_) objects_.erase(found);
}

void ModelPool::keep_unlinked() {
  MutexLock lock(mutex_);
  keep_unlinked_ = true;
}

} // namespace vsnap
