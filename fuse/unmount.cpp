#include "fuse/unmount.h"

#include <spawn.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cerrno>
#include <fstream>
#include <sstream>

extern char** environ;

namespace vsnap {
namespace {

// It tells only whether it worked; the one common reason for not working is that the mount is in use.
int unmount_by_helper(const std::string& directory, Unmount how) {
  const char* options = how == Unmount::at_once ? "-uqz" : "-uq";
  const char* arguments[] = {"fusermount3", options, "--", directory.c_str(), nullptr};
  pid_t child = 0;
  const int code =
      ::posix_spawnp(&child, arguments[0], nullptr, nullptr, const_cast<char**>(arguments), environ);
  if (code != 0) return code;
  int status = 0;
  if (::waitpid(child, &status, 0) != child) return ECHILD;
  return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : EBUSY;
}

} // namespace

int unmount_directory(const std::string& directory, Unmount how) {
  const int flags = UMOUNT_NOFOLLOW | (how == Unmount::at_once ? MNT_DETACH : 0);
  const int code = ::umount2(directory.c_str(), flags) == 0 ? 0 : errno;
  return code == EPERM ? unmount_by_helper(directory, how) : code;
}

// Blanks, tabs, line ends and backslashes stand there as \ooo.
std::string unescaped_mount_field(std::string_view text) {
  const auto octal = [](char c) { return c >= '0' && c <= '7'; };
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size() && octal(text[i + 1]) && octal(text[i + 2]) &&
        octal(text[i + 3])) {
      out += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

std::string device_mounted_at(const std::string& directory) {
  std::ifstream in("/proc/self/mountinfo");
  std::string found;
  for (std::string line; std::getline(in, line);) {
    std::istringstream fields(line);
    std::string id, parent, device, root, point;
    fields >> id >> parent >> device >> root >> point;
    if (unescaped_mount_field(point) == directory) found = device;
  }
  return found;
}

bool is_dead_mount(const std::string& directory) {
  struct stat info = {};
  return ::stat(directory.c_str(), &info) != 0 && (errno == ENOTCONN || errno == ECONNABORTED);
}

} // namespace vsnap
