// The members of an open pool: their locks, superblocks and bytes. Everything that reaches a member goes
// through here.
//
// Invariants
// 1. While it exists, this process holds the lock of every member. With it, and after it, whoever has got
//    descriptors(): nobody else can open the pool then.
// 2. All members belong to one pool, none is missing or doubled; each is at least as long as the roster says.
// 3. The layout (roster, segments, flags) on the members is the one in layout(), or the one before during
//    update_layout().
// 4. Members that were used apart from each other are not taken for one pool: whoever opens a pool of several
//    members to change it raises their sequence, member after member (mark_opened), and writes the sequence
//    reached into the catalog. Members one step apart are those of an opening that was cut short, unless the
//    catalog says that it was not.
// 5. The flag "needs check" goes into every superblock copy that may count at the next opening, without a new
//    sequence: it stands if any member has it.
// 6. Once a flush has failed every later or concurrent flush_data() fails, until the pool is opened again
//    after a check.
// 7. A layout whose way to the members was cut short stays the one with the newest sequence until it is on
//    all of them, or the pool is opened anew: another one gets a sequence of its own, which comes after that.
// 8. With members missing, which whoever opens it has to allow, all of them are frozen (frozen_file.h):
//    nothing reaches a member, and what lies on a missing one cannot be read.
// 9. The flag "closed" in a superblock says that the WAL was empty when it was written, and still is: it is
//    gone from all members before the WAL gets a byte. It counts only where no newer superblock can be hidden
//    by a damaged copy.
// Threads: any, after open(). update_layout() and add() are called under the pool's commit lock or during
// SQLite's writes, which that lock covers; they exclude each other by layout_mutex_.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/env.h"
#include "core/error.h"
#include "core/format.h"
#include "core/mutex.h"
#include "core/owner_record.h"
#include "core/superblock.h"
#include "core/units.h"

namespace vsnap {

struct MissingMember {
  std::uint32_t index = 0;
  Uuid uuid{};
  std::string path; // where it was last; empty: not known
  [[nodiscard]] std::string text() const; // "member 1 (/dev/sdc1)"
};

class MemberSet {
 public:
  // Locks and verifies. Kinds: busy (names the owner), damaged, not_found, failed. `may_miss`: members of the
  // pool with this UUID (as text; empty: that of the first one found) may be missing; none has to be.
  [[nodiscard]] static Result<std::unique_ptr<MemberSet>> open(
      Env& env, const std::vector<std::string>& paths, const std::string& role, int lock_wait_ms,
      bool direct = false, std::span<const int> held = {}, std::optional<std::string> may_miss = {});
  // Lays out a new pool on the given open and locked files; writes superblocks, not the catalog.
  [[nodiscard]] static Result<std::unique_ptr<MemberSet>> create(
      Env& env, const std::string& pool_name,
      std::vector<std::pair<std::string, std::unique_ptr<File>>> files);

  // Invariant 8: in order; empty: all are there.
  [[nodiscard]] const std::vector<MissingMember>& missing() const { return missing_; }
  [[nodiscard]] bool frozen() const { return !missing_.empty(); }
  [[nodiscard]] const MissingMember* missing_at(Place place) const; // nullptr: it is there
  // Invariant 9: as it was when the set was opened; once nothing is in the WAL any more; before it gets a
  // byte.
  [[nodiscard]] bool was_closed() const { return was_closed_; }
  [[nodiscard]] Result<> mark_closed() VSNAP_EXCLUDES(layout_mutex_);
  [[nodiscard]] Result<> mark_in_use() VSNAP_EXCLUDES(layout_mutex_);

  [[nodiscard]] Result<> read(Place place, std::uint64_t offset_bytes, std::span<std::byte> out);
  // As File::start_read().
  [[nodiscard]] Result<File::Progress> start_read(Place place, std::uint64_t offset_bytes,
                                                  std::span<std::byte> out, File::Done done);
  [[nodiscard]] bool may_wait() const { return may_wait_.load(std::memory_order_relaxed); } // any member
  [[nodiscard]] Result<> write(Place place, std::uint64_t offset_bytes, std::span<const std::byte> data);
  // Durable when it returns, whatever was not flushed before.
  [[nodiscard]] Result<> write_durably(Place place, std::uint64_t offset_bytes,
                                       std::span<const std::byte> data);
  void discard(PlaceRun run);
  void take_space(PlaceRun run); // below the member; best effort
  // Makes durable whatever was written before the call: to members and images; members alone; one image.
  [[nodiscard]] Result<> flush_data();
  [[nodiscard]] Result<> flush_members();
  [[nodiscard]] Result<> flush_base(std::uint32_t member);

