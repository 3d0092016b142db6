// The engine of an open pool: members, allocator, catalog, maps in memory and the commit that ties them
// together. Views do their I/O through it; configuration operations hang their catalog changes onto its
// commit.
//
// Invariants
// 1. The catalog changes only under commit_mutex().
// 2. commit(): members are flushed before the catalog names what was written to them; a place that the
//    catalog no longer names is released after the transaction is durable and a grace period has passed.
// 3. After a failed flush or commit the pool takes no more changes (failure_state.h); what is in memory stays
//    readable.
// 4. There is always room in the metadata segments for the changes that were accepted: writes that need a new
//    place or row are refused (ENOSPC) once the headroom is half used and cannot grow; removal never is.
// Threads: any; commit_mutex() is the outermost lock but for the pool's configuration lock.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "core/allocator.h"
#include "core/change_log.h"
#include "core/database.h"
#include "core/description.h"
#include "core/env.h"
#include "core/extent_index.h"
#include "core/failure_state.h"
#include "core/grace.h"
#include "core/journal.h"
#include "core/member_set.h"
#include "core/metadata_vfs.h"
#include "core/net_changes.h"
#include "core/region_cache.h"
#include "core/tail.h"

namespace vsnap {

struct Object;

class Engine {
 public:
  // Part of a transaction: may change rows, returns an error to roll it back.
  using Step = std::function<Result<>(SQLite::Database&)>;

  Engine(Env& env, std::unique_ptr<MemberSet> members, std::uint64_t cache_bytes);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  [[nodiscard]] Result<> create_catalog();
  [[nodiscard]] Result<> open_catalog(
      bool for_check);                      // reads the space table; kind damaged where it contradicts itself
  [[nodiscard]] Result<> mark_opened();     // before the first change; see member_set.h
  [[nodiscard]] Result<> upgrade_catalog(); // of an older version: gets the tables that it lacks
  // A pool of before there was a journal, or that had no room for one, gets it. Without one every fsync
  // commits.
  void make_journal();
  [[nodiscard]] bool has_tail() const { return tail_ != nullptr; }
  void make_catalog_copy(); // the same for the copy of the catalog's pages, or more of it
  // What is wrong with either, a line each: all of it can be mended.
  [[nodiscard]] Result<std::vector<std::string>> check_catalog_copy(bool repair);
  // The records that the journal and a killed daemon's tail have and the catalog has not, in order; `each`
  // puts them into the log. True: there were some, and a commit is due before any map is loaded. Kind
  // damaged: see journal.h.
  [[nodiscard]] Result<bool> replay(const Journal::Each& each, bool takes_over);
  // Once nothing is pending: what a killed daemon left in memory counts no more, and with `keep` what is
  // changed from now on outlives this process.
  [[nodiscard]] Result<> start_tail(bool keep) VSNAP_EXCLUDES(commit_mutex_);
  // Nothing is pending, and nothing will be changed any more.
  void end_tail();
  // What a killed daemon left in memory is never to be used: a flush has failed since.
  [[nodiscard]] Result<> forget_tail() VSNAP_EXCLUDES(commit_mutex_);
  // Once every place that anything names is taken: after replay().
  void start_headroom() VSNAP_EXCLUDES(commit_mutex_);
  // What the journal or a tail has and the catalog has not is given up.
  [[nodiscard]] Result<> reset_journal();
  // Called when somebody should commit soon, by threads that write; never twice before a commit has begun.
  void set_committer(std::function<void()> wake) { wake_committer_ = std::move(wake); }
  void ask_for_commit() {
    if (wake_committer_ && !commit_asked_.exchange(true)) wake_committer_();
  }
  // What every transaction stores besides: sizes and times of volumes that changed.
  // `failed` is called when that transaction did not come to be.
  void set_extra_step(Step step, std::function<void()> failed) {
    extra_step_ = std::move(step);
    extra_step_failed_ = std::move(failed);
  }

