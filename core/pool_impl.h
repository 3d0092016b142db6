// The pool behind core/pool.h. Its methods are spread over files by subject:
//   pool.cpp (create, open, close, describe)   pool_volumes.cpp (create, rename, resize, attributes, members)
//   pool_views.cpp (snapshot, clone, roll back, share)   pool_removal.cpp (remove, sweep, usage)
//   flatten.cpp   diff.cpp   check.cpp
//
// Lock order: core/README.md. handle_closed() may need the config lock, so no handle is closed under any
// other.
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "core/base.h"
#include "core/catalog.h"
#include "core/engine.h"
#include "core/objects.h"
#include "core/pool.h"
#include "core/sweeper.h"
#include "core/volume_io.h"

namespace vsnap {

[[nodiscard]] unsigned percent_used(const SpaceInfo& space);

class PoolImpl final : public Pool {
 public:
  PoolImpl(Env& env, OpenPoolOptions options, std::unique_ptr<MemberSet> members);
  ~PoolImpl() override;
  Result<> start();

  Result<> close() override;
  void keep_unlinked() override { keep_unlinked_ = true; }
  [[nodiscard]] bool survives_kill() const override { return engine_->has_tail(); }
  void set_observer(PoolObserver* observer) override { observer_.store(observer); }
  void settle() override;
  [[nodiscard]] std::string name() const override { return name_; }
  PoolStatus status() override;
  [[nodiscard]] std::vector<ViewInfo> list() override;
  Result<ViewInfo> find(const ViewName& name) override;
  Result<ViewInfo> info(ObjectId id) override;
  Result<DiskUsage> disk_usage() override;
  [[nodiscard]] SpaceInfo space() override { return engine_->space(); }

  Result<> add_member(const MemberSpec& member, bool force) override;
  Result<ViewInfo> adopt(const AdoptOptions& options) override;
  Result<ReleaseResult> release(const std::string& volume, ReleaseOptions options,
                                const Progress& progress) override;
  Result<ViewInfo> create_volume(const std::string& name, std::uint64_t size_bytes) override;
  using Pool::rename;
  using Pool::resize;
  Result<> rename(const ViewName& from, const std::string& new_name, bool replace) override;
  Result<> resize(ObjectId id, std::uint64_t size_bytes, bool allow_shrink) override;
  Result<> set_attributes(ObjectId id, std::optional<std::uint32_t> mode, std::optional<std::uint32_t> uid,
                          std::optional<std::uint32_t> gid, std::optional<std::int64_t> modified_ns) override;
  Result<> snapshot(std::span<const ViewName> names) override;
  Result<RollbackResult> rollback(const ViewName& to, bool discard, bool dry_run) override;
  Result<ViewInfo> clone(const ViewName& from, const std::string& new_volume) override;
  Result<> share_into(ObjectId from, ObjectId to) override;
  [[nodiscard]] bool shares_all_of(ObjectId view, ObjectId origin) override;
  Result<> flatten(const std::string& volume, const Progress& progress) override;
  Result<RemovalPlan> remove(std::span<const ViewName> names, RemoveOptions options) override;
  Result<> wait_for_removals(const Progress& progress) override;
  Result<> diff(const ViewName& from, const ViewName& to,
                const std::function<bool(const DiffRange&)>& each) override;
  Result<CheckReport> check(bool repair, const Progress& progress) override;
  Result<> dump_catalog(const std::string& path, const Progress& progress) override;
  Result<ViewHandle> open_view(ObjectId id) override;
  Result<> sync() override { return engine_->sync(); }

 private:
  void handle_closed(View& view) noexcept override;

  // Names
  [[nodiscard]] Result<ObjectPtr> object_named(const ViewName& name) VSNAP_EXCLUDES(objects_.mutex());
  [[nodiscard]] Result<ObjectPtr> volume_named(const std::string& name) VSNAP_EXCLUDES(objects_.mutex());
  [[nodiscard]] Result<> check_free(const ViewName& name) VSNAP_EXCLUDES(objects_.mutex());
  [[nodiscard]] Failure not_found(const ViewName& name);
  void tell_entry(const std::string& file_name);
  void tell_content(ObjectId id);

  // The view of an object, opened if need be; shared with whoever has it open.
  std::shared_ptr<VolumeIo> view_of(const ObjectPtr& object);
  std::shared_ptr<VolumeIo> view_of_locked(const ObjectPtr& object) VSNAP_REQUIRES(objects_.mutex());
  [[nodiscard]] std::shared_ptr<VolumeIo> head_view(const Branch& branch);

