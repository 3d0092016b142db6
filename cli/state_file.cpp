#include "cli/state_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <filesystem>

namespace vsnap::cli {
namespace {

namespace fs = std::filesystem;

Result<> write_synced(const std::string& path, const std::string& text) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
  if (fd < 0) return system_failure(errno, path);
  int code = 0;
  for (std::size_t at = 0; at < text.size() && code == 0;) {
    const ssize_t n = ::write(fd, text.data() + at, text.size() - at);
    if (n < 0 && errno != EINTR) code = errno;
    if (n > 0) at += static_cast<std::size_t>(n);
  }
  if (code == 0 && ::fsync(fd) != 0) code = errno;
  ::close(fd);
  if (code != 0) return system_failure(code, path);
  return {};
}

Result<> sync_directory(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return system_failure(errno, path);
  const int code = ::fsync(fd) != 0 ? errno : 0;
  ::close(fd);
  if (code != 0) return system_failure(code, path);
  return {};
}

} // namespace

Result<> write_state_file(const std::string& path, const std::string& text, bool must_be_new) {
  const std::string dir = fs::path(path).parent_path().string();
  std::error_code made;
  fs::create_directories(dir, made);
  if (made) return system_failure(made.value(), dir);
  const std::string fresh = fmt::format("{}.{}.new", path, ::getpid());
  const auto written = write_synced(fresh, text);
  int code = 0;
  if (written && must_be_new) { // link, unlike rename, never replaces
    code = ::link(fresh.c_str(), path.c_str()) != 0 ? errno : 0;
  } else if (written) {
    code = ::rename(fresh.c_str(), path.c_str()) != 0 ? errno : 0;
  }
  ::unlink(fresh.c_str());
  VSNAP_TRY(written);
  if (code != 0) return system_failure(code, path);
  return sync_directory(dir);
}

Result<> remove_state_file(const std::string& path) {
  if (::unlink(path.c_str()) != 0) return system_failure(errno, path);
  return sync_directory(fs::path(path).parent_path().string());
}

} // namespace vsnap::cli