  Mutex& commit_mutex() VSNAP_THREAD_ANNOTATION(lock_returned(commit_mutex_)) { return commit_mutex_; }
  // Makes everything durable that was written or changed before the call.
  [[nodiscard]] Result<> commit() VSNAP_EXCLUDES(commit_mutex_);
  // The same, and `step` with it in the last transaction: all of it or nothing of the step. Without a step it
  // may stop early (Hurry).
  [[nodiscard]] Result<> commit_with(const Step& step) VSNAP_REQUIRES(commit_mutex_);
  // commit(), until the log has room again.
  [[nodiscard]] Result<> make_room() VSNAP_EXCLUDES(commit_mutex_);
  // For a line between two versions. prepare_line() makes sure, before it is drawn, that there is room for a
  // step. draw_line() draws it, while the gates concerned are closed, and gives the last record before it.
  // record_line() makes those records and the step durable, in the journal and a transaction of the step
  // alone; they may reach the catalog later, and until they have the older version must not be read. Records
  // beyond the line never reach the catalog before the step.
  [[nodiscard]] Result<> prepare_line() VSNAP_REQUIRES(commit_mutex_);
  std::uint64_t draw_line() VSNAP_REQUIRES(commit_mutex_);
  [[nodiscard]] Result<> record_line(const Step& step) VSNAP_REQUIRES(commit_mutex_);
  // While one exists, commits without a step stop after a transaction and let others have the commit lock;
  // one that is under way when it comes is undone, but not twice in a row.
  class Hurry {
   public:
    explicit Hurry(Engine& engine);
    ~Hurry();
    Hurry(const Hurry&) = delete;
    Hurry& operator=(const Hurry&) = delete;

   private:
    Engine& engine_;
  };
  // commit(), unless nothing changed since the last one.
  [[nodiscard]] Result<> commit_if_needed() VSNAP_EXCLUDES(commit_mutex_);
  // A transaction of its own that frees places (sweeps): released like those of a commit.
  [[nodiscard]] Result<> transact(
      const std::function<Result<>(SQLite::Database&, std::vector<PlaceRun>& freed)>& body)
      VSNAP_REQUIRES(commit_mutex_);
  // How many blocks of which branches were mapped anew by commits since the last call.
  [[nodiscard]] std::map<BranchId, std::uint64_t> take_applied() VSNAP_REQUIRES(commit_mutex_) {
    return std::exchange(applied_blocks_, {});
  }
  // Makes durable what was written before the call: a flush of the members, and a frame of the journal where
  // the log has something.
  [[nodiscard]] Result<> sync() VSNAP_EXCLUDES(commit_mutex_);
  // The same, but of what was written to images only this one's; 0: none.
  [[nodiscard]] Result<> sync(std::uint32_t base_member) VSNAP_EXCLUDES(commit_mutex_);
  // Makes the records up to `sequence` durable, with their data; never commits. Kind busy, errno EAGAIN
  // (wants_commit()): the journal has no room, so a commit has to, once the caller holds nothing that it
  // waits for.
  [[nodiscard]] Result<> make_durable(std::uint64_t sequence) VSNAP_EXCLUDES(commit_mutex_);
  [[nodiscard]] static bool wants_commit(const Error& error) {
    return error.kind == ErrorKind::busy && error.errno_value == EAGAIN;
  }
  [[nodiscard]] bool is_durable(std::uint64_t sequence) const {
    return sequence <= committed() || sequence <= journal_->durable();
  }
  // Before the image of an adopted volume is changed: the catalog says so, and when that was, a few seconds
  // more or less. So whoever opens the pool after a crash can tell our changes from those of others.
  [[nodiscard]] Result<> mark_base(Branch& branch) VSNAP_EXCLUDES(commit_mutex_) {
    return is_marked(branch) ? Result<>() : base_marker_(branch);
  }
  [[nodiscard]] bool is_marked(const Branch& branch) const {
    const std::int64_t marked_ns = branch.base.marked_ns.load(std::memory_order_acquire);
    const std::int64_t since = env_.wall_clock_ns() - marked_ns;
    return marked_ns != 0 && since < kMarkNs && since > -kMarkNs; // 0: never
  }
  static constexpr std::int64_t kMarkNs = 10'000'000'000;
  // Called by writers that a SnapshotLimit refused, outside of everything: when it returns, they try again.
  [[nodiscard]] Result<> make_snapshot_room(const std::shared_ptr<Object>& volume)
      VSNAP_EXCLUDES(commit_mutex_) {
    return room_maker_(volume);
  }
  void set_room_maker(std::function<Result<>(const std::shared_ptr<Object>&)> make) {
    room_maker_ = std::move(make);
  }
  // Called by a write that found no space, after a commit, before it fails; outside of everything.
  void seek_space() {
    if (space_seeker_) space_seeker_();
  }
  void set_space_seeker(std::function<void()> seek) { space_seeker_ = std::move(seek); }
  void set_base_marker(std::function<Result<>(Branch&)> mark) { base_marker_ = std::move(mark); }
  // What the branch of an adopted volume calls its image.
  void set_base_member(BranchId branch, std::uint32_t member) VSNAP_EXCLUDES(commit_mutex_);
  void forget_base_member(BranchId branch) VSNAP_REQUIRES(commit_mutex_) { bases_.erase(branch); }

