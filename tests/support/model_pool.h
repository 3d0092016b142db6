// A pool kept in memory, written to be obviously right and nothing else: a view is a map from block to
// content, and a snapshot, clone or rollback copies that map whole. It is what the real engine is compared
// with, and what the tests of fuse/ and sync/ run on.
//
// Invariants
// 1. A view has no block at or past its end, and its last block is zero past the end.
// 2. Every write gives a block a new stamp; copies keep it. Views share a block where the stamps are equal.
// 3. Object ids start at 2 and are never used twice. A removed view that is open keeps its object, without a
//    name (a snapshot: with its volume only).
// An adopted volume has every block up to its end; the image itself is not touched.
// Where the interface leaves a choice: a discard that reaches the end of the view frees a partial last block
// too; reserve() without extend stops at the end; diff() tells blocks that were written, even with the same
// content.
// Threads: as core/pool.h; one mutex around everything. Views must not outlive the pool.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <map>
#include <memory>
#include <set>

#include "core/mutex.h"
#include "core/pool.h"

namespace vsnap {

struct ModelBlock {
  std::uint64_t stamp = 0;
  bool reserved = false; // space without data: counts as used, reads as zeros, is a hole
  std::array<std::byte, kBlockBytes> content{};
};

struct ModelObject {
  ViewInfo info; // open_handles, used_bytes and origin are filled in when asked for
  bool removed = false;
  std::uint32_t handles = 0;
  std::uint64_t family = 0;            // views with a common ancestor have the same
  std::optional<ObjectId> clone_of;    // cleared by flatten
  std::optional<ObjectId> starts_from; // what it was made a copy of
  bool adopted = false;                // has every block, and the size it has
  std::map<std::uint64_t, ModelBlock> blocks;
  bool draining = false;                      // a preserved image that old handles write to
  std::weak_ptr<ModelObject> above;           // the second image, in which this one shows ...
  std::optional<std::set<std::uint64_t>> own; // ... but for these blocks of it
  bool copying = false; // of a full-sized snapshot: it has none of its own yet
  bool paused = false;
};

class ModelPool : public Pool {
 public:
  static constexpr std::uint64_t kDefaultCapacityBytes = 1ULL << 40;

  static std::unique_ptr<ModelPool> make(std::string name);
  // Writes that would need more blocks than this answer ENOSPC. Slow once it is below the default.
  void set_capacity(std::uint64_t bytes) VSNAP_EXCLUDES(mutex_);
  // Called by every write before it does anything, without locks held: to hold one back.
  void set_before_write(std::function<void()> hook) VSNAP_EXCLUDES(mutex_);

  // Writes to this view may have to wait for room, and do from now on; until there is room, or they are to
  // stop waiting. `foreseen`: what View::write_wait() says. From `end` on they need no room.
  void pause_writes(ObjectId view, WriteWait foreseen = WriteWait::others,
                    std::uint64_t end = kMaxVolumeBytes) VSNAP_EXCLUDES(mutex_);
  void let_writes_go() VSNAP_EXCLUDES(mutex_);
  void stop_waiting() override VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] std::size_t waiting_writes() VSNAP_EXCLUDES(mutex_);

  // Where adopt() finds the content of an image.
  void set_images(std::function<std::vector<std::byte>(const std::string& path)> images)
      VSNAP_EXCLUDES(mutex_);

  Result<> close() override { return {}; }
  void keep_unlinked() override VSNAP_EXCLUDES(mutex_); // and opens them again from then on
  void set_observer(PoolObserver* observer) override;   // returns when no callback is running
  void settle() override;

  [[nodiscard]] std::string name() const override { return name_; }
  PoolStatus status() override;
  [[nodiscard]] std::vector<ViewInfo> list() override;
  Result<ViewInfo> find(const ViewName& name) override;
  Result<ViewInfo> info(ObjectId id) override; // of a removed view too, while it is open
  Result<DiskUsage> disk_usage() override;
  [[nodiscard]] SpaceInfo space() override;

