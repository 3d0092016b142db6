#include "core/new_member.h"

#include <fmt/format.h>

#include "core/format.h"
#include "core/member_set.h"
#include "core/names.h"
#include "core/probe.h"

namespace vsnap {

bool member_exists(Env& env, const std::string& path) {
  const auto file = env.open_file(path, {});
  return file || file.error().kind != ErrorKind::not_found;
}

Result<std::optional<std::string>> what_is_on(File& file, const std::string& path) {
  std::vector<std::string> remarks;
  if (const auto superblock = newest_superblock(file, path, &remarks)) {
    return std::optional(fmt::format("is a member of pool {}", superblock->pool_name));
  } else if (superblock.error().kind != ErrorKind::not_found) {
    return std::optional<std::string>("carries what was a pool's superblock");
  }
  VSNAP_TRY_ASSIGN(const auto found, probe_contents(path));
  if (found) return std::optional("has " + *found);
  if (file.is_block_device()) return std::optional<std::string>();
  VSNAP_TRY_ASSIGN(const bool data, holds_data(path));
  return data ? std::optional<std::string>("holds data") : std::nullopt;
}

Result<std::unique_ptr<File>> open_new_member(Env& env, const MemberSpec& spec, bool force, bool dry_run) {
  auto existing = env.open_file(spec.path, {});
  const bool missing = !existing && existing.error().kind == ErrorKind::not_found;
  if (!existing && !missing) return Failure(existing.error());
  if (missing) {
    if (spec.size_bytes == 0) {
      return failure(ErrorKind::not_found,
                     fmt::format("{}: no such file or device (give --size to make a file)", spec.path));
    }
    if (dry_run) return std::unique_ptr<File>();
    VSNAP_TRY_ASSIGN(auto made, env.open_file(spec.path, {.create = true, .exclusive_create = true}));
    VSNAP_TRY(made->resize(spec.size_bytes));
    return made;
  }
  std::unique_ptr<File> file = std::move(*existing);
  if (!force) {
    VSNAP_TRY_ASSIGN(const auto found, what_is_on(*file, spec.path));
    if (found) {
      return failure(ErrorKind::failed, EEXIST,
                     fmt::format("{}: {} (--force overwrites it)", spec.path, *found));
    }
  }
  if (spec.size_bytes > file->size_bytes()) {
    if (file->is_block_device()) {
      return failure(ErrorKind::usage,
                     fmt::format("{}: a block device has the size it has; leave --size out", spec.path));
    }
    if (!dry_run) VSNAP_TRY(file->resize(spec.size_bytes));
  }
  return file;
}

Result<> check_member_size(const std::string& path, std::uint64_t size_bytes) {
  if (size_bytes > format::kMaxMemberBytes) {
    return failure(ErrorKind::usage, EFBIG,
                   fmt::format("{}: {} is too large for a member (at most {}; several make a larger pool)",
                               path, format_size(size_bytes), format_size(format::kMaxMemberBytes)));
  }
  if (size_bytes >= format::kMinMemberBytes) return {};
  return failure(ErrorKind::usage,
                 fmt::format("{}: {} is too small for a member (at least {})", path, format_size(size_bytes),
                             format_size(format::kMinMemberBytes)));
}

} // namespace vsnap
