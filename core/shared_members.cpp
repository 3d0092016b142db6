#include "core/shared_members.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>

#include "core/format.h"
#include "core/log.h"
#include "core/member_set.h"
#include "core/owner_record.h"

namespace vsnap {

SharedMembers::SharedMembers(Env& env, Uuid pool_uuid, std::vector<std::string> paths, Search search)
    : env_(env), pool_uuid_(pool_uuid), paths_(std::move(paths)), search_(std::move(search)) {}

// ---- looking ----

Result<> SharedMembers::require(std::uint64_t session, MemberSource& source) {
  MutexLock turn(look_mutex_);
  VSNAP_TRY(look(source));
  session_ = std::max(session_, session);
  const auto is_here = [this](const MemberInfo& info) {
    MutexLock lock(mutex_);
    return members_[info.index].open != nullptr;
  };
  for (const MemberInfo& info : known_.members) {
    if (is_here(info) || left_.contains(info.index)) continue;
    const auto wrong = wrong_.find(info.index);
    return failure(
        ErrorKind::not_found,
        fmt::format("member {} ({}; {} on its host) is not here{} (vsnap host join --member names where it "
                    "is)",
                    info.index, to_string(info.uuid), info.path,
                    wrong == wrong_.end() ? "" : ": " + wrong->second));
  }
  tell_what_is_wrong();
  return {};
}

Result<> SharedMembers::look_in(std::uint64_t session, MemberSource& source) {
  MutexLock turn(look_mutex_);
  if (session <= session_) return {};
  if (auto looked = look(source); !looked) {
    if (looked.error().kind == ErrorKind::no_answer) return looked;
    log::warning("{}; it is read through its coordinator", looked.error().message);
    set_members({});
  } else {
    tell_what_is_wrong();
  }
  session_ = session;
  return {};
}

void SharedMembers::look_again(MemberSource& source) {
  constexpr std::int64_t kPause_ns = std::chrono::nanoseconds(kLookAgain).count();
  std::int64_t last_ns = looked_ns_.load();
  const std::int64_t now_ns = env_.monotonic_ns();
  if (now_ns - last_ns < kPause_ns || !looked_ns_.compare_exchange_strong(last_ns, now_ns)) return;
  MutexLock turn(look_mutex_);
  const auto looked = look(source);
  if (!looked) return log::debug("{}", looked.error().message);
  tell_what_is_wrong();
}

Result<> SharedMembers::look(MemberSource& source) {
  looked_ns_.store(env_.monotonic_ns());
  VSNAP_TRY_ASSIGN(known_, source.fetch_members());
  std::erase_if(known_.members, [](const MemberInfo& info) { return info.index >= format::kMaxMembers; });
  wrong_.clear();
  left_.clear();
  Members found;
  {
    MutexLock lock(mutex_);
    found = members_;
  }
  for (const MemberInfo& info : known_.members) {
    if (found.size() <= info.index) found.resize(info.index + 1);
    Member& member = found[info.index];
    if (member.open && (member.uuid != info.uuid || !shows_mark(*member.open->file))) member = {};
  }
  if (!is_complete(found)) find_missing(paths_, found);
  if (!is_complete(found) && search_) find_missing(search_(), found);
  set_members(std::move(found));
  return {};
}

void SharedMembers::find_missing(const std::vector<std::string>& paths, Members& found) {
  for (const std::string& path : paths) {
    const bool known = std::any_of(found.begin(), found.end(),
                                   [&path](const Member& member) { return member.path == path; });
    if (known) continue;
    if (const auto added = add(path, found); !added) log::debug("{}", added.error().message);
  }
}

Result<> SharedMembers::add(const std::string& path, Members& found) {
  VSNAP_TRY_ASSIGN(std::unique_ptr<File> file, env_.open_file(path, {.read_only = true}));
  const bool is_direct = file->bypass_page_cache();
  VSNAP_TRY_ASSIGN(const Superblock superblock, newest_superblock(*file, path, nullptr));
  if (superblock.pool_uuid != pool_uuid_) {
    return failure(ErrorKind::not_found,
                   fmt::format("{}: a member of another pool, {}", path, superblock.pool_name));
  }
  const std::uint32_t index = superblock.member_index;
  const Uuid uuid = superblock.roster[index].uuid;
  const auto same = [&](const MemberInfo& info) { return info.index == index && info.uuid == uuid; };
  if (std::none_of(known_.members.begin(), known_.members.end(), same))
    return failure(ErrorKind::not_found, fmt::format("{}: no member of it any more", path));
  if (found[index].open) return {}; // another path of the same
  if (!is_direct) {                 // nor can it be told from a copy: the mark that is read may be an old one
    left_[index] = fmt::format("{} cannot be read past this host's page cache", path);
    return {};
  }
  if (!shows_mark(*file)) {
    wrong_[index] = fmt::format("{} is a copy of it, which the pool's host does not write to", path);
    return {};
  }
  found[index] = {uuid, path, for_writing(path, std::move(file))};
  left_.erase(index);
  wrong_.erase(index);
  return {};
}

SharedMembers::OpenFilePtr SharedMembers::for_writing(const std::string& path,
                                                      std::unique_ptr<File> read_only) {
  OpenFilePtr out = std::make_shared<OpenFile>();
  auto opened = env_.open_file(path, {.unclaimed = true});
  if (opened && (*opened)->identity() == read_only->identity() && (*opened)->bypass_page_cache()) {
    out->file = std::move(*opened);
    out->writable = true;
    out->written = 1; // by the process before this one
  } else {
    if (!opened) log::debug("{}; it is only read here", opened.error().message);
    out->file = std::move(read_only);
  }
  return out;
}

bool SharedMembers::is_complete(const Members& found) {
  return std::all_of(known_.members.begin(), known_.members.end(),
                     [&found](const MemberInfo& info) { return found[info.index].open != nullptr; });
}

bool SharedMembers::shows_mark(File& file) {
  const auto owner = read_owner(file);
  return owner && known_.mark.is_shown_by(owner->mark);
}

void SharedMembers::set_members(Members members) {
  MutexLock lock(mutex_);
  for (Member& old : members_) {
    const auto same = [&old](const Member& member) { return member.open == old.open; };
    if (old.open && std::none_of(members.begin(), members.end(), same))
      retired_.push_back(std::move(old.open));
  }
  members_ = std::move(members);
  forget_flushed();
}

// Once, however often it is looked at.
void SharedMembers::tell_what_is_wrong() {
  std::string text;
  for (const auto* const reasons : {&wrong_, &left_}) {
    for (const auto& [index, why] : *reasons)
      text += fmt::format("{}member {}: {}", text.empty() ? "" : "; ", index, why);
  }
  if (!text.empty() && text != told_)
    log::warning("{}: {}; it is read through its coordinator", known_.name, text);
  told_ = text;
}

// ---- reading and writing ----

SharedMembers::OpenFilePtr SharedMembers::file_of(Place place) {
  return place.member() < members_.size() ? members_[place.member()].open : nullptr;
}

Result<> SharedMembers::read(Place place, std::uint64_t offset_bytes, std::span<std::byte> out) {
  OpenFilePtr open;
  {
    MutexLock lock(mutex_);
    open = file_of(place);
  }
  if (!open) return failure(ErrorKind::not_found, EIO, fmt::format("member {} is not here", place.member()));
  auto read = open->file->read_at(place.block() * kBlockBytes + offset_bytes, out);
  const int errno_value = read ? 0 : read.error().errno_value;
  if (errno_value == EINVAL || errno_value == EOPNOTSUPP) // not past the page cache, after all
    return failure(ErrorKind::not_found, EIO, std::move(read).error().message);
  return read;
}

Result<> SharedMembers::write(Place place, std::uint64_t offset_bytes, std::span<const std::byte> data) {
  const std::uint64_t begin_bytes = place.block() * kBlockBytes + offset_bytes;
  VSNAP_TRY_ASSIGN(const OpenFilePtr open, begin_write(place, begin_bytes + data.size()));
  auto written = open->file->write_at(begin_bytes, data);
  MutexLock lock(mutex_);
  --open->writing;
  ++open->written; // in part, perhaps, if it failed
  return written;
}

Result<SharedMembers::OpenFilePtr> SharedMembers::begin_write(Place place, std::uint64_t end_bytes) {
  // Whoever sends such a map is wrong about more than that.
  if (place.block() < format::kHeaderBlocks)
    return failure(ErrorKind::failed, EIO, fmt::format("member {}: no data in its header", place.member()));
  MutexLock lock(mutex_);
  OpenFilePtr open = file_of(place);
  const auto left = [&place](const std::string& why) {
    return failure(ErrorKind::not_found, EIO, fmt::format("member {} {}", place.member(), why));
  };
  if (!open) return left("is not here");
  if (!open->writable) return left("cannot be written here");
  if (flush_error_) return left("is not written here any more: " + flush_error_->message);
  if (end_bytes > open->file->size_bytes()) return left("has grown since it was opened here");
  ++open->writing;
  return open;
}

Result<> SharedMembers::flush() {
  std::vector<FlushPart> parts;
  {
    MutexLock lock(mutex_);
    while (flushing_) flush_ended_.wait(mutex_);
    if (flush_error_) return Failure(*flush_error_);
    parts = begin_flush();
    if (parts.empty()) return {};
    flushing_ = true;
  }
  for (FlushPart& part : parts) part.flushed = part.open->file->flush();
  MutexLock lock(mutex_);
  flushing_ = false;
  flush_ended_.notify_all();
  return end_flush(std::move(parts));
}

std::vector<SharedMembers::FlushPart> SharedMembers::begin_flush() {
  std::vector<FlushPart> out;
  const auto add = [&out](const OpenFilePtr& open) {
    if (open && open->flushed < open->written) out.push_back({open, open->written, {}});
  };
  for (const Member& member : members_) add(member.open);
  for (const OpenFilePtr& open : retired_) add(open);
  return out;
}

Result<> SharedMembers::end_flush(std::vector<FlushPart> parts) {
  for (const FlushPart& part : parts) {
    if (part.flushed)
      part.open->flushed = part.written;
    else if (!flush_error_)
      flush_error_ = part.flushed.error();
  }
  forget_flushed();
  if (!flush_error_) return {};
  log::error("{}: what was written here may be lost; fsync fails until the pool is left and joined anew",
             flush_error_->message);
  return Failure(*flush_error_);
}

void SharedMembers::forget_flushed() {
  std::erase_if(retired_,
                [](const OpenFilePtr& open) { return open->writing == 0 && open->flushed == open->written; });
}

} // namespace vsnap
