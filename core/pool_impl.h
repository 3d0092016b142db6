// The pool behind core/pool.h. Its methods are spread over files by subject:
//   pool.cpp (create, open, close, describe)   pool_volumes.cpp (create, rename, resize, attributes, members)
//   pool_views.cpp (snapshot, clone, roll back, share)   pool_removal.cpp (remove, sweep, usage)
//   pool_level.cpp (what a snapshot turned out to hold)
//   pool_preserve.cpp (a second image while programs write to the first)
//   pool_full.cpp (full-sized snapshots, split)   pool_copying.cpp (their copies)   pool_refresh.cpp
//   pool_properties.cpp   pool_limit.cpp (the limit on the space of snapshots)   pool_hold.cpp
//   pool_hosts.cpp (hosts that share it)   pool_delegation.cpp (volumes that one of them writes itself)
//   pool_grants.cpp (to places that it was granted)
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
#include "core/branch_copier.h"
#include "core/catalog.h"
#include "core/delegation_rows.h"
#include "core/delegation_table.h"
#include "core/engine.h"
#include "core/granted_space.h"
#include "core/hold.h"
#include "core/objects.h"
#include "core/pause.h"
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
  [[nodiscard]] bool survives_kill() const override { return engine_->has_tail() || is_read_only(); }
  [[nodiscard]] bool is_read_only() const override { return engine_->members().frozen(); }
  [[nodiscard]] std::vector<int> member_descriptors() const override {
    return engine_->members().descriptors();
  }
  [[nodiscard]] std::uint64_t losses() const override { return engine_->losses(); }
  void tell_changed(ObjectId id, std::uint64_t offset, std::uint64_t length) override;
  void set_observer(PoolObserver* observer) override { observer_.store(observer); }
  void settle() override;
  [[nodiscard]] std::string name() const override { return name_; }
  PoolStatus status() override;
  [[nodiscard]] std::uint64_t generation() override { return generation_.load(); }
  [[nodiscard]] std::vector<ViewInfo> list() override;
  Result<ViewInfo> find(const ViewName& name) override;
  Result<ViewInfo> info(ObjectId id) override;
  Result<DiskUsage> disk_usage() override;
  [[nodiscard]] SpaceInfo space() override { return engine_->space(); }

  Result<std::optional<ObjectId>> carried_out(RequestId request) override;
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
  Result<> raise_levels(std::span<const LevelRaise> raises) override;
  Result<RollbackResult> rollback(const ViewName& to, bool discard, bool dry_run,
                                  const Progress& progress) override;
  Result<ViewInfo> clone(const ViewName& from, const std::string& new_volume) override;
  Result<> share_into(ObjectId from, ObjectId to) override;
  [[nodiscard]] bool shares_all_of(ObjectId view, ObjectId origin) override;
  Result<ViewInfo> preserve(const ViewName& name) override;
  Result<> flatten(const std::string& volume, const Progress& progress) override;
  Result<> snapshot_full(const ViewName& name, const FullSnapshotOptions& options) override;
  Result<> wait_for_copy(const ViewName& name, const Progress& progress) override;
  Result<> set_copy(const ViewName& name, const CopySettings& settings) override;
  Result<ViewInfo> split(const ViewName& from, const std::string& new_volume) override;
  Result<ViewInfo> refresh(const ViewName& name) override;
  Result<> set_properties(const std::string& volume, const Properties& properties) override;
  Result<std::vector<PropertyInfo>> properties(const std::string& volume) override;
  Result<> hold(std::span<const ViewName> names, const std::string& tag) override;
  Result<> release_hold(std::span<const ViewName> names, const std::string& tag) override;
  Result<Hosts> hosts() override;
  Result<std::uint64_t> begin_reign() override;
  Result<MemberMark> mark_members() override { return engine_->members().mark_members(env_); }
  Result<Invitation> invite(const HostKey& key, const std::string& name, std::int64_t valid_ns) override;
  Result<HostInfo> join(const HostKey& invited, const std::string& wished, const HostKey& key) override;
  Result<Hosts> revoke(const std::string& name, bool dry_run) override;
  void count_snapshot_space(Figures wanted) override;
  void stop_waiting() override;
  [[nodiscard]] bool waits_no_more() const override { return waits_no_more_.load(); }
  void look_for_room() override;
  Result<RemovalPlan> remove(std::span<const ViewName> names, RemoveOptions options) override;
  Result<> wait_for_removals(const Progress& progress) override;
  Result<> diff(const ViewName& from, const ViewName& to,
                const std::function<bool(const DiffRange&)>& each) override;
  Result<CheckReport> check(bool repair, const Progress& progress) override;
  Result<> dump_catalog(const std::string& path, const Progress& progress) override;
  Result<> keep_snapshots_for(std::int64_t lease_ns) override;
  Result<std::optional<RegionMap>> export_map(ObjectId open, RegionIndex region) override;
  void set_delegation_keeper(DelegationKeeper* keeper) override;
  Result<std::optional<Delegation>> delegate(ObjectId volume, std::uint64_t host,
                                             std::uint32_t handles) override;
  Result<> end_delegation(std::uint64_t host, std::uint64_t number) override;
  Result<> end_delegations(std::uint64_t host) override;
  void lose_delegations(std::uint64_t host) override;
  Result<std::vector<PlaceRun>> grant_space(std::uint64_t host, std::uint64_t number,
                                            BlockCount wanted) override;
  Result<> commit_blocks(std::uint64_t host, std::uint64_t number, std::span<const MapRun> runs) override;
  void await_returns(std::uint64_t host) override { delegations_.await(host); }
  [[nodiscard]] bool is_delegated(ObjectId volume) override { return delegations_.stands_for(volume); }
  [[nodiscard]] std::vector<DelegationInfo> delegations() override;
  Result<ViewHandle> open_view(ObjectId id) override { return open_view_for(id, DelegationTable::kNobody); }
  Result<ViewHandle> open_view_for(ObjectId id, std::uint64_t host) override;
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
  struct NewSnapshot {
    ObjectPtr object;
    std::unique_ptr<Branch> own; // of one that is to be full-sized; object->branch is it
    ObjectPtr replaces;          // whose name it gets; or nullptr
  };
  // Of a volume that there is; the name may be taken.
  [[nodiscard]] Result<ObjectPtr> new_snapshot(const ViewName& name);
  // `also`: in the same transaction, once they have their numbers.
  Result<> draw_snapshots(std::vector<NewSnapshot>& made, const Engine::Step& also = {})
      VSNAP_REQUIRES(config_mutex_);
  void draw_snapshot(const NewSnapshot& made, std::uint64_t line);
  Result<> store_levels(std::span<const std::pair<ObjectPtr, SnapshotLevel>> levels)
      VSNAP_REQUIRES(config_mutex_);
  Result<> draw_line(std::span<Branch* const> branches,
                     const std::function<void(std::uint64_t line)>& at_the_line, const Engine::Step& step)
      VSNAP_REQUIRES(engine_->commit_mutex());
  Result<> hold_empty(Branch& child) VSNAP_REQUIRES(engine_->commit_mutex());
  Result<> release_pins(const std::vector<Pin>& pins, const Engine::Step& step)
      VSNAP_REQUIRES(engine_->commit_mutex());
  // Busy where the object is open; a change that needs it closed withholds it from then on.
  [[nodiscard]] Result<> check_idle(const Object& object) VSNAP_REQUIRES(objects_.mutex());
  Result<> load_promise();
  Result<std::optional<RegionMap>> export_head(VolumeIo& view, RegionIndex region);
  Result<> note_promise_seen(); // so that the next process does not count anew
  // Busy while another host may read the snapshot by what a process before this one has told it.
  [[nodiscard]] Result<> check_not_promised(const Object& snapshot) VSNAP_REQUIRES(objects_.mutex());
  // Whether the places that a view shows may change while it is open; see exported_map.h.
  [[nodiscard]] bool map_may_move(const Object& object) VSNAP_REQUIRES(objects_.mutex());
  // The same of a volume, but for what its own changes do.
  [[nodiscard]] bool head_may_move(const Object& volume) VSNAP_REQUIRES(objects_.mutex());
  // Busy where another host has the map of a snapshot that sees the branch.
  [[nodiscard]] Result<> check_not_exported(const Branch& branch) VSNAP_REQUIRES(objects_.mutex());
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

  // Preserve
  Result<ObjectPtr> plan_preserve(const ViewName& name) VSNAP_REQUIRES(config_mutex_);
  Result<> store_preserve(const ViewName& name, const ObjectPtr& first, const ObjectPtr& second,
                          Branch& branch) VSNAP_REQUIRES(engine_->commit_mutex());
  void become_draining(const ViewName& name, const ObjectPtr& first, const ObjectPtr& second)
      VSNAP_REQUIRES(objects_.mutex());
  Result<> finish_preserved() VSNAP_REQUIRES(config_mutex_);
  Result<> make_final(const ObjectPtr& image) VSNAP_REQUIRES(config_mutex_);
  Result<> count_second(ObjectId image, const Object& second) VSNAP_REQUIRES(config_mutex_);
  Result<> resume_preserved() VSNAP_REQUIRES(config_mutex_);
  void finish_preserved_if_asked() VSNAP_EXCLUDES(config_mutex_);
  [[nodiscard]] bool note_old_handle_closed(Object& image) VSNAP_REQUIRES(objects_.mutex());
  ViewHandle open_draining(const ObjectPtr& image) VSNAP_REQUIRES(objects_.mutex());
  [[nodiscard]] Failure still_draining(const Object& image) VSNAP_REQUIRES(objects_.mutex());
  // Busy where the object, or the image that shows through it, is still written to under old handles.
  [[nodiscard]] Result<> check_settled(const Object& object) VSNAP_REQUIRES(objects_.mutex());

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
  Result<> erase_objects(const std::vector<ObjectPtr>& objects, const Engine::Step& also = {})
      VSNAP_REQUIRES(config_mutex_);
  Result<bool> sweep_step();

  Result<std::vector<DiffRange>> diff_region(VolumeIo& old_view, VolumeIo& new_view, RegionIndex index);

  Result<> check_in_use(CheckReport& report, const Progress& progress);
  Result<> check_unused(bool repair, CheckReport& report, const Progress& progress);

  // Flatten
  Result<std::uint64_t> begin_flatten(const ObjectPtr& volume) VSNAP_REQUIRES(config_mutex_);
  Result<> start_flatten(const ObjectPtr& volume) VSNAP_REQUIRES(config_mutex_);
  void set_flattening(Branch& branch, bool flattening) VSNAP_EXCLUDES(objects_.mutex());
  Result<> copy_inherited(const ObjectPtr& volume, std::uint64_t most_bytes, const Progress& progress);
  Result<> hold_sweep(const Branch& branch, bool hold);
  // Cuts the link to the parent, of which the branch sees nothing any more; `step` in the same transaction.
  Result<> cut_parent(Branch& branch, const Engine::Step& step)
      VSNAP_REQUIRES(config_mutex_, engine_->commit_mutex());

  // Full-sized snapshots
  Result<NewSnapshot> new_full(const ViewName& name, const FullSnapshotOptions& options)
      VSNAP_REQUIRES(config_mutex_);
  [[nodiscard]] static NewSnapshot with_own_branch(ObjectPtr snapshot, FullCopy copy);
  Result<std::vector<std::uint32_t>> members_named(const std::vector<std::string>& names);
  Result<> check_fits(const ViewName& name, const Object& volume, const std::vector<std::uint32_t>& members);
  void insert_full(SQLite::Database& db, const NewSnapshot& made);
  // What becomes of the copy with the snapshot that it was made for.
  void let_copy_go(SQLite::Database& db, const Object& snapshot) VSNAP_EXCLUDES(objects_.mutex());
  void forget_copy_of(const Object& snapshot) VSNAP_REQUIRES(objects_.mutex());
  Result<ObjectPtr> copying_object(const ViewName& name);
  [[nodiscard]] Result<> check_not_copying(const Object& object) VSNAP_REQUIRES(objects_.mutex());
  [[nodiscard]] Result<> check_replaceable(const Object& snapshot) VSNAP_REQUIRES(objects_.mutex());
  [[nodiscard]] Result<> hold_back(Object& snapshot) VSNAP_EXCLUDES(objects_.mutex());
  void erase_replaced(SQLite::Database& db, const Object& snapshot) VSNAP_EXCLUDES(objects_.mutex());
  [[nodiscard]] std::shared_ptr<VolumeIo> forget_replaced(const ObjectPtr& snapshot)
      VSNAP_REQUIRES(objects_.mutex());
  Result<> point_at_branch(const ObjectPtr& snapshot, const ObjectPtr& volume) VSNAP_REQUIRES(config_mutex_);

  // Properties and limits
  void load_properties(SQLite::Database& db) VSNAP_EXCLUDES(objects_.mutex());
  void apply_properties(const ObjectPtr& volume) VSNAP_REQUIRES(objects_.mutex());
  Result<> check_up_to_date(const char* table);
  [[nodiscard]] std::set<BranchId> branches_of_snapshots(const Object& volume)
      VSNAP_REQUIRES(objects_.mutex());
  // False: there is no such volume any more.
  Result<bool> count_snapshots_of(const ObjectPtr& volume) VSNAP_EXCLUDES(objects_.mutex());
  [[nodiscard]] std::vector<ObjectPtr> limited_volumes() VSNAP_EXCLUDES(objects_.mutex());
  void note_pins_gone() VSNAP_EXCLUDES(objects_.mutex());
  void note_branches_changed() VSNAP_EXCLUDES(objects_.mutex());
  [[nodiscard]] Failure no_snapshot_room(const Object& volume) VSNAP_EXCLUDES(objects_.mutex());
  Result<bool> has_snapshot_room(const ObjectPtr& volume) VSNAP_EXCLUDES(objects_.mutex());
  // By a thread that holds nothing; returns when a write may try again.
  Result<> make_snapshot_room(const ObjectPtr& volume) VSNAP_EXCLUDES(config_mutex_);
  Result<bool> dropping_makes_room(const ObjectPtr& volume) VSNAP_REQUIRES(config_mutex_);
  Result<bool> drop_for_room(const ObjectPtr& volume) VSNAP_REQUIRES(config_mutex_);
  [[nodiscard]] std::vector<ObjectPtr> droppable(const Object& volume) VSNAP_REQUIRES(objects_.mutex());
  Result<bool> drop_oldest(const ObjectPtr& volume) VSNAP_REQUIRES(config_mutex_);
  Result<> check_snapshot_room(const ObjectPtr& volume) VSNAP_REQUIRES(config_mutex_);
  // When nothing else is in the way of those that are to be made.
  Result<> check_snapshot_room(std::span<const NewSnapshot> made) VSNAP_REQUIRES(config_mutex_);
  void wait_for_room_makers() VSNAP_EXCLUDES(room_mutex_);
  void warn_about_limits();
  [[nodiscard]] std::string full_name(const Object& volume) VSNAP_EXCLUDES(objects_.mutex()); // "lab/vm1"
  [[nodiscard]] std::string limit_health();

  // Holds
  void load_holds(SQLite::Database& db) VSNAP_EXCLUDES(objects_.mutex());
  [[nodiscard]] Result<> check_not_held(const Object& snapshot) VSNAP_REQUIRES(objects_.mutex());
  [[nodiscard]] Result<> check_no_lost_host(const Object& snapshot) VSNAP_REQUIRES(objects_.mutex());
  Result<std::vector<ObjectPtr>> snapshots_to_hold(std::span<const ViewName> names, const std::string& tag);

  // Delegations
  void load_delegations(SQLite::Database& db) VSNAP_EXCLUDES(objects_.mutex());
  [[nodiscard]] bool has_keeper() VSNAP_EXCLUDES(keeper_mutex_);
  void tell_keeper(std::span<const DelegationTable::Entry> entries, bool overdue)
      VSNAP_EXCLUDES(keeper_mutex_);
  [[nodiscard]] std::string name_of_host(std::uint64_t id);
  [[nodiscard]] std::string name_of_volume(ObjectId id) VSNAP_EXCLUDES(objects_.mutex());
  Result<std::optional<Delegation>> give(ObjectId id, std::uint64_t host, std::uint32_t handles)
      VSNAP_REQUIRES(config_mutex_);
  [[nodiscard]] bool may_delegate(const Object& volume, std::uint32_t handles)
      VSNAP_REQUIRES(objects_.mutex());
  Result<> store_delegation(const delegation_rows::Row& row) VSNAP_REQUIRES(config_mutex_);
  Result<> store_rows(const Engine::Step& rows) VSNAP_REQUIRES(config_mutex_);
  // Recalls what stands of the volumes and waits until it is returned. First of all that a configuration
  // operation does once it has found what it is about, before it holds writes. Busy: its host was lost.
  Result<> take_back(std::span<const ObjectId> volumes) VSNAP_REQUIRES(config_mutex_);
  // The same of who draws a line through the volumes' versions; busy also while what a lost host may still
  // write would show in what is drawn.
  Result<> take_back_for_line(std::span<const ObjectId> volumes) VSNAP_REQUIRES(config_mutex_);
  Result<> take_back_for_line(ObjectId volume) VSNAP_REQUIRES(config_mutex_) {
    return take_back_for_line(std::span(&volume, 1));
  }
  [[nodiscard]] Result<> check_not_lost(ObjectId volume);
  // Busy where the snapshot keeps what a lost host may still write to.
  [[nodiscard]] Result<> check_not_left(ObjectId snapshot);
  Result<> wait_for_return(std::span<const ObjectId> volumes, std::uint64_t but, bool config)
      VSNAP_EXCLUDES(objects_.mutex());
  [[nodiscard]] Result<> check_will_return(std::span<const DelegationTable::Entry> standing, bool config);
  [[nodiscard]] Failure lost_failure(const DelegationTable::Entry& entry) VSNAP_EXCLUDES(objects_.mutex());
  [[nodiscard]] std::vector<ObjectId> volumes_that_see(const Branch& branch) VSNAP_EXCLUDES(objects_.mutex());
  void assert_taken_back(const Branch& branch); // before a line through its versions
  void lose_old_delegations();
  // What is left to be done of those that ended, or were lost.
  void finish_delegations() VSNAP_EXCLUDES(config_mutex_);
  void finish_delegations_locked() VSNAP_REQUIRES(config_mutex_);
  [[nodiscard]] ViewName free_lost_name(const Object& volume, std::uint64_t host)
      VSNAP_EXCLUDES(objects_.mutex());
  Result<> leave_behind(const DelegationTable::Entry& entry) VSNAP_REQUIRES(config_mutex_);
  Result<> clear_away(const DelegationTable::Entry& entry) VSNAP_REQUIRES(config_mutex_);

  // Granted space
  Result<std::vector<PlaceRun>> grant(std::uint64_t host, std::uint64_t number, BlockCount wanted)
      VSNAP_REQUIRES(engine_->commit_mutex());
  [[nodiscard]] std::uint64_t grantable_blocks(std::uint64_t host, std::uint64_t number)
      VSNAP_EXCLUDES(objects_.mutex());
  Result<bool> store_granted(std::uint64_t number, std::span<const PlaceRun> runs)
      VSNAP_REQUIRES(engine_->commit_mutex());
  [[nodiscard]] Result<> check_handed_over(VolumeIo& view, std::uint64_t number,
                                           std::span<const MapRun> runs);
  void free_left_over(std::uint64_t number);
  Result<> take_granted();
  void recall_for_space();
  void recall_if_short();

  // Copying
  Result<> hold_sweeps_of_copies();
  [[nodiscard]] Result<> release_unwanted_copies() VSNAP_REQUIRES(engine_->commit_mutex());
  std::optional<BranchId> next_copy(std::int64_t now_ns, std::chrono::nanoseconds& wait)
      VSNAP_REQUIRES(copying_mutex_);
  Result<> copy_piece(BranchId branch) VSNAP_REQUIRES(copying_mutex_);
  Result<> finish_copy(BranchId branch) VSNAP_REQUIRES(copying_mutex_);
  Result<> note_trouble(BranchId branch, Result<> result);
  Result<bool> copied(BranchId branch, const Progress& progress);
  void copying_loop();

  // Adopted volumes: pool_adopt.cpp, pool_release.cpp, pool_image.cpp
  struct Image { // open and locked
    std::string path;
    std::unique_ptr<File> file;
    FileStamp stamp;
  };
  Result<> load_bases(SQLite::Database& db) VSNAP_EXCLUDES(objects_.mutex());
  Result<> attach_bases() VSNAP_EXCLUDES(objects_.mutex());
  std::optional<std::string> attach_base(Base& base, std::uint64_t size_bytes);
  [[nodiscard]] Result<> check_not_adopted(const std::string& path, const AdoptOptions& options)
      VSNAP_EXCLUDES(objects_.mutex());
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
  [[nodiscard]] std::vector<std::string> problems_of_images() VSNAP_EXCLUDES(objects_.mutex());
  [[nodiscard]] std::size_t pins_left(const Branch& branch, std::uint64_t number,
                                      const std::multiset<Pin>& gone) VSNAP_REQUIRES(objects_.mutex());
  // Fails where views that stay look at the image of a volume that goes, or a rollback needs a snapshot.
  [[nodiscard]] Result<> check_image_removal(const std::vector<ObjectPtr>& gone,
                                             const std::multiset<Pin>& pins) VSNAP_REQUIRES(objects_.mutex());
  // What a removed clone still holds of the image of one of these volumes is let go of first.
  Result<> finish_sweeps_of_images(std::span<const ViewName> names) VSNAP_EXCLUDES(config_mutex_);
  Result<> resize_image(const ObjectPtr& volume, std::uint64_t size_bytes) VSNAP_REQUIRES(config_mutex_);
  [[nodiscard]] Result<> check_image_rollback(const Object& volume, const Object& target)
      VSNAP_REQUIRES(objects_.mutex());
  Result<> roll_back_image(const ObjectPtr& volume, const ObjectPtr& target, const ObjectPtr& kept,
                           bool discard, const Progress& progress) VSNAP_REQUIRES(config_mutex_);
  Result<> keep_as_snapshot(const ObjectPtr& volume, const ObjectPtr& kept, const Engine::Step& also)
      VSNAP_REQUIRES(config_mutex_, engine_->commit_mutex());
  Result<> restore_image(const ObjectPtr& volume, const ObjectPtr& target, const Progress& progress)
      VSNAP_REQUIRES(config_mutex_);
  Result<> finish_rollbacks() VSNAP_REQUIRES(config_mutex_);
  Result<> keep_snapshots(const ObjectPtr& volume, const Progress& progress) VSNAP_EXCLUDES(config_mutex_);
  Result<> detach_image(const ObjectPtr& volume) VSNAP_REQUIRES(config_mutex_);

  // Recovery
  Result<> recover();
  Result<> replay(const LogRecord& record);
  Result<> replay_figures(const LogRecord& record);
  Result<> replay_change(const LogRecord& record);
  Result<> replay_places(const LogRecord& record, const MapChange& change);

  // Without all members
  Result<> start_degraded();
  Result<> recover_degraded();
  [[nodiscard]] Result<> check_catalog_whole();
  [[nodiscard]] Result<> check_snapshots_whole();
  [[nodiscard]] Failure not_enough(const Error& error) const;

  // Background
  Result<> start_background();
  void listen_to_engine();
  void hurry_background() VSNAP_EXCLUDES(background_mutex_); // also out of a long removal
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
  std::atomic<bool> preserve_ready_{false}; // an image can be made final
  bool may_change_ = false; // opened in order, not to be checked: close() has something to finish

  Mutex config_mutex_;
  std::map<ObjectId, std::shared_ptr<VolumeIo>> views_ VSNAP_GUARDED_BY(objects_.mutex());
  // Volumes of which something is set (apply_properties()).
  std::map<ObjectId, ObjectPtr> with_properties_ VSNAP_GUARDED_BY(objects_.mutex());
  struct Futile { // a volume's snapshots whose removal makes no room, as of then
    std::uint64_t turn = 0, used = 0;
    std::multiset<Pin> pins;
  };
  std::map<ObjectId, Futile> futile_ VSNAP_GUARDED_BY(config_mutex_); // see dropping_makes_room()
  std::map<BranchId, Base> bases_ VSNAP_GUARDED_BY(objects_.mutex());
  DelegationTable delegations_;
  GrantedSpace granted_;
  Mutex keeper_mutex_; // a leaf; held while the keeper is told
  DelegationKeeper* keeper_ VSNAP_GUARDED_BY(keeper_mutex_) = nullptr;
  // By what a process before this one has promised; set when the pool is opened.
  std::int64_t snapshots_kept_until_ns_ = std::numeric_limits<std::int64_t>::min();
  std::optional<std::pair<std::uint64_t, std::uint64_t>> promise_seen_; // which boot, and when, first by this
  std::set<ObjectId> flattening_ VSNAP_GUARDED_BY(config_mutex_);
  std::set<BranchId> copying_ VSNAP_GUARDED_BY(objects_.mutex()); // with an unfinished copy
  Mutex copying_mutex_; // one piece of such a copy at a time; before config_mutex_
  std::unique_ptr<BranchCopier> copier_ VSNAP_GUARDED_BY(copying_mutex_);
  BranchId last_copied_ VSNAP_GUARDED_BY(copying_mutex_); // they take turns

  class RoomMaker { // a writer that is in make_snapshot_room()
   public:
    explicit RoomMaker(PoolImpl& pool);
    ~RoomMaker();
    RoomMaker(const RoomMaker&) = delete;
    RoomMaker& operator=(const RoomMaker&) = delete;

   private:
    PoolImpl& pool_;
  };
  Mutex room_mutex_; // a leaf
  CondVar room_made_;
  std::uint32_t room_makers_ VSNAP_GUARDED_BY(room_mutex_) = 0;
  std::atomic<bool> waits_no_more_{false};

  std::thread background_;
  std::thread copying_thread_; // where there is that one; copies
  CondVar copying_wake_;       // of it, with background_mutex_
  CondVar copied_some_;        // for those that wait for a copy, with background_mutex_
  Mutex background_mutex_;
  CondVar background_wake_;
  bool stop_ VSNAP_GUARDED_BY(background_mutex_) = false;
  // By writers, before the log is full; or by what is to be done of a delegation.
  bool hurried_ VSNAP_GUARDED_BY(background_mutex_) = false;
  std::atomic<unsigned> warned_percent_{0};
};

} // namespace vsnap