  // nullopt: no space, now; a commit may bring some back.
  [[nodiscard]] std::optional<PlaceRun> allocate(BlockCount wanted, std::optional<Place> near,
                                                 std::uint64_t phase);
  // The same, on one of these members.
  [[nodiscard]] std::optional<PlaceRun> allocate_among(std::span<const std::uint32_t> members,
                                                       BlockCount wanted, std::uint64_t phase);
  // Of places that no row ever named, and nothing under way touches: they can be given away again.
  void release_unnamed(const std::vector<PlaceRun>& runs);
  // After a transact() that added rows: for those to come.
  void note_rows_added() VSNAP_REQUIRES(commit_mutex_) { keep_headroom(); }
  // Records up to this number are in the catalog.
  [[nodiscard]] std::uint64_t committed() const { return log_->committed(); }
  [[nodiscard]] bool metadata_low() const { return metadata_low_.load(std::memory_order_relaxed); }
  // Failures; see failure_state.h.
  [[nodiscard]] bool failed() const { return failure_.failed(); }
  [[nodiscard]] Result<> check_writable() const { return failure_.check_writable(); }
  [[nodiscard]] std::string health() const { return failure_.health(); }
  [[nodiscard]] Result<> check_kept(PlaceRun run) const { return failure_.check_kept(run); }
  [[nodiscard]] bool needs_check() const { return failure_.needs_check(); }
  void refuse_changes(std::string why, std::string health) {
    failure_.refuse_changes(std::move(why), std::move(health));
  }
  // True, once: nobody has been told yet that blocks of the view lie on that missing member.
  [[nodiscard]] bool tells_missing(ObjectId view, std::uint32_t member) VSNAP_EXCLUDES(told_mutex_) {
    MutexLock lock(told_mutex_);
    return told_missing_.emplace(view, member).second;
  }
  // Of a pool without all of its members: what the journal has beyond the catalog is, or may be, on a missing
  // one.
  [[nodiscard]] bool leaves_out_records() const { return leaves_out_records_; }
  // As Pool::losses(); from start_tail() on.
  [[nodiscard]] std::uint64_t losses() const { return losses_; }
  // Everything is in the catalog, and nothing will be changed: brings it to an end, and says so on the
  // members. Nothing but the destructor may be called afterwards.
  [[nodiscard]] Result<> close_catalog();
  // From now on nothing is changed any more, until the pool is opened again.
  void fail(const Error& why);
  // Of all members and images. Should it fail, what only the tail knows counts no more, and the members say
  // that a check is needed before the caller hears of it.
  [[nodiscard]] Result<> flush();
  // Tries again where the members did not take it.
  void mark_failure();
  [[nodiscard]] SpaceInfo space();
  void note_member_added(std::uint64_t blocks);

  MemberSet& members() { return *members_; }
  Allocator& allocator() { return allocator_; }
  Database& db() { return *db_; }
  ExtentIndex& index() { return *index_; }
  ChangeLog& log() { return *log_; }
  Grace& grace() { return grace_; }
  RegionCache& cache() { return *cache_; }
  Env& env() { return env_; }
  [[nodiscard]] Result<> checkpoint() { return db_->checkpoint(); }

