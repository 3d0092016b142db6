// A pool: the way in for everybody outside `core`. Opens the members, owns the catalog, and offers the
// configuration operations (create, snapshot, clone, roll back, resize, remove, ...) and views to do I/O on.
//
// Invariants
// 1. One process at a time has a pool open; it holds the lock of every member from open() to close().
// 2. A configuration operation is one catalog transaction, and generation + 1. After a crash the pool is in
//    the state before or after it, never between. When it returned success it is durable.
// 3. Configuration operations follow one another; I/O goes on beside them, and is held only while a snapshot,
//    clone or rollback draws its line (the writes in flight are waited for, nothing else).
// 4. All names given here are checked; a bad one is refused (kind usage) and changes nothing.
// Threads: every method may be called from any thread. Callbacks of the observer come without locks held.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/delegation.h"
#include "core/description.h"
#include "core/env.h"
#include "core/error.h"
#include "core/exported_map.h"
#include "core/host.h"
#include "core/names.h"
#include "core/owner_record.h"
#include "core/properties.h"
#include "core/view.h"

namespace vsnap {

struct MemberSpec {
  std::string path;
  std::uint64_t size_bytes = 0; // of a file to be made; 0: it exists, with the size it has
};

struct CreatePoolOptions {
  std::string name;
  std::vector<MemberSpec> members;
  bool force = false;   // also over a file system, partition table or another pool
  bool dry_run = false; // only the checks
};

struct OpenPoolOptions {
  std::vector<std::string> member_paths = {};
  std::string role = "command"; // or "daemon": told to whoever finds the pool locked
  // Of the pool, as text; empty: any. Paths may belong to other devices after a restart of the machine.
  std::string expected_uuid = {};
  std::uint64_t cache_bytes = 256ULL << 20; // limit for maps kept in memory
  int lock_wait_ms = 3000;                  // how long to wait for another command to be done
  bool background =
      false;              // threads that commit now and then and remove in the background; the daemon sets it
  bool keep_tail = false; // what writes changed outlives a kill of this process (tail.h); the daemon sets it
  bool direct = false;    // members past the page cache, where their file systems can; a line says where not
  bool takes_over = false; // from a daemon of this pool that died, in its place; see tail.h
  // Unlinked volumes and snapshots that the last process had open, and this one is to open again: they stay.
  std::vector<ObjectId> still_open = {};
  // member_descriptors() of a process before this one, which stay open: with its locks, so that nobody else
  // could open the pool since.
  std::vector<int> held_members = {};
  // Members may be missing: then what the others have is read, and nothing is changed. Else it is opened as
  // always.
  bool degraded = false;
  bool for_check = false; // opens what is refused otherwise, for check() only
};

// An existing image or partition that is to be a volume, in place; or the one that an adopted volume has
// lost.
struct AdoptOptions {
  std::string path;
  std::string volume;
  bool force = false; // also a device without a name that lasts, or what begins as an image of another format
  // Of a volume that was adopted before, where the image is not the one that was left: what of its snapshots?
  enum class Changed { refuse, keep, drop_snapshots } changed = Changed::refuse;
};

// What a member says about its pool, without opening it.
struct MemberIdentity {
  std::string pool_name;
  Uuid pool_uuid{};
  Uuid member_uuid{};
  std::uint32_t index = 0;
  std::uint32_t member_count = 0;
};

// A member beside whoever has its pool open.
struct MemberLook {
  Result<MemberIdentity> identity;
  std::optional<OwnerRecord> owner; // who holds its lock, once it has written itself down
};

// An operation that may be asked for again, because its answer was lost (request_note.h).
struct RequestId {
  enum class Source { command, file };
  Source source = Source::command;
  std::uint64_t number = 0; // below 2^63, and not 0
};

// While it lives, the configuration operation that the calling thread asks for is that of this request. For
// operations of one transaction.
class AskedBy {
 public:
  explicit AskedBy(RequestId request);
  ~AskedBy();
  AskedBy(const AskedBy&) = delete;
  AskedBy& operator=(const AskedBy&) = delete;
  [[nodiscard]] static std::optional<RequestId> current();
};

// Told after the fact, in order, by the thread that made the change.
class PoolObserver {
 public:
  virtual ~PoolObserver() = default;
  virtual void entry_changed(
      const std::string& file_name) = 0;         // appeared, vanished or now means another view
  virtual void content_changed(ObjectId id) = 0; // data or size changed by other means than its file
  // The same of a part; all of it from `offset` on where length is 0.
  virtual void range_changed(ObjectId id, std::uint64_t /*offset*/, std::uint64_t /*length*/) {
    content_changed(id);
  }
  // Returns when the changes of contents told before have reached everyone, or after a time limit. May wait
  // for requests to be served: never called by a thread that serves them.
  virtual void settle() {}
};

// What the next process that serves the same programs has to know of this one's right to the volumes that
// they have open; in memory that outlives it. Written to where another host can take that right away.
struct Tenure {
  std::atomic<std::uint64_t> number;  // one higher each time that all that was open has lapsed
  std::atomic<std::int64_t> until_ns; // Env::monotonic_ns(): so long it lasts at least
  std::atomic<std::uint64_t> losses;  // the least under which a volume was opened: Pool::losses()
};

class Pool {
 public:
  [[nodiscard]] static Result<> create(Env& env, const CreatePoolOptions& options);
  [[nodiscard]] static Result<std::unique_ptr<Pool>> open(Env& env, OpenPoolOptions options);
  [[nodiscard]] static Result<MemberIdentity> identify(Env& env, const std::string& path);
  // Claims and changes nothing. Fails where the member cannot be opened; what is on it is `identity`.
  [[nodiscard]] static Result<MemberLook> look(Env& env, const std::string& path);
  // Wipes the superblocks of an unused pool's members, after taking their locks.
  [[nodiscard]] static Result<> destroy(Env& env, const std::vector<std::string>& member_paths,
                                        const std::string& expected_uuid);