  // The image of an adopted volume, locked by the caller, becomes readable and writable under the number
  // `member`, from Place::kFirstBase on. It is no member: it has no superblock, and is in no roster. Reads
  // beyond its end give zeros, writes there are left out. Nothing else may use the number meanwhile.
  void attach_base(std::uint32_t member, const std::string& path, std::unique_ptr<File> file);
  void detach_base(std::uint32_t member); // nobody is using it
  [[nodiscard]] bool has_base(std::uint32_t member) const;
  [[nodiscard]] File& base(std::uint32_t member); // has_base()
  // Zeros instead of what is there; its space goes back to the file system where it can.
  [[nodiscard]] Result<> zero_base(PlaceRun run);
  [[nodiscard]] Result<> resize_base(std::uint32_t member, std::uint64_t size_bytes);

  [[nodiscard]] Superblock layout() const VSNAP_EXCLUDES(layout_mutex_);
  template <class Change>
  [[nodiscard]] Result<> update_layout(Change change) VSNAP_EXCLUDES(layout_mutex_) {
    MutexLock lock(layout_mutex_);
    Superblock changed = layout_;
    change(changed);
    return store_layout(std::move(changed));
  }
  // A new member at the end of the roster; durable on all members when it returns. After a failure some may
  // name it all the same: then addition_cut_short(), and whoever opens the pool again may need it.
  [[nodiscard]] Result<std::uint32_t> add(Env& env, const std::string& path, std::unique_ptr<File> file)
      VSNAP_EXCLUDES(layout_mutex_);
  [[nodiscard]] bool addition_cut_short() const VSNAP_EXCLUDES(layout_mutex_);
  // Locks the file for us and checks that it is none of the members already.
  [[nodiscard]] Result<> claim(Env& env, const std::string& path, File& file, int lock_wait_ms);

  // That carry the locks, for OpenMode::held of another process; they stay with this one, too.
  [[nodiscard]] std::vector<int> descriptors() const;
  [[nodiscard]] std::uint32_t count() const { return count_.load(std::memory_order_acquire); }
  [[nodiscard]] const std::string& path(std::uint32_t member) const { return slots_[member]->path; }
  // Whether all members, those added since too, are read and written past the page cache.
  [[nodiscard]] bool all_direct() const { return all_direct_.load(); }
  [[nodiscard]] bool is_block_device(std::uint32_t member) const {
    return slots_[member]->file->is_block_device();
  }
  // Called by whatever thread finds that a flush has failed, with locks held: for a store to memory. Before
  // there are other threads.
  void set_on_failed_flush(std::function<void()> told) { on_failed_flush_ = std::move(told); }
  [[nodiscard]] bool flush_failed() const { return flush_failed_.load(); }
  // Raises the sequence on all members; the new one. Nothing, and 0, for a pool of one member.
  [[nodiscard]] Result<std::uint64_t> mark_opened() VSNAP_EXCLUDES(layout_mutex_);
  // Fails if the members are a step apart though the catalog has the newest sequence.
  [[nodiscard]] Result<> check_together(std::uint64_t sequence_in_catalog) const
      VSNAP_EXCLUDES(layout_mutex_);
  // The next opening finds that a check is needed. False: some member did not take it.
  bool mark_needs_check() VSNAP_EXCLUDES(layout_mutex_);
  [[nodiscard]] Result<> clear_needs_check() VSNAP_EXCLUDES(layout_mutex_);
  [[nodiscard]] bool needs_check() const VSNAP_EXCLUDES(layout_mutex_);
  // Damage seen in single superblock copies at open; empty when all were good.
  [[nodiscard]] const std::vector<std::string>& remarks() const { return remarks_; }
  // Reads every superblock copy again and says what is wrong with it; rewrites them all with repair.
  [[nodiscard]] Result<std::vector<std::string>> check_superblocks(bool repair) VSNAP_EXCLUDES(layout_mutex_);

  // Ends the pool: overwrites the header of every member. Nothing else may be done with the set afterwards.
  [[nodiscard]] Result<> erase_headers();

  // The owner's record, with the mark that they show.
  void write_owner_records(Env& env) VSNAP_EXCLUDES(owner_mutex_);
  void clear_owner_records() VSNAP_EXCLUDES(owner_mutex_);
  // Another mark, which all members show, durably, when it returns.
  [[nodiscard]] Result<MemberMark> mark_members(Env& env) VSNAP_EXCLUDES(owner_mutex_);