 private:
  [[nodiscard]] Result<> start(bool fresh);
  [[nodiscard]] Result<> commit_line(const Step& step) VSNAP_REQUIRES(commit_mutex_);
  void wait_for_hurry() VSNAP_EXCLUDES(hurry_mutex_);
  struct Batch { // the records of one transaction, in net form
    NetChanges net;
    std::uint64_t last = 0;
    std::optional<int> gives_way; // where there are more in a hurry than that
    bool gave_way = false;
    std::uint64_t applied = 0; // pieces
  };
  [[nodiscard]] Batch next_batch(std::uint64_t line, std::uint64_t limit) const VSNAP_REQUIRES(commit_mutex_);
  [[nodiscard]] std::vector<PlaceRun> unnamed(const std::vector<PlaceRun>& overtaken) const;
  [[nodiscard]] Result<> apply_batch(Batch& batch, const Step& step, std::vector<PlaceRun>& freed)
      VSNAP_REQUIRES(commit_mutex_);
  struct Places { // whose state a transaction changed
    std::vector<PlaceRun> added, freed;
    std::vector<PlaceRun> unused; // no row names them, or did
  };
  [[nodiscard]] Result<> apply_changes(Batch& batch, Places& places) VSNAP_REQUIRES(commit_mutex_);
  [[nodiscard]] Result<> breathe(Batch& batch) VSNAP_REQUIRES(commit_mutex_);
  void find_lost_places();
  [[nodiscard]] Result<> checked_flush(Result<> flushed);
  [[nodiscard]] Result<> sync_records(std::uint64_t wanted) VSNAP_EXCLUDES(commit_mutex_);
  void undo_durable(const std::vector<PlaceRun>& added, const std::vector<PlaceRun>& freed)
      VSNAP_REQUIRES(commit_mutex_);
  [[nodiscard]] Result<> store_figures(SQLite::Database& db, const Batch& batch, const Step& step)
      VSNAP_REQUIRES(commit_mutex_);
  [[nodiscard]] bool stores_position(const Batch& batch) const VSNAP_REQUIRES(commit_mutex_);
  [[nodiscard]] std::uint32_t base_member(BranchId branch) const VSNAP_REQUIRES(commit_mutex_);
  [[nodiscard]] std::uint64_t smallest_batch() const;
  [[nodiscard]] std::uint64_t largest_batch() const;
  void release(std::vector<PlaceRun>& freed) VSNAP_REQUIRES(commit_mutex_);
  void keep_headroom() VSNAP_REQUIRES(commit_mutex_);
  [[nodiscard]] std::uint64_t headroom_target_blocks() const;

  Env& env_;
  const std::uint64_t cache_bytes_;
  std::unique_ptr<MemberSet> members_;
  FailureState failure_;
  Allocator allocator_;
  std::unique_ptr<MetadataVfs> vfs_;
  std::unique_ptr<Database> db_;
  std::unique_ptr<ExtentIndex> index_;
  std::unique_ptr<SQLite::Statement> page_count_, free_count_; // keep_headroom()'s
  std::unique_ptr<Tail> tail_;                                 // that the log lies in
  static constexpr std::uint64_t kTokenOfNone = 2; // of a daemon without a tail; those of tails are odd
  std::uint64_t tail_token_ = 0; // that the catalog names; 0: it has everything, or a command is at work
  bool may_have_lost_ = false;                                 // as of losses(): another one, not yet counted
  std::uint64_t losses_ = 0;
  std::unique_ptr<ChangeLog> log_;
  std::unique_ptr<Journal> journal_;
  bool leaves_out_records_ = false;
  bool sound_ = true; // the record of used space agrees with itself
  Grace grace_;
  std::unique_ptr<RegionCache> cache_;
  Step extra_step_;
  std::function<void()> extra_step_failed_;
  std::function<void()> wake_committer_;
  std::function<Result<>(Branch&)> base_marker_;
  std::function<Result<>(const std::shared_ptr<Object>&)> room_maker_;
  std::function<void()> space_seeker_;
  std::atomic<bool> commit_asked_{false};
  Mutex told_mutex_; // a leaf
  std::set<std::pair<ObjectId, std::uint32_t>> told_missing_ VSNAP_GUARDED_BY(told_mutex_);
  Mutex hurry_mutex_; // a leaf
  CondVar hurry_over_;
  std::atomic<int> hurry_{0}; // changed under it

  Mutex commit_mutex_;
  std::map<BranchId, std::uint32_t> bases_ VSNAP_GUARDED_BY(commit_mutex_); // images of adopted volumes
  std::map<BranchId, std::uint64_t> applied_blocks_ VSNAP_GUARDED_BY(commit_mutex_); // see take_applied()
  Journal::Position line_ VSNAP_GUARDED_BY(commit_mutex_); // of the journal, at the log's line
  std::uint64_t polite_limit_ VSNAP_GUARDED_BY(commit_mutex_) = 1ULL << 32U; // pieces of the next transaction
  std::uint64_t grow_at_free_ VSNAP_GUARDED_BY(commit_mutex_) = 0; // blocks; fewer: the catalog cannot grow
  std::uint64_t not_grown_ VSNAP_GUARDED_BY(commit_mutex_) = 0;
  bool gave_way_ VSNAP_GUARDED_BY(commit_mutex_) = false; // the transaction before this one
  std::atomic<bool> metadata_low_{false};
  std::atomic<std::uint64_t> metadata_used_bytes_{0};
  std::atomic<std::uint64_t> pool_blocks_{0};
};

} // namespace vsnap
