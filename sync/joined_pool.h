// A pool that another host coordinates, as this one sees it: its snapshots, read from the members here by
// maps that the coordinator hands out, and its volumes (remote_volume.h), of which everything is asked of the
// coordinator, over the link, as all else is.
//
// Invariants
// 1. Of the members only that is written which is delegated to this host (direct_volumes.h).
// 2. A snapshot is open at the coordinator, in the session under way, before a map of it is fetched; so what
//    it shows stays readable (core/fetched_view.h, sync/view_exports.h).
// 3. I/O goes on as long as the lease admits new I/O; without a session it waits for one, kLongestWait at
//    most, and then fails (EIO). A link that has ended for good fails it at once.
// 4. The list of views is that of a generation that the coordinator has told of; a name that is not in it is
//    asked for before it is said not to exist, and a volume before it is described.
// 5. Volumes that are open lapse in session_lost(), before their lease is over at the coordinator, and where
//    a session begins that does not go on from the one before. The process after this one goes on with those
//    that have not lapsed, if it has a session before the lease of this one is over (Tenure).
// Threads: any, as of every Pool. The observer is called by a thread of this.
//
// The link, the session and the list are in joined_pool.cpp; what is open in joined_snapshots.cpp and
// joined_volumes.cpp; what is asked for through the directory of the mount in joined_names.cpp.
#pragma once

#include <chrono>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <thread>

#include "core/fetched_view.h"
#include "core/pool.h"
#include "sync/direct_volumes.h"
#include "sync/link.h"
#include "sync/remote_volume.h"