  virtual ~Pool() = default; // closes; errors of the last commit are only logged, call close() to see them
  [[nodiscard]] virtual Result<> close() = 0;
  // From now on what is unlinked and open stays when its last handle is closed, for the process that opens
  // the pool next (OpenPoolOptions::still_open).
  virtual void keep_unlinked() = 0;
  // From now on no write waits until there is room: it fails (kind no_space).
  virtual void stop_waiting() {}
  [[nodiscard]] virtual bool waits_no_more() const { return false; } // stop_waiting() was called
  virtual void look_for_room() {} // who waits for room looks again, also whether he still may (WaitsUntil)
  // Whether a process that opens the pool after this one was killed finds every write that returned.
  [[nodiscard]] virtual bool survives_kill() const { return true; }
  // How often, so far, it was opened when writes that had returned, and that no fsync had confirmed, may have
  // been lost: after a power cut, or a flush that failed.
  [[nodiscard]] virtual std::uint64_t losses() const { return 0; }
  // It takes no changes, from its opening on.
  [[nodiscard]] virtual bool is_read_only() const { return false; }
  // That carry the locks of the members; of the members that there are now.
  [[nodiscard]] virtual std::vector<int> member_descriptors() const { return {}; }
  virtual void set_observer(PoolObserver* observer) = 0;
  virtual void settle() = 0; // PoolObserver::settle(), of the observer there is
  // A volume was changed for another host, not through its file. Returns when everybody here sees that.
  virtual void tell_changed(ObjectId /*id*/, std::uint64_t /*offset*/, std::uint64_t /*length*/) {}

  // Description
  [[nodiscard]] virtual std::string name() const = 0;
  virtual PoolStatus status() = 0;
  [[nodiscard]] virtual std::uint64_t generation() { return status().generation; } // cheap
  [[nodiscard]] virtual std::vector<ViewInfo>
  list() = 0; // volumes by name, each followed by its snapshots, oldest first
  [[nodiscard]] virtual Result<ViewInfo> find(const ViewName& name) = 0;
  [[nodiscard]] virtual Result<ViewInfo> info(ObjectId id) = 0;
  [[nodiscard]] virtual Result<DiskUsage> disk_usage() = 0;
  [[nodiscard]] virtual SpaceInfo space() = 0; // cheap: for statfs

