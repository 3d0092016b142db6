// Volumes, snapshots and branches in memory: all of them, loaded at open. The catalog has the same rows; a
// configuration operation changes the catalog first and this table after its commit.
//
// Invariants
// 1. Names are unique among volumes, and among the snapshots of a volume; an unlinked object has an empty
//    name.
// 2. Every object's branch is in the table. Pins of a branch: one for each snapshot of it, one for each child
//    branch.
// Threads: the maps under mutex(); objects are shared and stay valid while held. Fields marked const or
// atomic may be read at any time, the others under mutex(). Changes come only from configuration operations,
// which take turns.
#pragma once

#include <SQLiteCpp/SQLiteCpp.h>

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "core/branch.h"
#include "core/description.h"
#include "core/mutex.h"
#include "core/properties.h"
#include "core/snapshot_limit.h"

namespace vsnap {

struct Object { // what volumes and snapshots have in common
  ObjectId id;
  ViewKind kind = ViewKind::volume;
  std::string name; // of a snapshot: the part after '@'; empty: unlinked
  Branch* branch = nullptr;
  std::int64_t created_ns = 0;
  std::atomic<std::uint64_t> size_bytes{0};
  std::atomic<std::int64_t> modified_ns{0};
  Mutex size_mutex; // held from a look at size and trim until the record of it is in the log; above ChangeLog
  std::atomic<bool> changed{
      false};                // size, times or attributes are not in the catalog yet (Objects::note_changed)
  std::uint32_t mode = 0600; // volumes
  std::uint32_t uid = 0, gid = 0;
  // Of a volume that was shrunk: blocks from here on are still to be unmapped; kNoTrim: none. They are before
  // the volume grows, is snapshotted or shared; the catalog's copy goes with the commit that unmaps them.
  static constexpr std::uint64_t kNoTrim = ~std::uint64_t{0};
  std::atomic<std::uint64_t> trim{kNoTrim};
  std::shared_ptr<Object> volume;             // snapshots: whose it is
  Version number;                             // snapshots: the view is (branch, number)
  SnapshotLevel level = SnapshotLevel::crash; // snapshots
  std::uint64_t line = 0; // snapshots: readable once the catalog has the records up to this one
  std::uint64_t mapped_blocks = 0;
  std::uint32_t open_handles = 0;
  bool still_open = false; // unlinked, and to be opened again: see OpenPoolOptions
  // Another host may have parts of its map (exported_map.h); and all that such a map names is durable. Both
  // as long as it is open.
  bool exported = false;
  bool export_flushed = false;
  bool withheld = false; // a rollback or removal is under way: not to be opened
  // A snapshot that programs still write to under the handles that they had (pool_preserve.cpp): the first of
  // two images (image_pair.h). Its row is in the table volume until it is final.
  bool draining = false;
  std::shared_ptr<Object> continued_by;      // the volume, or draining image, that is the second
  std::uint32_t old_handles = 0;             // of open_handles: those that may write
  std::uint32_t expected_handles = 0;        // old ones that a successor is to open again
  bool moved_lately = false;                 // who opens it to write may have meant the volume
  std::atomic<bool> frozen{false};           // became final: whoever has its head takes no more writes
  Properties properties;                     // volumes: those that are set
  SnapshotLimit snapshot_limit;              // volumes: as the properties say
  std::map<std::string, std::int64_t> holds; // snapshots: by tag, since when
};
using ObjectPtr = std::shared_ptr<Object>;

class Objects {
 public:
  Mutex& mutex() VSNAP_THREAD_ANNOTATION(lock_returned(mutex_)) { return mutex_; }