namespace vsnap {

class JoinedPool final : public Pool,
                         private MapSource,
                         private DirectVolume::Source,
                         private RemoteIo,
                         private LinkListener {
 public:
  static constexpr std::chrono::seconds kLongestWait{60};
  static constexpr std::chrono::seconds kLongestStart{15};

  struct Options {
    Link::Options link;
    std::vector<std::string> members; // where they may be, on this host
    SharedMembers::Search search;     // for others, where one is not there
    // Names of snapshots, or of volumes for all of theirs, and nothing is changed then; none: all there is.
    std::vector<std::string> only;
  };
  // Kinds: no_answer (no coordinator), not_found (a member is not here).
  static Result<std::unique_ptr<JoinedPool>> open(Env& env, Options options);
  ~JoinedPool() override;

  // As a command on the coordinator's host would ask for it.
  [[nodiscard]] wire::ControlReply forward(wire::ControlRequest request);
  void end_forwards(); // those that wait give up, kind no_answer; before the control server is stopped
  [[nodiscard]] LinkStatus link_status() { return link_->status(); }

  Result<> close() override;
  void keep_unlinked() override {}
  void stop_waiting() override VSNAP_EXCLUDES(mutex_); // whatever waits for the coordinator: kind no_answer
  [[nodiscard]] bool is_read_only() const override { return !only_.empty(); }
  void set_observer(PoolObserver* observer) override VSNAP_EXCLUDES(mutex_);
  void settle() override {}
  [[nodiscard]] std::string name() const override { return name_; }
  PoolStatus status() override;
  std::vector<ViewInfo> list() override;
  Result<ViewInfo> find(const ViewName& name) override;
  Result<ViewInfo> info(ObjectId id) override;
  SpaceInfo space() override; // as it was when somebody asked last; waits for nobody
  Result<ViewHandle> open_view(ObjectId id) override;
  void keep_tenure(Tenure* tenure) override VSNAP_EXCLUDES(mutex_);
  Result<ViewHandle> go_on_with(ObjectId id, std::uint64_t tenure) override VSNAP_EXCLUDES(mutex_);
  Result<> sync() override { return {}; }
  bool shares_all_of(ObjectId, ObjectId) override { return false; }

  // Changes are asked for by commands, of the coordinator (forward()); here there is nobody who does: EROFS.
  Result<DiskUsage> disk_usage() override;
  Result<std::optional<ObjectId>> carried_out(RequestId) override;
  Result<> add_member(const MemberSpec&, bool) override;
  Result<ViewInfo> create_volume(const std::string&, std::uint64_t) override;
  using Pool::rename;
  Result<> rename(const ViewName&, const std::string&, bool) override;
  using Pool::resize;
  Result<> resize(ObjectId, std::uint64_t, bool) override;
  Result<> set_attributes(ObjectId, std::optional<std::uint32_t>, std::optional<std::uint32_t>,
                          std::optional<std::uint32_t>, std::optional<std::int64_t>) override;
  Result<> snapshot(std::span<const ViewName>) override;
  using Pool::rollback;
  Result<RollbackResult> rollback(const ViewName&, bool, bool, const Progress&) override;
  Result<ViewInfo> clone(const ViewName&, const std::string&) override;
  Result<> share_into(ObjectId, ObjectId) override;
  Result<ViewInfo> preserve(const ViewName&) override;
  Result<> flatten(const std::string&, const Progress&) override;
  Result<> snapshot_full(const ViewName&, const FullSnapshotOptions&) override;
  Result<> wait_for_copy(const ViewName&, const Progress&) override;
  Result<> set_copy(const ViewName&, const CopySettings&) override;
  Result<ViewInfo> split(const ViewName&, const std::string&) override;
  Result<ViewInfo> refresh(const ViewName&) override;
  Result<RemovalPlan> remove(std::span<const ViewName>, RemoveOptions) override;
  Result<> wait_for_removals(const Progress&) override;
  Result<> diff(const ViewName&, const ViewName&, const std::function<bool(const DiffRange&)>&) override;
  Result<CheckReport> check(bool, const Progress&) override;
  Result<> dump_catalog(const std::string&, const Progress&) override;

 private:
  static constexpr std::chrono::milliseconds kLongestRequest{30'000};
  static constexpr std::chrono::milliseconds kLongestForward{3'600'000}; // of a command
  static constexpr std::chrono::milliseconds kLookAgain{100}; // where nobody says that it has changed
  static constexpr std::size_t kMostAsked = 10;
  static constexpr std::size_t kMostChanging = 8; // of those: they may wait for room, and others go on
  static constexpr std::size_t kMostForwarded = 4;
  // Opens that were given up are asked on, and what is delegated is returned beside the rest.
  static_assert(kMostAsked + kMostForwarded < Membership::kMaxRunning);
  static constexpr std::uint64_t kNoTenure = ~0ULL;
  class Turn;
  struct OpenVolume {
    std::shared_ptr<RemoteVolume> volume;
    std::uint64_t session = 0; // in which the coordinator has it open, too; 0: not yet in any
    std::uint64_t losses = 0;  // of the pool, then
    bool goes_on = false;      // was open in the process before, under those losses
  };
  struct Open { // a snapshot that this host has open
    std::shared_ptr<FetchedView> view;
    std::uint64_t number = 0; // another one each time; the coordinator knows it by that
    std::uint64_t handles = 0;
    std::uint64_t session = 0; // in which the coordinator has it open, too
  };
  JoinedPool(Env& env, Options options);
  Result<> start(Link::Options options);
  void handle_closed(View& view) noexcept override;
  [[nodiscard]] bool is_shown(const ViewInfo& view) const;
  Result<wire::LinkReply> ask(wire::LinkRequest request, std::chrono::milliseconds longest)
      VSNAP_EXCLUDES(mutex_);
  // Until it is answered, `given_up` says so (errno EIO), or the pool is closed.
  Result<wire::LinkReply> ask_until(wire::LinkRequest request, bool forwarded,
                                    const std::function<bool()>& given_up) VSNAP_EXCLUDES(mutex_);
  Result<wire::ControlReply> control(wire::ControlRequest request) VSNAP_EXCLUDES(mutex_); // that only looks
  // As it is now; as it was known, where nobody says so soon.
  Result<ViewInfo> info_of_volume(const ViewInfo& known) VSNAP_EXCLUDES(mutex_);
  Result<ViewInfo> known_info(ObjectId id) VSNAP_EXCLUDES(mutex_);
  Result<ViewInfo> set_of_volume(wire::SetAttributesRequest request) VSNAP_EXCLUDES(mutex_);
  Result<wire::LinkReply> change_names(wire::LinkRequest request) VSNAP_EXCLUDES(list_mutex_, mutex_);
  Result<ViewHandle> open_volume(const ViewInfo& info, std::optional<std::uint64_t> losses = std::nullopt)
      VSNAP_EXCLUDES(mutex_); // `losses`: goes on with what was open under those
  // The session in which it is.
  Result<std::uint64_t> ensure_volume_open(RemoteVolume& volume) VSNAP_EXCLUDES(mutex_);
  Result<> open_there(RemoteVolume& volume, std::uint64_t session) VSNAP_EXCLUDES(mutex_);
  void note_losses() VSNAP_REQUIRES(mutex_);
  // One that is open and has not lapsed, if any; and how often all have.
  std::pair<std::shared_ptr<RemoteVolume>, std::uint64_t> open_volume_of(ObjectId id) VSNAP_EXCLUDES(mutex_);
  Result<wire::LinkReply> set_size(RemoteVolume& volume, std::uint64_t size_bytes) VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] Failure lapsed(const RemoteVolume& volume) const override;
  void lapse_volumes() VSNAP_REQUIRES(mutex_);
  Result<wire::LinkReply> carry_out(RemoteVolume& volume, const Make& make) override;
  Result<> refresh_list() VSNAP_EXCLUDES(list_mutex_, mutex_);
  void follow(); // the thread that tells the observer, and closes at the coordinator what was closed here
  void close_there(std::uint64_t number) VSNAP_EXCLUDES(mutex_);
  // Opens it at the coordinator, if that has not been done in the session under way.
  Result<> ensure_open(ObjectId view) VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] Failure read_only() const;
  [[nodiscard]] bool gives_up() const VSNAP_REQUIRES(mutex_) { return stop_ || waits_no_more_; }
  // The request of this host's kernel that the thread is at; 0: none.
  [[nodiscard]] std::uint64_t asked_by() const;
  [[nodiscard]] std::uint64_t number_for_all(std::uint64_t request) const;