 private:
  struct Slot {
    std::string path;
    std::unique_ptr<File> file;
    std::atomic<std::uint64_t> writes{1};     // finished so far, and those of whoever had the pool before
    std::atomic<std::uint64_t> flushed{0};    // of which the last flush covered this many
    std::atomic<std::uint64_t> size_bytes{0}; // of an image
    Mutex
        flush_mutex; // one flush at a time: the kernel tells of a lost write once, and all callers must hear
  };

  MemberSet() = default;
  [[nodiscard]] OwnerRecord owner_record(Env& env) const VSNAP_REQUIRES(owner_mutex_);
  [[nodiscard]] Result<> write_durably(Slot& slot, std::uint64_t offset, std::span<const std::byte> data);
  using Files = std::vector<std::pair<std::string, std::unique_ptr<File>>>;
  [[nodiscard]] Result<> read_superblocks(Files files);
  // Whether it has to be left out: not there, or not what it was.
  [[nodiscard]] Result<bool> is_absent(const std::string& path, const Result<std::unique_ptr<File>>& opened);
  void freeze_without_missing(const std::vector<std::string>& paths) VSNAP_EXCLUDES(layout_mutex_);
  [[nodiscard]] Result<> store_layout(Superblock changed) VSNAP_REQUIRES(layout_mutex_);
  [[nodiscard]] Result<> store_on_all(const Superblock& superblock) VSNAP_REQUIRES(layout_mutex_);
  [[nodiscard]] Result<> store_superblock(std::uint32_t member, const Superblock& superblock);
  [[nodiscard]] bool flag_copies(const Superblock& superblock, bool in_order) VSNAP_REQUIRES(layout_mutex_);
  [[nodiscard]] Result<> flush_member(Slot& slot);
  [[nodiscard]] Result<Slot*> base_slot(std::uint32_t member) const;
  [[nodiscard]] Result<> read_base(Place place, std::uint64_t offset_bytes, std::span<std::byte> out);
  [[nodiscard]] Result<File::Progress> start_base_read(Place place, std::uint64_t offset_bytes,
                                                       std::span<std::byte> out, File::Done done);
  [[nodiscard]] Result<> write_base(Place place, std::uint64_t offset_bytes, std::span<const std::byte> data);
  [[nodiscard]] Result<> flush_bases();
  [[nodiscard]] std::unique_ptr<Slot> make_slot(std::string path, std::unique_ptr<File> file);
  [[nodiscard]] Result<> check_flushes() const;
  void note_failed_flush(const Slot& slot);
  void attach(std::uint32_t index, std::string path, std::unique_ptr<File> file);
  [[nodiscard]] Result<> check_sequences(const std::vector<Superblock>& found,
                                         const std::vector<bool>& half_damaged, const Superblock& newest);

  std::array<std::unique_ptr<Slot>, format::kMaxMembers> slots_;
  std::array<std::shared_ptr<Slot>, Place::kMaxBases> bases_ VSNAP_GUARDED_BY(bases_mutex_);
  // The same, for who reads and writes: see detach_base().
  std::array<std::atomic<Slot*>, Place::kMaxBases> base_slots_{};
  mutable Mutex bases_mutex_; // a leaf
  std::atomic<std::uint32_t> count_{0};
  std::atomic<bool> flush_failed_{false};
  std::function<void()> on_failed_flush_;
  std::atomic<bool> may_wait_{false};
  bool direct_ = false; // see OpenPoolOptions
  std::atomic<bool> all_direct_{false};
  std::string role_;
  std::optional<std::string> may_miss_;
  std::vector<MissingMember> missing_; // constant once it is open
  bool was_closed_ = false;
  std::atomic<bool> closed_{false}; // the flag may be on members
  std::vector<std::string> remarks_;
  std::string behind_; // path of a member that is one step behind the others, if one is
  Mutex owner_mutex_;  // held across writes of the records
  MemberMark mark_ VSNAP_GUARDED_BY(owner_mutex_);
  mutable Mutex layout_mutex_;
  Superblock layout_ VSNAP_GUARDED_BY(layout_mutex_);                     // member_index is not used
  std::optional<Superblock> half_stored_ VSNAP_GUARDED_BY(layout_mutex_); // invariant 7
};

// Reads the newest good superblock of one file, without locking it. Says in `remarks` which copies were bad.
[[nodiscard]] Result<Superblock> newest_superblock(File& file, const std::string& path,
                                                   std::vector<std::string>* remarks);
// Waits for the lock of a member, and tries twice also where it is not to wait; kind busy names the owner.
Result<> lock_member(Env& env, File& file, const std::string& path, int wait_ms);

} // namespace vsnap
