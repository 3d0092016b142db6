#include "cli/member_argument.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include "cli/registry.h"

namespace vsnap::cli {

Result<MemberSpec> member_argument(const std::string& path, const std::string& size) {
  MemberSpec member;
  std::uint64_t size_bytes = 0;
  if (!size.empty()) {
    VSNAP_TRY_ASSIGN(size_bytes, parse_size(size));
  }
  VSNAP_TRY_ASSIGN(member.path, absolute_path(path));
  struct stat info = {};
  if (::stat(member.path.c_str(), &info) != 0) {
    if (errno != ENOENT) return system_failure(errno, member.path);
    if (size_bytes == 0) {
      return failure(ErrorKind::usage, ENOENT,
                     fmt::format("{}: does not exist (--size SIZE makes a file)", member.path));
    }
    member.size_bytes = size_bytes;
    return member;
  }
  if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode)) {
    return failure(ErrorKind::usage, fmt::format("{}: neither a file nor a block device", member.path));
  }
  if (size.empty()) return member;
  if (S_ISBLK(info.st_mode)) {
    return failure(ErrorKind::usage,
                   fmt::format("{}: a block device has the size it has (leave --size out)", member.path));
  }
  if (info.st_size == 0) {
    member.size_bytes = size_bytes; // as good as missing
  } else if (static_cast<std::uint64_t>(info.st_size) != size_bytes) {
    return failure(ErrorKind::usage,
                   fmt::format("{}: exists, with {} bytes, not {} (--size is for files to be made: leave it "
                               "out, or truncate -s {} the file first)",
                               member.path, info.st_size, size_bytes, size_bytes));
  }
  return member;
}

} // namespace vsnap::cli
