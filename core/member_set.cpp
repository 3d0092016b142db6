#include "core/member_set.h"

#include <unistd.h>

#include <fmt/format.h>
#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>

#include "core/assert.h"
#include "core/log.h"
#include "core/names.h"
#include "core/planted.h"

namespace vsnap {

Result<Superblock> newest_superblock(File& file, const std::string& path, std::vector<std::string>* remarks) {
  std::optional<Superblock> newest;
  std::optional<Error> refusal;
  bool magic = false;
  for (std::size_t copy = 0; copy < format::kSuperblockOffsets.size(); ++copy) {
    std::vector<std::byte> raw(format::kSuperblockBytes);
    const std::uint64_t offset = format::kSuperblockOffsets[copy];
    if (file.size_bytes() < offset + raw.size()) continue;
    if (auto read = file.read_at(offset, raw); !read) {
      refusal = read.error();
      if (remarks != nullptr)
        remarks->push_back(
            fmt::format("{}: superblock copy {}: {}", path, copy == 0 ? 'A' : 'B', refusal->message));
      continue;
    }
    magic = magic || has_superblock_magic(raw);
    auto decoded = decode_superblock(raw);
    if (!decoded) {
      if (decoded.error().kind == ErrorKind::failed) refusal = decoded.error();
      if (remarks != nullptr) {
        remarks->push_back(
            fmt::format("{}: superblock copy {}: {}", path, copy == 0 ? 'A' : 'B', decoded.error().message));
      }
      continue;
    }
    if (!newest || decoded->sequence > newest->sequence) newest = std::move(*decoded);
  }
  if (newest) return *newest;
  if (refusal) return failure(refusal->kind, fmt::format("{}: {}", path, refusal->message));
  if (magic) {
    return failure(ErrorKind::damaged,
                   fmt::format("{}: both copies of the superblock are damaged (restore the member "
                               "from a copy)",
                               path));
  }
  return failure(ErrorKind::not_found,
                 fmt::format("{}: not a member of a pool (vsnap pool create makes one)", path));
}

Result<> lock_member(Env& env, File& file, const std::string& path, int wait_ms) {
  const auto now_ns = [&] {
    return planted(Fault::wait_by_wall_clock) ? env.wall_clock_ns() : env.monotonic_ns();
  };
  const std::int64_t until_ns = now_ns() + static_cast<std::int64_t>(wait_ms) * 1'000'000;
  for (bool first = true;; first = false) {
    VSNAP_TRY_ASSIGN(const bool locked, file.try_lock());
    if (locked) return {};
    const auto owner = read_owner(file);
    // A daemon stays for long; only another command is worth waiting for. But the record may be that of one
    // that was killed, and the lock that of Pool::look, which has it for a moment: so everybody tries twice.
    const bool wait = first || (now_ns() < until_ns && !(owner && owner->role == "daemon"));
    if (!wait) {
      if (!owner)
        return failure(ErrorKind::busy,
                       fmt::format("{}: in use by another process (try again when it is done)", path));
      return failure(
          ErrorKind::busy,
          fmt::format("{}: in use by vsnap {} with pid {} on host {} (vsnap umount, or wait for it)", path,
                      owner->role, owner->pid, owner->host));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

namespace {

// A member that a pool should have and that is not one any more: that is damage, not a wrong name.
Failure as_damage(Error error) {
  if (error.kind == ErrorKind::not_found) error.kind = ErrorKind::damaged;
  return Failure(std::move(error));
}

} // namespace

std::unique_ptr<MemberSet::Slot> MemberSet::make_slot(std::string path, std::unique_ptr<File> file) {
  auto slot = std::make_unique<Slot>();
  slot->path = std::move(path);
  slot->file = std::move(file);
  if (slot->file->may_wait()) may_wait_.store(true, std::memory_order_relaxed);
  return slot;
}

void MemberSet::attach(std::uint32_t index, std::string path, std::unique_ptr<File> file) {
  auto slot = make_slot(std::move(path), std::move(file));
  if (direct_ && !slot->file->bypass_page_cache()) {
    log::warning("{}: cannot be used past the page cache, so it is used through it", slot->path);
    all_direct_.store(false);
  }
  slots_[index] = std::move(slot);
}

Result<std::unique_ptr<MemberSet>> MemberSet::open(Env& env, const std::vector<std::string>& paths,
                                                   const std::string& role, int lock_wait_ms, bool direct,
                                                   std::span<const int> held,
                                                   std::optional<std::string> may_miss) {
  std::unique_ptr<MemberSet> set(new MemberSet);
  set->direct_ = direct;
  set->all_direct_.store(direct);
  set->role_ = role;
  set->may_miss_ = std::move(may_miss);
  Files files;
  for (const std::string& path : paths) {
    auto opened = env.open_file(path, {.held = held});
    VSNAP_TRY_ASSIGN(const bool absent, set->is_absent(path, opened));
    if (absent) continue;
    if (!opened) return as_damage(std::move(opened.error()));
    std::unique_ptr<File> file = std::move(*opened);
    for (const auto& [other_path, other] : files) {
      if (other->identity() == file->identity()) {
        return failure(ErrorKind::usage, fmt::format("{}: the same member as {}", path, other_path));
      }
    }
    VSNAP_TRY(lock_member(env, *file, path, lock_wait_ms));
    files.emplace_back(path, std::move(file));
  }
  VSNAP_TRY(set->read_superblocks(std::move(files)));
  if (set->may_miss_) set->freeze_without_missing(paths);
  if (set->needs_check()) { // a flush failed
    for (std::uint32_t member = 0; member < set->count(); ++member) set->slots_[member]->file->drop_cache();
  }
  return set;
}

std::vector<int> MemberSet::descriptors() const {
  std::vector<int> out;
  for (std::uint32_t member = 0; member < count(); ++member) {
    if (const int fd = slots_[member]->file->descriptor(); fd >= 0) out.push_back(fd);
  }
  return out;
}

Result<> MemberSet::read_superblocks(Files files) {
  std::vector<Superblock> found;
  std::vector<bool> half_damaged; // the copy that counted may have been the damaged one
  std::size_t newest = 0;
  for (auto& [path, file] : files) {
    const std::size_t remarks = remarks_.size();
    auto read = newest_superblock(*file, path, &remarks_);
    if (!read) return as_damage(std::move(read.error()));
    Superblock superblock = std::move(*read);
    half_damaged.push_back(remarks_.size() > remarks);
    if (!found.empty() && superblock.pool_uuid != found[0].pool_uuid) {
      return failure(
          ErrorKind::damaged,
          fmt::format("{}: member of pool {} ({}), expected one of {} ({})", path, superblock.pool_name,
                      to_string(superblock.pool_uuid), found[0].pool_name, to_string(found[0].pool_uuid)));
    }
    found.push_back(std::move(superblock));
    if (found.back().sequence > found[newest].sequence) newest = found.size() - 1;
  }
  if (found.empty()) return failure(ErrorKind::usage, "no member given");
  const Superblock& layout = found[newest];
  std::uint32_t present = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const auto& [path, file] = files[i];
    const std::uint32_t index = found[i].member_index;
    const Uuid uuid = found[i].roster[index].uuid;
    if (found[i].sequence == layout.sequence && !found[i].same_layout(layout)) {
      return failure(ErrorKind::damaged,
                     fmt::format("{}: contradicts {} about the pool's layout", path, files[newest].first));
    }
    if (index >= layout.roster.size() || layout.roster[index].uuid != uuid) {
      return failure(ErrorKind::damaged,
                     fmt::format("{}: no longer a member of pool {}", path, layout.pool_name));
    }
    if (slots_[index]) {
      return failure(ErrorKind::damaged,
                     fmt::format("{}: a copy of member {}; give one of them", path, slots_[index]->path));
    }
    if (file->size_bytes() < layout.roster[index].blocks * kBlockBytes) {
      return failure(ErrorKind::damaged,
                     fmt::format("{}: cut short: expected {} bytes, found {} (restore the member)", path,
                                 layout.roster[index].blocks * kBlockBytes, file->size_bytes()));
    }
    attach(index, path, std::move(files[i].second));
    ++present;
  }
  for (std::size_t index = 0; index < layout.roster.size(); ++index) {
    if (!slots_[index] && !may_miss_) {
      return failure(
          ErrorKind::damaged,
          fmt::format(
              "pool {}: member {} of {} is missing: expected uuid {}, found {} of {} members (vsnap pool "
              "attach with all of them; vsnap mount -o degraded {} DIR shows what is on the others)",
              layout.pool_name, index + 1, layout.roster.size(), to_string(layout.roster[index].uuid),
              present, layout.roster.size(), layout.pool_name));
    }
  }
  VSNAP_TRY(check_sequences(found, half_damaged, layout));
  count_.store(static_cast<std::uint32_t>(layout.roster.size()), std::memory_order_release);
  MutexLock lock(layout_mutex_);
  layout_ = layout;
  bool hidden = false; // a newer one, by a damaged copy
  for (std::size_t i = 0; i < found.size(); ++i) {
    layout_.flags |= found[i].flags & format::kFlagNeedsCheck;
    hidden = hidden || half_damaged[i];
    if ((found[i].flags & format::kFlagClosed) != 0) closed_.store(true); // perhaps on one of them alone
  }
  was_closed_ = !hidden && (layout.flags & format::kFlagClosed) != 0;
  return {};
}

namespace {

Failure used_apart(const std::string& path) {
  return failure(
      ErrorKind::damaged,
      fmt::format("{}: not from the same moment as the other members: an older copy, or the others "
                  "are (give members that were last used together)",
                  path));
}

} // namespace

// A sequence goes to member after member, a new member's before all others: a crash leaves those at the front
// one step ahead, or the last one alone. A member whose newest copy is damaged is one step behind as well.
Result<> MemberSet::check_sequences(const std::vector<Superblock>& found,
                                    const std::vector<bool>& half_damaged, const Superblock& newest) {
  const auto last = static_cast<std::uint32_t>(newest.roster.size() - 1);
  bool last_is_new = true;
  std::uint32_t first_behind = format::kMaxMembers;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const Superblock& one = found[i];
    if (one.sequence == newest.sequence) continue;
    if (one.sequence + 1 != newest.sequence) return used_apart(slots_[one.member_index]->path);
    if (half_damaged[i]) continue;
    if (one.roster.size() == newest.roster.size()) last_is_new = false;
    first_behind = std::min(first_behind, one.member_index);
    behind_ = slots_[one.member_index]->path;
  }
  for (const Superblock& one : found) {
    const bool is_new = one.member_index == last && last_is_new;
    if (one.sequence == newest.sequence && one.member_index > first_behind && !is_new)
      return used_apart(behind_);
  }
  return {};
}

Result<> MemberSet::check_together(std::uint64_t sequence_in_catalog) const {
  MutexLock lock(layout_mutex_);
  if (!behind_.empty() && sequence_in_catalog >= layout_.sequence) return used_apart(behind_);
  return {};
}

// Over copies that count; should one be torn, the other does, and says that a copy is damaged. `in_order`:
// not after a member that does not take it, which would be left behind its successors.
bool MemberSet::flag_copies(const Superblock& superblock, bool in_order) {
  bool stored = true;
  for (std::uint32_t member = 0; member < superblock.roster.size(); ++member) {
    Superblock own = superblock;
    own.member_index = member;
    File& file = *slots_[member]->file;
    stored =
        file.write_at(format::kSuperblockOffsets[own.sequence % 2], encode(own)) && file.flush() && stored;
    if (in_order && !stored) return false;
  }
  return stored;
}

bool MemberSet::mark_needs_check() {
  MutexLock lock(layout_mutex_);
  layout_.flags |= format::kFlagNeedsCheck;
  bool stored = flag_copies(layout_, false);
  if (half_stored_ && !planted(Fault::flag_in_old_copy)) { // on some members its copies are those that count
    half_stored_->flags |= format::kFlagNeedsCheck;
    stored = flag_copies(*half_stored_, true) && stored;
  }
  return stored;
}

Result<> MemberSet::clear_needs_check() {
  MutexLock lock(layout_mutex_);
  Superblock changed = layout_;
  changed.flags &= ~format::kFlagNeedsCheck;
  VSNAP_TRY(store_layout(changed));
  return store_layout(changed);
}

bool MemberSet::addition_cut_short() const {
  MutexLock lock(layout_mutex_);
  return half_stored_ && half_stored_->roster.size() > layout_.roster.size();
}

bool MemberSet::needs_check() const {
  MutexLock lock(layout_mutex_);
  return (layout_.flags & format::kFlagNeedsCheck) != 0;
}

Result<std::uint64_t> MemberSet::mark_opened() {
  if (count() == 1 && remarks_.empty()) return 0;
  MutexLock lock(layout_mutex_);
  Superblock opened = layout_;
  if (!planted(Fault::closed_while_in_use)) opened.flags &= ~format::kFlagClosed;
  // Twice where a copy was bad: every member gets both of its copies again.
  if (!remarks_.empty()) VSNAP_TRY(store_layout(opened));
  VSNAP_TRY(store_layout(std::move(opened)));
  closed_.store(false);
  return layout_.sequence;
}

Result<std::unique_ptr<MemberSet>> MemberSet::create(
    Env& env, const std::string& pool_name,
    std::vector<std::pair<std::string, std::unique_ptr<File>>> files) {
  std::unique_ptr<MemberSet> set(new MemberSet);
  Superblock superblock;
  superblock.pool_uuid = env.random_uuid();
  superblock.pool_name = pool_name;
  for (auto& [path, file] : files) {
    const std::uint64_t blocks = file->size_bytes() / kBlockBytes;
    const auto index = static_cast<std::uint32_t>(superblock.roster.size());
    superblock.roster.push_back({env.random_uuid(), blocks});
    const std::vector<std::byte> zeros(format::kHeaderBytes);
    VSNAP_TRY(file->write_at(0, zeros));
    set->attach(index, std::move(path), std::move(file));
  }
  set->count_.store(static_cast<std::uint32_t>(superblock.roster.size()), std::memory_order_release);
  MutexLock lock(set->layout_mutex_);
  // Both copies, so that each member starts with two good ones.
  VSNAP_TRY(set->store_layout(superblock));
  VSNAP_TRY(set->store_layout(std::move(superblock)));
  return set;
}

Result<> MemberSet::store_superblock(std::uint32_t member, const Superblock& superblock) {
  Superblock own = superblock;
  own.member_index = member;
  const std::vector<std::byte> raw = encode(own);
  Slot& slot = *slots_[member];
  const std::uint64_t offset =
      format::kSuperblockOffsets[planted(Fault::one_superblock) ? 0 : superblock.sequence % 2];
  VSNAP_TRY(slot.file->write_at(offset, raw));
  slot.writes.fetch_add(1);
  return flush_member(slot);
}

Result<> MemberSet::store_on_all(const Superblock& superblock) {
  for (std::uint32_t member = 0; member < superblock.roster.size(); ++member)
    VSNAP_TRY(store_superblock(member, superblock));
  return {};
}

Result<> MemberSet::store_layout(Superblock changed) {
  VSNAP_TRY(check_flushes());
  if (half_stored_) {
    VSNAP_TRY(store_on_all(*half_stored_)); // what this brought is dropped again by what follows
    changed.sequence = std::max(half_stored_->sequence, changed.sequence);
  }
  changed.sequence = std::max(layout_.sequence, changed.sequence) + 1;
  half_stored_ = changed;
  VSNAP_TRY(store_on_all(changed));
  half_stored_.reset();
  layout_ = std::move(changed);
  return {};
}

Superblock MemberSet::layout() const {
  MutexLock lock(layout_mutex_);
  return layout_;
}

Result<> MemberSet::claim(Env& env, const std::string& path, File& file, int lock_wait_ms) {
  for (std::uint32_t member = 0; member < count(); ++member) {
    if (slots_[member]->file->identity() == file.identity()) {
      return failure(ErrorKind::usage, fmt::format("{}: already a member of this pool", path));
    }
  }
  return lock_member(env, file, path, lock_wait_ms);
}

Result<std::uint32_t> MemberSet::add(Env& env, const std::string& path, std::unique_ptr<File> file) {
  MutexLock lock(layout_mutex_);
  const auto index = static_cast<std::uint32_t>(layout_.roster.size());
  if (index >= format::kMaxMembers) return failure(ErrorKind::failed, "a pool has at most 255 members");
  if (half_stored_ && half_stored_->roster.size() > layout_.roster.size()) {
    return failure(ErrorKind::failed,
                   fmt::format("{}: an earlier addition was cut short (umount and mount the pool)", path));
  }
  if (half_stored_) VSNAP_TRY(store_layout(layout_));
  const std::uint64_t blocks = file->size_bytes() / kBlockBytes;
  const std::vector<std::byte> zeros(format::kHeaderBytes);
  VSNAP_TRY(file->write_at(0, zeros));
  attach(index, path, std::move(file));
  Superblock changed = layout_;
  changed.roster.push_back({env.random_uuid(), blocks});
  // The new member first: should it stop here, the others do not name it yet and the pool is what it was.
  Superblock first = changed;
  first.sequence = layout_.sequence + 1;
  if (auto stored = store_superblock(index, first); !stored) {
    slots_[index].reset();
    return Failure(stored.error());
  }
  if (auto stored = store_layout(changed); !stored) {
    if (store_layout(layout_)) slots_[index].reset(); // no member names it any more
    return Failure(stored.error());
  }
  static_cast<void>(store_layout(changed)); // the new member gets its second copy; best effort
  count_.store(index + 1, std::memory_order_release);
  return index;
}

Result<> MemberSet::read(Place place, std::uint64_t offset_bytes, std::span<std::byte> out) {
  if (place.is_base()) return read_base(place, offset_bytes, out);
  VSNAP_ASSERT(place.member() < count());
  return slots_[place.member()]->file->read_at(place.block() * kBlockBytes + offset_bytes, out);
}

Result<File::Progress> MemberSet::start_read(Place place, std::uint64_t offset_bytes,
                                             std::span<std::byte> out, File::Done done) {
  if (place.is_base()) return start_base_read(place, offset_bytes, out, std::move(done));
  VSNAP_ASSERT(place.member() < count());
  return slots_[place.member()]->file->start_read(place.block() * kBlockBytes + offset_bytes, out,
                                                  std::move(done));
}

Result<> MemberSet::write(Place place, std::uint64_t offset_bytes, std::span<const std::byte> data) {
  if (place.is_base()) return write_base(place, offset_bytes, data);
  VSNAP_ASSERT(place.member() < count() && place.block() >= format::kHeaderBlocks);
  Slot& slot = *slots_[place.member()];
  VSNAP_TRY(slot.file->write_at(place.block() * kBlockBytes + offset_bytes, data));
  if (!planted(Fault::write_not_counted)) slot.writes.fetch_add(1, std::memory_order_release);
  return {};
}

Result<> MemberSet::write_durably(Place place, std::uint64_t offset_bytes, std::span<const std::byte> data) {
  VSNAP_ASSERT(place.member() < count() && place.block() >= format::kHeaderBlocks);
  return write_durably(*slots_[place.member()], place.block() * kBlockBytes + offset_bytes, data);
}

Result<> MemberSet::write_durably(Slot& slot, std::uint64_t offset, std::span<const std::byte> data) {
  VSNAP_TRY(check_flushes());
  MutexLock lock(slot.flush_mutex); // the kernel tells of a lost write once
  VSNAP_TRY(check_flushes());
  auto written = slot.file->write_durably(offset, data);
  if (!written && written.error().kind != ErrorKind::no_space) note_failed_flush(slot);
  return written;
}

void MemberSet::take_space(PlaceRun run) {
  slots_[run.start.member()]->file->take_space(run.start.block() * kBlockBytes, bytes(run.count));
}

void MemberSet::discard(PlaceRun run) {
  slots_[run.start.member()]->file->discard(run.start.block() * kBlockBytes, bytes(run.count));
}

Result<> MemberSet::flush_member(Slot& slot) {
  const std::uint64_t writes = slot.writes.load(std::memory_order_acquire);
  if (slot.flushed.load(std::memory_order_acquire) >= writes) return {};
  MutexLock lock(slot.flush_mutex);
  VSNAP_TRY(check_flushes());
  if (slot.flushed.load(std::memory_order_acquire) >= writes) return {}; // by whoever held the lock
  const std::uint64_t covered = slot.writes.load(std::memory_order_acquire);
  if (auto flushed = slot.file->flush(); !flushed) {
    note_failed_flush(slot);
    return flushed;
  }
  slot.flushed.store(covered, std::memory_order_release);
  return {};
}

// The kernel may have dropped what it could not write; trying again would report success for lost data.
void MemberSet::note_failed_flush(const Slot& slot) {
  if (!planted(Fault::flush_error_forgotten)) flush_failed_.store(true);
  if (on_failed_flush_) on_failed_flush_();
  log::error("{}: flush failed; the pool takes no more writes (vsnap umount, then vsnap check)", slot.path);
}

Result<> MemberSet::check_flushes() const {
  if (!flush_failed_.load()) return {};
  return failure(
      ErrorKind::failed, EIO,
      "an earlier flush failed: what was written since may be lost (vsnap umount, then vsnap check)");
}

Result<> MemberSet::flush_data() {
  VSNAP_TRY(flush_bases());
  return flush_members();
}

Result<> MemberSet::flush_members() {
  for (std::uint32_t member = 0; member < count(); ++member) {
    VSNAP_TRY(check_flushes());
    VSNAP_TRY(flush_member(*slots_[member]));
  }
  return {};
}

Result<std::vector<std::string>> MemberSet::check_superblocks(bool repair) {
  std::vector<std::string> remarks;
  MutexLock lock(layout_mutex_); // nobody is writing one
  for (std::uint32_t member = 0; member < count(); ++member) {
    VSNAP_TRY(newest_superblock(*slots_[member]->file, slots_[member]->path, &remarks));
  }
  if (!repair || remarks.empty()) return remarks;
  VSNAP_TRY(store_layout(layout_)); // one copy of each member, and then the other
  VSNAP_TRY(store_layout(layout_));
  return remarks;
}

Result<> MemberSet::erase_headers() {
  const std::vector<std::byte> zeros(format::kHeaderBytes);
  for (std::uint32_t member = 0; member < count(); ++member) {
    VSNAP_TRY(slots_[member]->file->write_at(0, zeros));
    VSNAP_TRY(slots_[member]->file->flush());
  }
  return {};
}

OwnerRecord MemberSet::owner_record(Env& env) const {
  return {::getpid(), env.host_name(), env.boot_id(), role_, mark_};
}

void MemberSet::write_owner_records(Env& env) {
  MutexLock lock(owner_mutex_);
  const OwnerRecord owner = owner_record(env);
  for (std::uint32_t member = 0; member < count(); ++member) {
    if (auto written = write_owner(*slots_[member]->file, owner); !written) {
      log::warning("{}", written.error().message);
    }
  }
}

Result<MemberMark> MemberSet::mark_members(Env& env) {
  MutexLock lock(owner_mutex_);
  if (mark_.reign == 0) {
    const Uuid random = env.random_uuid();
    std::memcpy(&mark_.reign, random.data(), sizeof mark_.reign);
  }
  ++mark_.number;
  const std::vector<std::byte> record = encode(owner_record(env));
  for (std::uint32_t member = 0; member < count(); ++member)
    VSNAP_TRY(write_durably(*slots_[member], format::kOwnerRecordOffset, record));
  return mark_;
}

void MemberSet::clear_owner_records() {
  MutexLock lock(owner_mutex_);
  const std::vector<std::byte> zeros(format::kOwnerRecordBytes);
  for (std::uint32_t member = 0; member < count(); ++member) {
    static_cast<void>(slots_[member]->file->write_at(format::kOwnerRecordOffset, zeros));
  }
}

} // namespace vsnap
