#include "core/shared_members.h"

#include <fmt/format.h>

#include "core/log.h"
#include "core/member_set.h"

namespace vsnap {

SharedMembers::SharedMembers(Env& env, Uuid pool_uuid, std::vector<std::string> paths)
    : env_(env), pool_uuid_(pool_uuid), paths_(std::move(paths)) {}

Result<> SharedMembers::add(const std::string& path) {
  VSNAP_TRY_ASSIGN(std::shared_ptr<File> file, env_.open_file(path, {.read_only = true}));
  VSNAP_TRY_ASSIGN(const Superblock superblock, newest_superblock(*file, path, nullptr));
  if (superblock.pool_uuid != pool_uuid_) {
    return failure(ErrorKind::not_found,
                   fmt::format("{}: a member of another pool, {}", path, superblock.pool_name));
  }
  const std::uint32_t index = superblock.member_index;
  if (members_.size() <= index) members_.resize(index + 1);
  Member& member = members_[index];
  if (member.file) return {}; // another path of the same, or a copy: the first one counts
  static_cast<void>(file->bypass_page_cache());
  member = {superblock.roster[index].uuid, path, std::move(file)};
  return {};
}

void SharedMembers::look_for_members() {
  for (const std::string& path : paths_) {
    const bool known = std::any_of(members_.begin(), members_.end(),
                                   [&path](const Member& member) { return member.path == path; });
    if (known) continue;
    if (const auto added = add(path); !added) log::debug("{}", added.error().message);
  }
}

Result<> SharedMembers::require(std::span<const MemberInfo> roster) {
  MutexLock lock(mutex_);
  const auto is_here = [this](const MemberInfo& info) VSNAP_NO_THREAD_SAFETY_ANALYSIS {
    return info.index < members_.size() && members_[info.index].file &&
           members_[info.index].uuid == info.uuid;
  };
  if (!std::all_of(roster.begin(), roster.end(), is_here)) look_for_members();
  for (const MemberInfo& info : roster) {
    if (is_here(info)) continue;
    return failure(
        ErrorKind::not_found,
        fmt::format("member {} ({}; {} on its host) is not here (vsnap host join --member names where it is)",
                    info.index, to_string(info.uuid), info.path));
  }
  return {};
}

Result<> SharedMembers::read(Place place, std::uint64_t offset_bytes, std::span<std::byte> out) {
  std::shared_ptr<File> file;
  {
    MutexLock lock(mutex_);
    if (place.member() < members_.size()) file = members_[place.member()].file;
  }
  if (!file) {
    return failure(ErrorKind::not_found, EIO, fmt::format("member {} is not here", place.member()));
  }
  return file->read_at(place.block() * kBlockBytes + offset_bytes, out);
}

} // namespace vsnap