  [[nodiscard]] ObjectPtr volume(const std::string& name) VSNAP_REQUIRES(mutex_);
  [[nodiscard]] ObjectPtr find(const ViewName& name) VSNAP_REQUIRES(mutex_);
  [[nodiscard]] ObjectPtr find(ObjectId id) VSNAP_REQUIRES(mutex_);
  [[nodiscard]] std::vector<ObjectPtr> snapshots(const Object& volume) VSNAP_REQUIRES(mutex_); // oldest first
  [[nodiscard]] bool has_unlinked_snapshot(const Object& volume) VSNAP_REQUIRES(mutex_);
  [[nodiscard]] std::vector<ObjectPtr> all()
      VSNAP_REQUIRES(mutex_); // volumes by name, each with its snapshots
  [[nodiscard]] std::vector<ObjectPtr> everything() VSNAP_REQUIRES(mutex_); // unlinked ones too, by id
  // Whether a snapshot of the volume lies on the branch.
  [[nodiscard]] bool has_snapshot_on(const Object& volume, const Branch& branch) VSNAP_REQUIRES(mutex_);
  // Whether a snapshot of the volume, with a name and not full-sized, is that view.
  [[nodiscard]] bool has_snapshot_at(const Object& volume, const Branch& branch, Version number)
      VSNAP_REQUIRES(mutex_);
  [[nodiscard]] ViewName name_of(const Object& object) const VSNAP_REQUIRES(mutex_);
  [[nodiscard]] ViewInfo describe(const Object& object) VSNAP_REQUIRES(mutex_);
  [[nodiscard]] std::vector<std::string> names() VSNAP_REQUIRES(mutex_); // "VOL" and "VOL@SNAP"

  // Volumes whose figures the next commit is to store: `changed` is set while one is in the list, so whoever
  // finds it set after a change need not add it. Any thread, no lock needed.
  void note_changed(const ObjectPtr& object) VSNAP_EXCLUDES(changed_mutex_);
  [[nodiscard]] std::vector<ObjectPtr> take_changed() VSNAP_EXCLUDES(changed_mutex_);

  void add(const ObjectPtr& object) VSNAP_REQUIRES(mutex_);
  void rename(const ObjectPtr& object, const std::string& name) VSNAP_REQUIRES(mutex_); // "": unlinked
  void erase(const ObjectPtr& object) VSNAP_REQUIRES(mutex_);
  // All snapshots of `from`, unlinked ones too, become those of `to`.
  void move_snapshots(const Object& from, const ObjectPtr& to) VSNAP_REQUIRES(mutex_);

  [[nodiscard]] Branch* branch(BranchId id) VSNAP_REQUIRES(mutex_);
  Branch& add_branch(std::unique_ptr<Branch> branch) VSNAP_REQUIRES(mutex_);
  void erase_branch(BranchId id) VSNAP_REQUIRES(mutex_);
  [[nodiscard]] std::vector<Branch*> branches() VSNAP_REQUIRES(mutex_);

 private:
  [[nodiscard]] std::optional<std::string> origin_of(const Object& volume) VSNAP_REQUIRES(mutex_);
  static void describe_limit(const Object& volume, ViewInfo& info);

  Mutex mutex_;
  std::map<std::string, ObjectPtr> volumes_ VSNAP_GUARDED_BY(mutex_);
  std::map<ObjectId, ObjectPtr> by_id_ VSNAP_GUARDED_BY(mutex_);
  std::map<std::pair<ObjectId, std::string>, ObjectPtr> snapshots_
      VSNAP_GUARDED_BY(mutex_);                                                          // by volume and name
  std::map<std::pair<ObjectId, ObjectId>, ObjectPtr> in_order_ VSNAP_GUARDED_BY(mutex_); // by volume and id
  std::map<std::tuple<BranchId, Version, ObjectId>, ObjectPtr> by_view_
      VSNAP_GUARDED_BY(mutex_); // snapshots, by what they see
  std::map<BranchId, std::unique_ptr<Branch>> branches_ VSNAP_GUARDED_BY(mutex_);
  Mutex changed_mutex_;
  std::vector<ObjectPtr> changed_ VSNAP_GUARDED_BY(changed_mutex_);
};

} // namespace vsnap