  // MapSource
  Result<PoolStatus> fetch_members() override;
  Result<std::optional<RegionMap>> fetch_map(ObjectId view, RegionIndex region) override;
  Result<std::optional<RegionMap>> fetch_volume_map(ObjectId volume, RegionIndex region) override;
  Result<std::optional<RegionMap>> ask_for_map(ObjectId view, RegionIndex region);
  Result<std::size_t> read(ObjectId view, std::uint64_t offset, std::span<std::byte> out) override;
  Result<std::optional<std::uint64_t>> seek(ObjectId view, std::uint64_t offset, bool hole);
  Result<std::optional<std::uint64_t>> seek_data(ObjectId view, std::uint64_t offset) override {
    return seek(view, offset, false);
  }
  Result<std::optional<std::uint64_t>> seek_hole(ObjectId view, std::uint64_t offset) override {
    return seek(view, offset, true);
  }
  Result<std::uint64_t> session() override VSNAP_EXCLUDES(mutex_) { return session_unless({}); }
  // Higher with each session.
  static std::uint64_t session_number(const LinkStatus& status);
  Result<std::uint64_t> session_unless(const std::function<bool()>& given_up) VSNAP_EXCLUDES(mutex_);

  // LinkListener; from the link's thread
  void phase_is(HostSession::Phase phase) override VSNAP_EXCLUDES(mutex_);
  void session_began(const HostSession::Began& session) override VSNAP_EXCLUDES(mutex_);
  void lease_lasts(std::int64_t young_until_ns, std::int64_t until_ns) override VSNAP_EXCLUDES(mutex_);
  void session_lost() override VSNAP_EXCLUDES(mutex_);
  void ended(wire::RefusalReason reason) override VSNAP_EXCLUDES(mutex_);
  void told(const wire::Notice& notice) override VSNAP_EXCLUDES(mutex_);

  Env& env_;
  const std::string name_;
  const std::vector<std::string> only_;
  const std::uint64_t host_number_; // another one on each host
  SharedMembers members_;
  MapCache maps_;
  DirectVolumes direct_;
  std::unique_ptr<Link> link_;
  Mutex mutex_; // never held while something is asked
  CondVar changed_;
  CondVar turn_;
  std::size_t asked_ VSNAP_GUARDED_BY(mutex_) = 0;     // under way
  std::size_t changing_ VSNAP_GUARDED_BY(mutex_) = 0;  // of those, changes of data
  std::size_t forwarded_ VSNAP_GUARDED_BY(mutex_) = 0; // the same, of commands
  bool ended_ VSNAP_GUARDED_BY(mutex_) = false;
  bool forwards_end_ VSNAP_GUARDED_BY(mutex_) = false;
  bool waits_no_more_ VSNAP_GUARDED_BY(mutex_) = false;
  Tenure* tenure_ VSNAP_GUARDED_BY(mutex_) = nullptr;
  std::uint64_t tenure_before_ VSNAP_GUARDED_BY(mutex_) = kNoTenure; // number of the one that goes on
  std::uint64_t lapses_ VSNAP_GUARDED_BY(mutex_) = 0;                // of all that was open
  std::uint64_t losses_before_ VSNAP_GUARDED_BY(mutex_) = 0;
  PoolStatus known_ VSNAP_GUARDED_BY(mutex_); // as the coordinator said last
  std::int64_t known_at_ns_ VSNAP_GUARDED_BY(mutex_) = 0;
  std::deque<std::uint64_t> closed_
      VSNAP_GUARDED_BY(mutex_);                        // numbers that are still open at the coordinator
  bool space_wanted_ VSNAP_GUARDED_BY(mutex_) = false; // newer than that
  bool stale_ VSNAP_GUARDED_BY(mutex_) = true;         // the list may be of an older generation
  bool stop_ VSNAP_GUARDED_BY(mutex_) = false;
  std::map<std::uint64_t, ViewInfo> views_ VSNAP_GUARDED_BY(mutex_); // that are shown, by id
  std::map<std::uint64_t, Open> open_ VSNAP_GUARDED_BY(mutex_);      // by id
  std::map<const View*, OpenVolume> volumes_ VSNAP_GUARDED_BY(mutex_);
  std::uint64_t opened_ VSNAP_GUARDED_BY(mutex_); // the number of the last one; the first is a random one
  Mutex list_mutex_;                              // above the next: one answer after the other
  Mutex observer_mutex_;                          // above mutex_: while the observer is called, it stays
  PoolObserver* observer_ VSNAP_GUARDED_BY(observer_mutex_) = nullptr;
  std::thread follower_;
};

} // namespace vsnap