  // Configuration transactions
  Result<> configure(const Engine::Step& step) VSNAP_REQUIRES(config_mutex_);
  Result<> configure_locked(const Engine::Step& step) VSNAP_REQUIRES(engine_->commit_mutex());
  [[nodiscard]] Engine::Step with_generation(const Engine::Step& step);
  [[nodiscard]] Result<> check_room() const; // for a change that adds rows
  Result<> draw_line(std::span<Branch* const> branches,
                     const std::function<void(std::uint64_t line)>& at_the_line, const Engine::Step& step)
      VSNAP_REQUIRES(engine_->commit_mutex());
  Result<> hold_empty(Branch& child) VSNAP_REQUIRES(engine_->commit_mutex());
  Result<> release_pins(const std::vector<Pin>& pins, const Engine::Step& step)
      VSNAP_REQUIRES(engine_->commit_mutex());
  // Busy where the object is open; a change that needs it closed withholds it from then on.
  [[nodiscard]] Result<> check_idle(const Object& object) VSNAP_REQUIRES(objects_.mutex());
  // Busy while the volume is being flattened: then it is neither removed nor rolled back.
  [[nodiscard]] Result<> check_not_flattening(const Object& object)
      VSNAP_REQUIRES(config_mutex_, objects_.mutex());
  Result<> switch_branch(const ObjectPtr& volume, const Object& target, const ObjectPtr& kept, bool discard)
      VSNAP_REQUIRES(config_mutex_);
  [[nodiscard]] std::unique_ptr<Branch> new_branch(Branch* parent, Version number, std::int64_t mapped);
  void add_child(std::unique_ptr<Branch> branch) VSNAP_REQUIRES(engine_->commit_mutex(), objects_.mutex());
  Result<ViewInfo> add_volume(std::unique_ptr<Branch> branch, const ObjectPtr& volume,
                              const Engine::Step& also = {}) VSNAP_REQUIRES(config_mutex_);
  ObjectPtr make_volume(const std::string& name, std::uint64_t size_bytes);
  Result<> start_tail();
  Result<> finish_open() VSNAP_REQUIRES(config_mutex_);
  Result<> finish_trim(const ObjectPtr& volume) VSNAP_REQUIRES(config_mutex_);

  // Removal
  struct RemovalSet {
    std::vector<ObjectPtr> objects;
    std::multiset<Pin> pins;
  };
  Result<RemovalSet> plan_removal(std::span<const ViewName> names, const RemoveOptions& options)
      VSNAP_REQUIRES(config_mutex_);
  Result<RemovalPlan> estimate_removal(std::span<const ViewName> names, const RemoveOptions& options);
  Result<> remove_planned(const std::vector<ObjectPtr>& idle, const std::vector<ObjectPtr>& open)
      VSNAP_REQUIRES(config_mutex_);
  Result<> erase_objects(const std::vector<ObjectPtr>& objects) VSNAP_REQUIRES(config_mutex_);
  Result<bool> sweep_step();

  Result<std::vector<DiffRange>> diff_region(VolumeIo& old_view, VolumeIo& new_view, RegionIndex index);

  Result<> check_in_use(CheckReport& report, const Progress& progress);
  Result<> check_unused(bool repair, CheckReport& report, const Progress& progress);

  // Flatten
  struct FlattenRun;
  Result<> begin_flatten(const std::string& name, FlattenRun& run) VSNAP_REQUIRES(config_mutex_);
  Result<> flatten_region(FlattenRun& run, RegionIndex region);
  Result<> hold_sweep(const Branch& branch, bool hold);
  Result<> copy_piece(FlattenRun& run, BlockIndex start, Entry source, PlaceRun place);
  Result<> finish_flatten(const ObjectPtr& volume) VSNAP_REQUIRES(config_mutex_);

