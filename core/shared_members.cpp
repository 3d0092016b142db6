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
    return members_[info.index].file != nullptr;
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
    if (member.file && (member.uuid != info.uuid || !shows_mark(*member.file))) member = {};
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
  VSNAP_TRY_ASSIGN(std::shared_ptr<File> file, env_.open_file(path, {.read_only = true}));
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
  if (found[index].file) return {}; // another path of the same
  if (!is_direct) {                 // nor can it be told from a copy: the mark that is read may be an old one
    left_[index] = fmt::format("{} cannot be read past this host's page cache", path);
    return {};
  }
  if (!shows_mark(*file)) {
    wrong_[index] = fmt::format("{} is a copy of it, which the pool's host does not write to", path);
    return {};
  }
  found[index] = {uuid, path, std::move(file)};
  left_.erase(index);
  wrong_.erase(index);
  return {};
}

bool SharedMembers::is_complete(const Members& found) {
  return std::all_of(known_.members.begin(), known_.members.end(),
                     [&found](const MemberInfo& info) { return found[info.index].file != nullptr; });
}

bool SharedMembers::shows_mark(File& file) {
  const auto owner = read_owner(file);
  return owner && known_.mark.is_shown_by(owner->mark);
}

void SharedMembers::set_members(Members members) {
  MutexLock lock(mutex_);
  members_ = std::move(members);
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

// ---- reading ----

Result<> SharedMembers::read(Place place, std::uint64_t offset_bytes, std::span<std::byte> out) {
  std::shared_ptr<File> file;
  {
    MutexLock lock(mutex_);
    if (place.member() < members_.size()) file = members_[place.member()].file;
  }
  if (!file) return failure(ErrorKind::not_found, EIO, fmt::format("member {} is not here", place.member()));
  auto read = file->read_at(place.block() * kBlockBytes + offset_bytes, out);
  const int errno_value = read ? 0 : read.error().errno_value;
  if (errno_value == EINVAL || errno_value == EOPNOTSUPP) // not past the page cache, after all
    return failure(ErrorKind::not_found, EIO, std::move(read).error().message);
  return read;
}

} // namespace vsnap
