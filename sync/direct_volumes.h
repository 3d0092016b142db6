// What is delegated to this host (core/delegation.h; the coordinator's side is host_delegations.h): taken
// when a volume is used, and returned when it is recalled, was closed, or a session ends.
//
//          wish()              answer             recall, close, session
//   none ─────────► taking ──────────────► given ───────────────────────► returning ─── answer ──► none
//
// Invariants
// 1. A volume is used under a delegation from its answer on, if the session in which it was asked for is
//    still under way, until stop(); and nothing is returned before drain(), a flush, and until what was
//    written to granted space is handed over. So what the coordinator is told is so: nothing of it is under
//    way here.
// 2. In a new session all that this host ever had is given up first, in one message, when nothing of it is
//    under way and nothing is being asked for; until that is answered nothing is asked for. Before that a
//    process hands over what one before it has left (pending_memory.h).
// 3. What was asked for in a session before, and is answered late, is returned unused.
// 4. What has been pending for some two seconds is handed over, whether somebody asks for that or not.
// Threads: any; what the link tells does not wait. One thread of this drains, returns and hands over.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "core/mutex.h"
#include "sync/direct_volume.h"
#include "sync/link.h"

namespace vsnap {

class DirectVolumes final : private DirectVolume::Handover {
 public:
  // The link, as this uses it. Answered is called by its thread.
  using Call = std::function<void(wire::LinkRequest request, Link::Answered answered)>;

  // `memory`: name of what is written to granted space (pending_memory.h), another one for each host of each
  // pool; empty: no space is used.
  DirectVolumes(Env& env, SharedMembers& members, DirectVolume::Source& source, std::string memory = {})
      : env_(env), members_(members), source_(source), memory_name_(std::move(memory)) {}
  ~DirectVolumes() { static_cast<void>(close()); }
  DirectVolumes(const DirectVolumes&) = delete;
  DirectVolumes& operator=(const DirectVolumes&) = delete;

  Result<> start(Call call); // nothing is asked for before
  // In the first session: what a process before this one has left, the coordinator has, or it is lost. False:
  // neither yet, and nothing may be opened.
  [[nodiscard]] bool await_left(std::chrono::nanoseconds longest) VSNAP_EXCLUDES(mutex_);
  // Something that a process before this one had answered is not there.
  [[nodiscard]] bool has_lost(ObjectId volume) VSNAP_EXCLUDES(mutex_);
  // Returns all, if the coordinator is there. False: something is not handed over, and is left to the next
  // process, which the coordinator must leave that to.
  [[nodiscard]] bool close() VSNAP_EXCLUDES(mutex_);

  // Of each opening of a volume, one after the other.
  [[nodiscard]] std::shared_ptr<DirectVolume> opened(ObjectId volume) VSNAP_EXCLUDES(mutex_);
  void closed(ObjectId volume) VSNAP_EXCLUDES(mutex_);
  // The volume is used through the coordinator: it would be better here.
  void wish(ObjectId volume) VSNAP_EXCLUDES(mutex_);

  // The link tells, in order.
  void lease_lasts(std::int64_t young_until_ns, std::int64_t until_ns);
  void session_began() VSNAP_EXCLUDES(mutex_);
  void lease_lost() VSNAP_EXCLUDES(mutex_);
  void recalled(std::uint64_t delegation) VSNAP_EXCLUDES(mutex_);

 private:
  enum class Phase { none, taking, given, to_return, returning };
  struct Volume {
    std::shared_ptr<DirectVolume> direct;
    std::uint64_t openings = 0;
    Phase phase = Phase::none;
    std::uint64_t delegation = 0; // of given, to_return and returning
    std::int64_t wish_at_ns = 0;  // not before
    std::int64_t pause_ns = 0;    // after the next refusal
    bool hands_over = false;      // soon
  };
  using Volumes = std::map<ObjectId, Volume>;

  struct Job { // of the thread
    enum class Kind { none, end, give_back, hand_over, return_all } kind = Kind::none;
    ObjectId volume;
    std::uint64_t session = 0;
  };
  void run() VSNAP_EXCLUDES(mutex_); // the thread
  [[nodiscard]] Job next_job() VSNAP_REQUIRES(mutex_);
  void hand_over() VSNAP_EXCLUDES(mutex_);
  void stop_using(Volume& volume) VSNAP_REQUIRES(mutex_);
  void taken(ObjectId volume, std::uint64_t session, const wire::LinkReply& reply) VSNAP_EXCLUDES(mutex_);
  void give_back(ObjectId id) VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] bool hand_over_left() VSNAP_EXCLUDES(mutex_); // false: not answered
  void make_memory() VSNAP_EXCLUDES(mutex_);
  void ask_for_space(ObjectId volume, std::uint64_t delegation, BlockCount blocks) override
      VSNAP_EXCLUDES(mutex_);
  Result<> commit_blocks(std::uint64_t delegation, std::span<const MapRun> runs,
                         const std::function<bool()>& given_up) override VSNAP_EXCLUDES(mutex_);
  void hand_over_soon(ObjectId volume) override VSNAP_EXCLUDES(mutex_);
  void returned(ObjectId volume, bool has_failed) VSNAP_EXCLUDES(mutex_);
  void return_all(std::uint64_t session) VSNAP_EXCLUDES(mutex_);
  void note_modified(ObjectId volume);
  [[nodiscard]] Volumes::iterator find(Phase phase) VSNAP_REQUIRES(mutex_);
  [[nodiscard]] std::ptrdiff_t taking() VSNAP_REQUIRES(mutex_); // how many
  [[nodiscard]] bool is_quiet() VSNAP_REQUIRES(mutex_);         // nothing is used, drained or asked for
  void forget_if_unused(Volumes::iterator volume) VSNAP_REQUIRES(mutex_);

  Env& env_;
  SharedMembers& members_;
  DirectVolume::Source& source_;
  const std::string memory_name_;
  LeaseTimes lease_;
  Call call_;
  Mutex mutex_; // before that of a DirectVolume, for give()
  CondVar changed_;
  std::unique_ptr<PendingMemory> memory_ VSNAP_GUARDED_BY(mutex_); // outlives the volumes
  std::vector<PendingChange> left_ VSNAP_GUARDED_BY(mutex_);       // by a process before this one
  std::set<ObjectId> lost_ VSNAP_GUARDED_BY(mutex_);               // volumes of which some of that is
  std::int64_t hand_over_at_ns_ VSNAP_GUARDED_BY(mutex_) = 0;      // what is old by then
  Volumes volumes_ VSNAP_GUARDED_BY(mutex_);
  // While one is being taken: recalled, and perhaps it.
  std::set<std::uint64_t> recalled_early_ VSNAP_GUARDED_BY(mutex_);
  std::uint64_t session_ VSNAP_GUARDED_BY(mutex_) = 0;    // how many there were, so far, and were lost
  bool clearing_ VSNAP_GUARDED_BY(mutex_) = true;         // see invariant 2
  bool asked_all_ VSNAP_GUARDED_BY(mutex_) = false;       // and that is asked for
  std::uint64_t refused_in_ VSNAP_GUARDED_BY(mutex_) = 0; // session in which that was refused
  bool has_session_ VSNAP_GUARDED_BY(mutex_) = false;     // there was one
  bool has_failed_ VSNAP_GUARDED_BY(mutex_) = false;      // something was not taken by the coordinator
  bool closing_ VSNAP_GUARDED_BY(mutex_) = false;
  bool stop_ VSNAP_GUARDED_BY(mutex_) = false;
  bool is_handed_over_ = false; // the owner's, after close()
  std::thread thread_;
};

} // namespace vsnap