  // Adopted volumes: pool_adopt.cpp, pool_release.cpp, pool_image.cpp
  struct Image { // open and locked
    std::string path;
    std::unique_ptr<File> file;
    FileStamp stamp;
  };
  Result<> load_bases(SQLite::Database& db) VSNAP_EXCLUDES(objects_.mutex());
  Result<> attach_bases() VSNAP_EXCLUDES(objects_.mutex());
  std::optional<std::string> attach_base(Base& base, std::uint64_t size_bytes);
  Result<Image> open_image(const AdoptOptions& options) VSNAP_REQUIRES(config_mutex_);
  Result<ViewInfo> adopt_new(const AdoptOptions& options) VSNAP_REQUIRES(config_mutex_);
  Result<ViewInfo> adopt_again(const AdoptOptions& options, const ObjectPtr& volume)
      VSNAP_REQUIRES(config_mutex_);
  Result<> mark_base(Branch& branch);
  Result<> close_bases();
  Result<> store_base(const Base& base) VSNAP_REQUIRES(engine_->commit_mutex());
  [[nodiscard]] Base base_of(const Branch& branch) VSNAP_EXCLUDES(objects_.mutex());
  void set_base(const Base& base) VSNAP_EXCLUDES(objects_.mutex());
  void forget_base(Branch& branch) VSNAP_REQUIRES(engine_->commit_mutex()) VSNAP_EXCLUDES(objects_.mutex());
  // Fails where the view looks at an image that cannot be used.
  [[nodiscard]] Result<> check_images(const Object& object) VSNAP_REQUIRES(objects_.mutex());
  // Fails where views that stay look at the image of a volume that goes, or a rollback needs a snapshot.
  [[nodiscard]] Result<> check_image_removal(const std::vector<ObjectPtr>& gone,
                                             const std::multiset<Pin>& pins) VSNAP_REQUIRES(objects_.mutex());
  // What a removed clone still holds of the image of one of these volumes is let go of first.
  Result<> finish_sweeps_of_images(std::span<const ViewName> names) VSNAP_EXCLUDES(config_mutex_);
  Result<> resize_image(const ObjectPtr& volume, std::uint64_t size_bytes) VSNAP_REQUIRES(config_mutex_);
  Result<> roll_back_image(const ObjectPtr& volume, const ObjectPtr& target, const ObjectPtr& kept,
                           bool discard) VSNAP_REQUIRES(config_mutex_);
  Result<> keep_as_snapshot(const ObjectPtr& volume, const ObjectPtr& kept, const Engine::Step& also)
      VSNAP_REQUIRES(config_mutex_, engine_->commit_mutex());
  Result<> restore_image(const ObjectPtr& volume, const ObjectPtr& target) VSNAP_REQUIRES(config_mutex_);
  Result<> finish_rollbacks() VSNAP_REQUIRES(config_mutex_);
  Result<> keep_snapshots(const ObjectPtr& volume, const Progress& progress) VSNAP_EXCLUDES(config_mutex_);
  Result<> detach_image(const ObjectPtr& volume) VSNAP_REQUIRES(config_mutex_);

  // Recovery
  Result<> recover();
  Result<> replay(const LogRecord& record);
  Result<> replay_figures(const LogRecord& record);
  Result<> replay_change(const LogRecord& record);
  Result<> replay_places(const LogRecord& record, const MapChange& change);

  // Background
  Result<> start_background();
  void background_loop();
  void mark_failure();
  void warn_about_space();

  Env& env_;
  const OpenPoolOptions options_;
  std::string name_;
  Uuid uuid_{};
  std::unique_ptr<Engine> engine_;
  Objects objects_;
  std::string journal_damage_; // what check has to say of it
  // While records are replayed: the places that they took, and for which block.
  std::map<Place, std::pair<BranchId, BlockIndex>> replayed_places_;
  std::vector<ObjectPtr> being_stored_; // by the commit under way; under the commit lock
  std::unique_ptr<Sweeper> sweeper_;
  std::unique_ptr<LiveCounters> counters_; // the daemon's
  std::atomic<std::uint64_t> generation_{0};
  std::atomic<PoolObserver*> observer_{nullptr};
  bool closed_ = false;
  std::atomic<bool> keep_unlinked_{false};
  bool may_change_ = false; // opened in order, not to be checked: close() has something to finish

  Mutex config_mutex_;
  std::map<ObjectId, std::shared_ptr<VolumeIo>> views_ VSNAP_GUARDED_BY(objects_.mutex());
  std::map<BranchId, Base> bases_ VSNAP_GUARDED_BY(objects_.mutex());
  std::set<ObjectId> flattening_ VSNAP_GUARDED_BY(config_mutex_);

  std::thread background_;
  Mutex background_mutex_;
  CondVar background_wake_;
  bool stop_ VSNAP_GUARDED_BY(background_mutex_) = false;
  bool commit_wanted_ VSNAP_GUARDED_BY(background_mutex_) = false; // by writers, before the log is full
  std::atomic<unsigned> warned_percent_{0};
};

} // namespace vsnap
