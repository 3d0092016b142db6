#include "core/image_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <fmt/format.h>
#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <vector>

#include "core/superblock.h"

namespace vsnap::image_file {
namespace {

namespace fs = std::filesystem;
constexpr std::uint64_t kEnd = 1 << 20; // so much of either end of a device goes into its stamp

std::string first_line(const fs::path& file) {
  std::string line;
  std::getline(std::ifstream(file), line);
  return line;
}

// What a descriptor of some process is. Asked for without asking the file system: it may be our own mount,
// which nobody serves while a pool is being opened.
bool is_same_file(const fs::path& descriptor, const struct stat& s) {
  struct statx x = {};
  if (::statx(AT_FDCWD, descriptor.c_str(), AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT, STATX_TYPE | STATX_INO,
              &x) != 0)
    return false;
  if (S_ISBLK(s.st_mode))
    return S_ISBLK(x.stx_mode) && makedev(x.stx_rdev_major, x.stx_rdev_minor) == s.st_rdev;
  return S_ISREG(x.stx_mode) && makedev(x.stx_dev_major, x.stx_dev_minor) == s.st_dev &&
         x.stx_ino == s.st_ino;
}

// ---- who uses it ----

// A line of /proc/self/mountinfo: "36 35 98:0 /root /mount/point options ... - type source options".
struct Mount {
  std::string device, mount_point, type;
};

std::vector<Mount> mounts() {
  std::vector<Mount> found;
  std::ifstream table("/proc/self/mountinfo");
  for (std::string line; std::getline(table, line);) {
    std::istringstream words(line);
    std::string skip, word;
    Mount mount;
    words >> skip >> skip >> mount.device >> skip >> mount.mount_point;
    while (words >> word && word != "-") {
    }
    words >> mount.type;
    found.push_back(std::move(mount));
  }
  return found;
}

Result<> check_mounts(const std::string& path, const struct stat& s) {
  const dev_t device = S_ISBLK(s.st_mode) ? s.st_rdev : s.st_dev;
  const std::string number = fmt::format("{}:{}", major(device), minor(device));
  for (const Mount& mount : mounts()) {
    if (mount.device != number) continue;
    if (S_ISBLK(s.st_mode)) {
      return failure(ErrorKind::busy,
                     fmt::format("{}: mounted on {} (umount it first)", path, mount.mount_point));
    }
    if (mount.type == "fuse.vsnap") {
      return failure(ErrorKind::usage,
                     fmt::format("{}: is in a mount of vsnap, so it is a volume already", path));
    }
  }
  return {};
}

// A loop device on the file; or, of a device, whatever has claimed it (device mapper, md).
Result<> check_block_layer(const std::string& path, const std::string& real, const struct stat& s) {
  std::error_code ignored;
  if (S_ISBLK(s.st_mode)) {
    const fs::path holders = fmt::format("/sys/dev/block/{}:{}/holders", major(s.st_rdev), minor(s.st_rdev));
    for (const auto& holder : fs::directory_iterator(holders, ignored)) {
      return failure(ErrorKind::busy, fmt::format("{}: in use by the device {} (remove that first)", path,
                                                  holder.path().filename().string()));
    }
    return {};
  }
  for (const auto& device : fs::directory_iterator("/sys/block", ignored)) {
    const std::string file = first_line(device.path() / "loop/backing_file");
    if (file != real) continue; // by another name: see check_lease()
    const std::string name = device.path().filename().string();
    return failure(ErrorKind::busy, fmt::format("{}: in use by the loop device /dev/{} (losetup -d /dev/{})",
                                                path, name, name));
  }
  return {};
}

// Whether descriptor `fd` of a process is open for writing.
bool open_for_writing(const fs::path& process, const std::string& fd) {
  std::ifstream info(process / "fdinfo" / fd);
  for (std::string word; info >> word;) {
    unsigned flags = 0;
    if (word == "flags:" && info >> std::oct >> flags) return (flags & O_ACCMODE) != O_RDONLY;
  }
  return false;
}

Result<> check_processes(const std::string& path, const struct stat& s) {
  const std::string own = std::to_string(::getpid());
  std::error_code ignored;
  for (const auto& process : fs::directory_iterator("/proc", ignored)) {
    const std::string pid = process.path().filename().string();
    if (pid == own || pid.find_first_not_of("0123456789") != std::string::npos) continue;
    for (const auto& fd : fs::directory_iterator(process.path() / "fd", ignored)) {
      if (!is_same_file(fd.path(), s)) continue;
      if (!open_for_writing(process.path(), fd.path().filename().string())) continue;
      return failure(ErrorKind::busy, fmt::format("{}: open for writing in {} with pid {} (stop it first)",
                                                  path, first_line(process.path() / "comm"), pid));
    }
  }
  return {};
}

// Processes of others cannot be looked into by everybody; the kernel knows all the same.
Result<> check_lease(const std::string& path, const struct stat& s) {
  if (!S_ISREG(s.st_mode)) return {};
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return system_failure(errno, path);
  const bool written = ::fcntl(fd, F_SETLEASE, F_RDLCK) != 0 && errno == EAGAIN;
  ::close(fd);
  if (!written) return {};
  return failure(ErrorKind::busy,
                 fmt::format("{}: open for writing in another process (stop it first)", path));
}

// ---- a name that lasts ----

std::optional<std::string> link_to(const fs::path& directory, const std::string& device) {
  std::error_code ignored;
  std::optional<std::string> best; // the first by name, so that it is always the same one
  for (const auto& link : fs::directory_iterator(directory, ignored)) {
    if (fs::canonical(link.path(), ignored) != device) continue;
    if (!best || link.path().string() < *best) best = link.path().string();
  }
  return best;
}

Result<std::string> device_name(const std::string& given, const std::string& device, bool any_name) {
  for (const char* const directory : {"/dev/disk/by-id", "/dev/mapper", "/dev/disk/by-partuuid"}) {
    if (auto link = link_to(directory, device)) return std::move(*link);
  }
  if (any_name) return given;
  return failure(ErrorKind::usage,
                 fmt::format("{}: has no name that lasts, in /dev/disk/by-id or by-partuuid; after a restart "
                             "another device may have this one (--force takes it)",
                             given));
}

} // namespace

Result<std::string> find(const std::string& path, bool any_name) {
  std::error_code error;
  const std::string real = fs::canonical(path, error).string();
  if (error) return system_failure(error.value(), path);
  struct stat s = {};
  if (::stat(real.c_str(), &s) != 0) return system_failure(errno, path);
  if (!S_ISREG(s.st_mode) && !S_ISBLK(s.st_mode))
    return failure(ErrorKind::usage, fmt::format("{}: neither a file nor a block device", path));
  VSNAP_TRY(check_mounts(path, s));
  VSNAP_TRY(check_block_layer(path, real, s));
  VSNAP_TRY(check_processes(path, s));
  VSNAP_TRY(check_lease(real, s));
  if (S_ISBLK(s.st_mode)) return device_name(path, real, any_name);
  return real;
}

Result<FileStamp> stamp(int fd, const std::string& path) {
  struct stat s = {};
  if (::fstat(fd, &s) != 0) return system_failure(errno, path);
  FileStamp found;
  found.size_bytes = static_cast<std::uint64_t>(s.st_size);
  found.inode = s.st_ino;
  found.modified_ns = static_cast<std::int64_t>(s.st_mtim.tv_sec) * 1'000'000'000 + s.st_mtim.tv_nsec;
  return found;
}

Result<FileStamp> device_stamp(int fd, const std::string& path) {
  struct stat s = {};
  FileStamp found;
  if (::fstat(fd, &s) != 0 || ::ioctl(fd, BLKGETSIZE64, &found.size_bytes) != 0)
    return system_failure(errno, path);
  const std::uint64_t part = std::min(found.size_bytes, kEnd);
  std::vector<std::byte> end(part);
  for (const std::uint64_t offset : {std::uint64_t{0}, found.size_bytes - part}) {
    if (::pread(fd, end.data(), part, static_cast<off_t>(offset)) != static_cast<ssize_t>(part))
      return system_failure(EIO, path);
    found.content = found.content << 32U | crc32c(end);
  }
  found.boot = first_line("/proc/sys/kernel/random/boot_id");
  std::istringstream figures(
      first_line(fmt::format("/sys/dev/block/{}:{}/stat", major(s.st_rdev), minor(s.st_rdev))));
  std::uint64_t figure = 0;
  for (int i = 0; i < 7 && figures >> figure; ++i) found.sectors = figure;
  return found;
}

} // namespace vsnap::image_file