  // Configuration
  // nullopt: what this request asked for was not carried out (AskedBy). Else, of a file request, the newest
  // object that there was then: the one that it made, if it made one.
  [[nodiscard]] virtual Result<std::optional<ObjectId>> carried_out(RequestId request) = 0;
  [[nodiscard]] virtual Result<> add_member(const MemberSpec& member, bool force) = 0;
  [[nodiscard]] virtual Result<ViewInfo> create_volume(const std::string& name, std::uint64_t size_bytes) = 0;
  // Takes no time to speak of, whatever the size: nothing is copied, and the image stays a raw image.
  [[nodiscard]] virtual Result<ViewInfo> adopt(const AdoptOptions& /*options*/) {
    return system_failure(ENOTSUP, "adopt");
  }
  struct ReleaseOptions {
    // What they see in the image is copied to the pool, and they hang on a thin volume of the same name,
    // which starts from the newest of them. Without: there must be none.
    bool keep_snapshots = false;
    bool dry_run = false;
  };
  // Gives the image of an adopted volume back. What was copied when it is given up, or crashes, is used the
  // next time.
  [[nodiscard]] virtual Result<ReleaseResult> release(const std::string& /*volume*/,
                                                      ReleaseOptions /*options*/,
                                                      const Progress& /*progress*/) {
    return system_failure(ENOTSUP, "release");
  }
  // `new_name`: the new volume or snapshot part. With `replace` a volume of that name goes in the same
  // moment; busy if it has snapshots. Who has it open keeps it until the last handle is closed.
  [[nodiscard]] virtual Result<> rename(const ViewName& from, const std::string& new_name, bool replace) = 0;
  [[nodiscard]] Result<> rename(const ViewName& from, const std::string& new_name) {
    return rename(from, new_name, false);
  }
  // Also of a volume that was unlinked and is still open.
  [[nodiscard]] virtual Result<> resize(ObjectId volume, std::uint64_t size_bytes, bool allow_shrink) = 0;
  [[nodiscard]] Result<> resize(const std::string& volume, std::uint64_t size_bytes, bool allow_shrink) {
    VSNAP_TRY_ASSIGN(const ViewInfo info, find({volume, {}}));
    return resize(info.id, size_bytes, allow_shrink);
  }
  [[nodiscard]] virtual Result<> set_attributes(ObjectId id, std::optional<std::uint32_t> mode,
                                                std::optional<std::uint32_t> uid,
                                                std::optional<std::uint32_t> gid,
                                                std::optional<std::int64_t> modified_ns) = 0;
  [[nodiscard]] virtual Result<> snapshot(std::span<const ViewName> names) = 0; // one moment, all or none
  // What turned out after a snapshot was taken, which is `crash` until then. All in one transaction; a lower
  // level than a snapshot has changes nothing, and one that is gone needs none.
  [[nodiscard]] virtual Result<> raise_levels(std::span<const LevelRaise> /*raises*/) {
    return system_failure(ENOTSUP, "level");
  }
  // Takes no time, but for an adopted volume: its image gets back what differs. Once that has begun it is not
  // given up, whatever `progress` says (in bytes of the volume).
  [[nodiscard]] virtual Result<RollbackResult> rollback(const ViewName& to, bool discard, bool dry_run,
                                                        const Progress& progress) = 0;
  [[nodiscard]] Result<RollbackResult> rollback(const ViewName& to, bool discard, bool dry_run) {
    return rollback(to, discard, dry_run, {});
  }
  [[nodiscard]] virtual Result<ViewInfo> clone(const ViewName& from, const std::string& new_volume) = 0;
  // Makes `to`, an empty volume, share everything `from` has: what copy_file_range of a whole file asks for.
  [[nodiscard]] virtual Result<> share_into(ObjectId from, ObjectId to) = 0;
  // Whether `view` starts from `origin` and so holds what origin holds wherever nobody wrote.
  [[nodiscard]] virtual bool shares_all_of(ObjectId view, ObjectId origin) = 0;
  // A second image for a volume. Handles that are open go on with the first, which becomes the snapshot
  // `name` once the last of them is closed, and until then is listed as it, draining; later opens get the
  // second, in which writes to the first show through wherever it has no block of its own. The snapshot.
  [[nodiscard]] virtual Result<ViewInfo> preserve(const ViewName& name) = 0;
  [[nodiscard]] virtual Result<> flatten(const std::string& volume, const Progress& progress) = 0;

  // A snapshot that gets space of its own: usable at once, copied in the background, and independent of the
  // volume's blocks once that has ended. Without the background the copying rests (wait_for_copy() does it).
  struct FullSnapshotOptions {
    std::vector<std::string> members = {}; // that the copy may lie on, by path or number; none: any
    std::uint64_t bytes_per_second = 0;    // of the copying, at most; 0: no limit
  };
  [[nodiscard]] virtual Result<> snapshot_full(const ViewName& name, const FullSnapshotOptions& options) = 0;
  // Until the copy of that snapshot (or of a volume that was split off before its end) is complete. What
  // keeps it from going on is an error; it is tried again later all the same.
  [[nodiscard]] virtual Result<> wait_for_copy(const ViewName& name, const Progress& progress) = 0;
  struct CopySettings { // what is not named stays
    std::optional<bool> paused = {};
    std::optional<std::uint64_t> bytes_per_second = {}; // 0: no limit
  };
  [[nodiscard]] virtual Result<> set_copy(const ViewName& name, const CopySettings& settings) = 0;
  // Makes a full-sized snapshot a volume of its own, in constant time; its name as a snapshot is gone. Busy
  // if it is open. A copy under way goes on for the volume.
  [[nodiscard]] virtual Result<ViewInfo> split(const ViewName& from, const std::string& new_volume) = 0;
  // The snapshot gets the content that its volume has now, under the same name, with another id. Busy if it
  // is open. A full-sized one is copied anew.
  [[nodiscard]] virtual Result<ViewInfo> refresh(const ViewName& name) = 0;