  Result<std::optional<ObjectId>> carried_out(RequestId request) override;
  Result<> add_member(const MemberSpec& member, bool force) override;
  Result<ViewInfo> create_volume(const std::string& volume, std::uint64_t size_bytes) override;
  Result<ViewInfo> adopt(const AdoptOptions& options) override;
  Result<ReleaseResult> release(const std::string& volume, ReleaseOptions options,
                                const Progress& progress) override;
  using Pool::rename;
  using Pool::resize;
  Result<> rename(const ViewName& from, const std::string& new_name, bool replace) override;
  Result<> resize(ObjectId id, std::uint64_t size_bytes, bool allow_shrink) override;
  Result<> set_attributes(ObjectId id, std::optional<std::uint32_t> mode, std::optional<std::uint32_t> uid,
                          std::optional<std::uint32_t> gid, std::optional<std::int64_t> modified_ns) override;
  Result<> snapshot(std::span<const ViewName> names) override;
  Result<> raise_levels(std::span<const LevelRaise> raises) override;
  using Pool::rollback;
  Result<RollbackResult> rollback(const ViewName& to, bool discard, bool dry_run,
                                  const Progress& progress) override;
  Result<ViewInfo> clone(const ViewName& from, const std::string& new_volume) override;
  Result<> share_into(ObjectId from, ObjectId to) override;
  [[nodiscard]] bool shares_all_of(ObjectId view, ObjectId origin) override;
  Result<ViewInfo> preserve(const ViewName& name) override;
  // Images that nobody has open any more are final, the oldest first; the caller says when.
  void finish_preserved() VSNAP_EXCLUDES(mutex_);
  Result<> flatten(const std::string& volume, const Progress& progress) override;
  Result<> snapshot_full(const ViewName& name, const FullSnapshotOptions& options) override;
  Result<> wait_for_copy(const ViewName& name, const Progress& progress) override;
  Result<> set_copy(const ViewName& name, const CopySettings& settings) override;
  Result<ViewInfo> split(const ViewName& from, const std::string& new_volume) override;
  Result<ViewInfo> refresh(const ViewName& name) override;
  // Kept, and nothing is limited by them.
  Result<> set_properties(const std::string& volume, const Properties& properties) override;
  Result<std::vector<PropertyInfo>> properties(const std::string& volume) override;
  Result<> hold(std::span<const ViewName> names, const std::string& tag) override;
  Result<> release_hold(std::span<const ViewName> names, const std::string& tag) override;
  Result<RemovalPlan> remove(std::span<const ViewName> names, RemoveOptions options) override;
  Result<> wait_for_removals(const Progress&) override { return {}; }

  Result<> diff(const ViewName& from, const ViewName& to,
                const std::function<bool(const DiffRange&)>& each) override;
  Result<CheckReport> check(bool repair, const Progress& progress) override;
  Result<> dump_catalog(const std::string& path, const Progress& progress) override;

  Result<ViewHandle> open_view(ObjectId id) override;
  Result<> sync() override { return {}; }

 private:
  friend class ModelView;
  using Object = std::shared_ptr<ModelObject>;
  struct Events { // told to the observer after the mutex is released
    std::vector<std::string> entries;
    std::vector<ObjectId> contents;
  };

  explicit ModelPool(std::string name) : name_(std::move(name)) {}
  void handle_closed(View& view) noexcept override;
  void announce(const Events& events);