  // What can be set of a volume (properties.h): all of it or nothing.
  [[nodiscard]] virtual Result<> set_properties(const std::string& /*volume*/,
                                                const Properties& /*properties*/) {
    return system_failure(ENOTSUP, "set");
  }
  [[nodiscard]] virtual Result<std::vector<PropertyInfo>> properties(const std::string& /*volume*/) {
    return system_failure(ENOTSUP, "get");
  }
  // As long as a snapshot has a tag it is neither removed nor replaced nor split off. All or none; a tag that
  // one of them has already, or has not, is an error.
  [[nodiscard]] virtual Result<> hold(std::span<const ViewName> /*names*/, const std::string& /*tag*/) {
    return system_failure(ENOTSUP, "hold");
  }
  [[nodiscard]] virtual Result<> release_hold(std::span<const ViewName> /*names*/,
                                              const std::string& /*tag*/) {
    return system_failure(ENOTSUP, "release-hold");
  }
  // So that ViewInfo::snapshot_space, where it is told next, has a figure that is not too low, or the exact
  // one. May read the index of volumes that have a limit.
  enum class Figures { known, exact };
  virtual void count_snapshot_space(Figures /*wanted*/) {}
  // Hosts that share the pool (host.h).
  [[nodiscard]] virtual Result<Hosts> hosts() { return Hosts{}; }
  // By a coordinator that starts: its epoch, which is durable and higher than any before.
  [[nodiscard]] virtual Result<std::uint64_t> begin_reign() { return system_failure(ENOTSUP, "hosts"); }
  // A mark that every member shows when it returns (member_mark.h).
  [[nodiscard]] virtual Result<MemberMark> mark_members() { return system_failure(ENOTSUP, "hosts"); }
  // `name`: that the host is to have; empty: as it likes.
  [[nodiscard]] virtual Result<Invitation> invite(const HostKey& /*key*/, const std::string& /*name*/,
                                                  std::int64_t /*valid_ns*/) {
    return system_failure(ENOTSUP, "hosts");
  }
  // Uses an invitation up. A host of that key that is in already stays as it is. Kind failed, EACCES: there
  // is no such invitation, or not any more.
  [[nodiscard]] virtual Result<HostInfo> join(const HostKey& /*invited*/, const std::string& /*wished_name*/,
                                              const HostKey& /*key*/) {
    return system_failure(ENOTSUP, "hosts");
  }
  // The host of that name, and invitations for one: what goes, or went.
  [[nodiscard]] virtual Result<Hosts> revoke(const std::string& /*name*/, bool /*dry_run*/) {
    return system_failure(ENOTSUP, "hosts");
  }

  struct RemoveOptions {
    bool recursive = false; // volumes with their snapshots
    bool dry_run = false;
    bool even_if_open = false; // as unlink(2): handles stay good, the space goes when the last one is closed
    // Say in the plan what it frees, as a dry run always does; reads the index of the branches concerned.
    bool count_frees = false;
  };
  // All or none. Returns at once; space is freed in the background, or by the next process that opens the
  // pool.
  [[nodiscard]] virtual Result<RemovalPlan> remove(std::span<const ViewName> names,
                                                   RemoveOptions options) = 0;
  [[nodiscard]] virtual Result<> wait_for_removals(const Progress& progress) = 0;

  // From the older to the newer; in order of offset. Views without a common ancestor are refused.
  [[nodiscard]] virtual Result<> diff(const ViewName& from, const ViewName& to,
                                      const std::function<bool(const DiffRange&)>& each) = 0;
  [[nodiscard]] virtual Result<CheckReport> check(bool repair, const Progress& progress) = 0;
  [[nodiscard]] virtual Result<> dump_catalog(const std::string& path, const Progress& progress) = 0;

  // Where the blocks of a region of an open snapshot lie, or of a volume that is delegated, for a host that
  // reads the members itself; nullopt: they may move, now. See exported_map.h.
  [[nodiscard]] virtual Result<std::optional<RegionMap>> export_map(ObjectId /*open*/,
                                                                    RegionIndex /*region*/) {
    return std::nullopt;
  }

  // Other hosts may go on reading by exported maps for that long after this process has gone, if it dies: who
  // opens the pool next lets every snapshot stay what it is for as long (kind busy), and those that are
  // unlinked as well. Durable; 0: nobody reads any more.
  [[nodiscard]] virtual Result<> keep_snapshots_for(std::int64_t /*lease_ns*/) { return {}; }

  // Volumes that one host reads and writes at their places (delegation.h). Without a keeper none is given.
  virtual void set_delegation_keeper(DelegationKeeper* /*keeper*/) {}
  // nullopt: not now, which is no error; nor is it waited for. `handles`: that are open of the volume and are
  // that host's.
  [[nodiscard]] virtual Result<std::optional<Delegation>> delegate(ObjectId /*volume*/,
                                                                   std::uint64_t /*host*/,
                                                                   std::uint32_t /*handles*/) {
    return std::nullopt;
  }
  // Nothing of it is under way any more. One that is not known, or not that host's, is no error. Waits for no
  // configuration operation: what is left to be done is done later.
  [[nodiscard]] virtual Result<> end_delegation(std::uint64_t /*host*/, std::uint64_t /*number*/) {
    return {};
  }
  // The same of all that the host has had up to now.
  [[nodiscard]] virtual Result<> end_delegations(std::uint64_t /*host*/) { return {}; }
  // The host's lease is over: what it has not returned is lost. Whoever opens the volume waits until that has
  // been seen to; who calls this need not.
  virtual void lose_delegations(std::uint64_t /*host*/) {}
  // Places for blocks of the volume that the host writes itself, and which the head does not have a place of
  // its own for; `wanted` at most. None: not now, as the pool has none to spare, or a write may have to be
  // refused or to wait (a limit on what snapshots take).
  [[nodiscard]] virtual Result<std::vector<PlaceRun>> grant_space(std::uint64_t /*host*/,
                                                                  std::uint64_t /*number*/,
                                                                  BlockCount /*wanted*/) {
    return std::vector<PlaceRun>();
  }
  // The blocks lie at these places, granted to it, from now on. ESTALE: the delegation does not stand any
  // more; EINVAL: a place that was not granted, or is another block's, or a block past the end. All is looked
  // at before anything is changed; but where the delegation is lost meanwhile, or the pool fails, a part may
  // have been taken. Once more, it is as good as done. Waits for no configuration operation.
  [[nodiscard]] virtual Result<> commit_blocks(std::uint64_t /*host*/, std::uint64_t /*number*/,
                                               std::span<const MapRun> /*runs*/) {
    return failure(ErrorKind::failed, ESTALE, "the volume is not delegated");
  }
  // The host has a session: what a process before this one gave to it is not lost by time alone any more, but
  // returned, or lost by lose_delegations().
  virtual void await_returns(std::uint64_t /*host*/) {}
  [[nodiscard]] virtual std::vector<DelegationInfo> delegations() { return {}; } // by number

  // Whether open_view() would have to wait for a host now. A hint.
  [[nodiscard]] virtual bool is_delegated(ObjectId /*volume*/) { return false; }

  // I/O. Not what is unlinked, but for still_open. A volume that is delegated is taken back first, which may
  // take as long as its host's lease.
  [[nodiscard]] virtual Result<ViewHandle> open_view(ObjectId id) = 0;
  // The same for a host, whose own delegation stays.
  [[nodiscard]] virtual Result<ViewHandle> open_view_for(ObjectId id, std::uint64_t /*host*/) {
    return open_view(id);
  }
  // What the process before this one noted, and this one from now on, until nullptr is given.
  virtual void keep_tenure(Tenure* /*tenure*/) {}
  // For programs that had the view open in the process before, when Tenure::number was `tenure`. EIO: it has
  // lapsed meanwhile.
  [[nodiscard]] virtual Result<ViewHandle> go_on_with(ObjectId id, std::uint64_t /*tenure*/) {
    return open_view(id);
  }
  [[nodiscard]] virtual Result<> sync() = 0; // fsync of everything

 private:
  friend class ViewHandle;
  virtual void handle_closed(View& view) noexcept = 0;
};

} // namespace vsnap