  Result<Object> look_up(const ViewName& name) VSNAP_REQUIRES(mutex_);
  Result<Object> look_up(ObjectId id) VSNAP_REQUIRES(mutex_);
  // A new object of that name, which nobody has.
  Result<Object> free_volume_name(const std::string& volume) VSNAP_REQUIRES(mutex_);
  std::vector<Object> snapshots_of(const std::string& volume) VSNAP_REQUIRES(mutex_);
  Result<Object> look_up_copy(const ViewName& name) VSNAP_REQUIRES(mutex_);
  Result<> check_not_held(const ModelObject& snapshot) VSNAP_REQUIRES(mutex_);
  Result<std::vector<Object>> snapshots_to_hold(std::span<const ViewName> names, const std::string& tag,
                                                bool held) VSNAP_REQUIRES(mutex_);
  Object copy_as_snapshot(const ModelObject& volume, const std::string& snapshot) VSNAP_REQUIRES(mutex_);
  ViewInfo describe(const ModelObject& object) VSNAP_REQUIRES(mutex_);
  std::uint64_t blocks_in_use() VSNAP_REQUIRES(mutex_);
  std::uint64_t freed_by_removing(const std::vector<Object>& gone) VSNAP_REQUIRES(mutex_);
  Result<> make_room(ModelObject& object, std::uint64_t first, std::uint64_t last) VSNAP_REQUIRES(mutex_);
  Result<> wait_while_paused(ObjectId view, std::uint64_t offset) VSNAP_REQUIRES(mutex_);
  Result<std::vector<Object>> chosen_for_removal(std::span<const ViewName> names,
                                                 const RemoveOptions& options) VSNAP_REQUIRES(mutex_);
  ModelBlock& block_for_writing(ModelObject& object, std::uint64_t index) VSNAP_REQUIRES(mutex_);
  // After a change of blocks [first, last] of an image, those above it are changed where it shows.
  void show_through(const ModelObject& object, std::uint64_t first, std::uint64_t last)
      VSNAP_REQUIRES(mutex_);
  // Whether the object stands still, or a preserved image is in the way.
  Result<> check_settled(const ModelObject& object) VSNAP_REQUIRES(mutex_);
  // What shows behind the end is gone before the end moves on.
  void hide_below(ModelObject& object, std::uint64_t end) VSNAP_REQUIRES(mutex_);
  // What grows with a gap writes zeros to the rest of its last block, where that has data.
  void decide_end(ModelObject& object, bool grows) VSNAP_REQUIRES(mutex_);
  // Whether a part of a block has to be written to become zeros for good.
  static bool may_show(const ModelObject& object, const std::pair<const std::uint64_t, ModelBlock>& block) {
    return !block.second.reserved || (object.own && !object.own->contains(block.first));
  }
  static void decide(ModelObject& object, std::uint64_t block) {
    if (object.own) object.own->insert(block);
  }
  void set_size(ModelObject& object, std::uint64_t size_bytes) VSNAP_REQUIRES(mutex_);
  SpaceInfo space_locked() VSNAP_REQUIRES(mutex_);
  void next_generation() VSNAP_REQUIRES(mutex_);

  const std::string name_;
  Mutex mutex_;
  std::map<std::uint64_t, Object> objects_ VSNAP_GUARDED_BY(mutex_); // by id, so in order of creation
  std::map<std::string, Properties> properties_ VSNAP_GUARDED_BY(mutex_); // by volume
  std::uint64_t next_id_ VSNAP_GUARDED_BY(mutex_) = 2;               // 1 is the mount's root directory
  std::uint64_t next_stamp_ VSNAP_GUARDED_BY(mutex_) = 1;
  bool keep_unlinked_ VSNAP_GUARDED_BY(mutex_) = false;
  std::uint64_t generation_ VSNAP_GUARDED_BY(mutex_) = 1;
  std::map<std::uint64_t, ObjectId> carried_out_ VSNAP_GUARDED_BY(mutex_); // by request
  std::uint64_t capacity_bytes_ VSNAP_GUARDED_BY(mutex_) = kDefaultCapacityBytes;
  std::vector<MemberInfo> members_ VSNAP_GUARDED_BY(mutex_);
  std::function<void()> before_write_ VSNAP_GUARDED_BY(mutex_);
  std::atomic<ObjectId> may_pause_{}; // written under mutex_, as the next
  std::atomic<WriteWait> foreseen_{WriteWait::none};
  CondVar go_on_;
  bool paused_ VSNAP_GUARDED_BY(mutex_) = false;
  std::uint64_t pause_end_ VSNAP_GUARDED_BY(mutex_) = 0;
  bool stops_waiting_ VSNAP_GUARDED_BY(mutex_) = false;
  std::size_t waiting_writes_ VSNAP_GUARDED_BY(mutex_) = 0;
  std::function<std::vector<std::byte>(const std::string&)> images_ VSNAP_GUARDED_BY(mutex_);

  Mutex observer_mutex_; // held while the observer is called, never together with mutex_
  PoolObserver* observer_ VSNAP_GUARDED_BY(observer_mutex_) = nullptr;
};

} // namespace vsnap
