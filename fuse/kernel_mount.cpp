#include "fuse/kernel_mount.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <array>
#include <cstdlib>
#include <cstring>

#include "core/assert.h"
#include "core/log.h"
#include "fuse/fuse_log.h"
#include "fuse/kernel_api.h"
#include "fuse/request_ring.h"
#include "fuse/unmount.h"

namespace vsnap {
namespace {

constexpr const char* kDevice = "/dev/fuse";
constexpr unsigned kDefaultThreads = 4; // more raise the latency of a single client on small machines
// Of Linux 6.9; the headers of Debian 12 are older.
constexpr std::int32_t kNotifyResend = 7;
constexpr std::uint32_t kHasResend = 1U << (39 - 32); // in flags2 of INIT

bool found_in_path(const std::string& program) {
  const char* path = std::getenv("PATH");
  std::string_view rest = path != nullptr ? path : "/usr/bin:/bin";
  while (!rest.empty()) {
    const auto colon = rest.find(':');
    if (::access(fmt::format("{}/{}", rest.substr(0, colon), program).c_str(), X_OK) == 0) return true;
    rest = colon == std::string_view::npos ? "" : rest.substr(colon + 1);
  }
  return false;
}

// Everything that commonly goes wrong is looked for first, because libfuse only prints what it found.
Result<> check_mount_point(const std::string& path) {
  struct stat there = {};
  if (::stat(path.c_str(), &there) != 0) {
    const int error = errno;
    if (error == ENOENT) {
      return failure(ErrorKind::not_found, fmt::format("{}: no such directory (mkdir it first)", path));
    }
    if (error == ENOTCONN) {
      return failure(
          ErrorKind::busy, error,
          fmt::format("{}: left behind by a daemon that died (fusermount3 -u {} removes it)", path, path));
    }
    return system_failure(error, path);
  }
  if (!S_ISDIR(there.st_mode)) {
    return failure(ErrorKind::usage, ENOTDIR, fmt::format("{}: not a directory (a mount needs one)", path));
  }
  struct stat above = {};
  if (::stat((path + "/..").c_str(), &above) == 0 && above.st_dev != there.st_dev) {
    return failure(ErrorKind::busy,
                   fmt::format("{}: something is mounted there already (umount it first)", path));
  }
  return {};
}

Result<> check_fuse() {
  const int fd = ::open(kDevice, O_RDWR | O_CLOEXEC);
  if (fd >= 0) {
    ::close(fd);
  } else if (errno == ENOENT || errno == ENODEV || errno == ENXIO) {
    return failure(ErrorKind::failed, ENODEV,
                   "/dev/fuse: not there (modprobe fuse; in a container, pass the device in)");
  } else {
    return system_failure(errno, "/dev/fuse: cannot be opened (the user needs read and write access)");
  }
  if (::geteuid() != 0 && !found_in_path("fusermount3")) {
    return failure(ErrorKind::failed, ENOENT,
                   "fusermount3: not found (install the package fuse3, or mount as root)");
  }
  return {};
}

Result<> add_arguments(const MountOptions& options, fuse_args& arguments) {
  char* list = nullptr;
  bool added =
      fuse_opt_add_opt(&list, "default_permissions") == 0 && fuse_opt_add_opt(&list, "subtype=vsnap") == 0;
  if (!options.fs_name.empty()) {
    added = added && fuse_opt_add_opt_escaped(&list, ("fsname=" + options.fs_name).c_str()) == 0;
  }
  if (options.read_only) added = added && fuse_opt_add_opt(&list, "ro") == 0;
  if (options.allow_other) added = added && fuse_opt_add_opt(&list, "allow_other") == 0;
  added = added && fuse_opt_add_arg(&arguments, "vsnap") == 0 && fuse_opt_add_arg(&arguments, "-o") == 0 &&
          fuse_opt_add_arg(&arguments, list) == 0;
  std::free(list);
  if (!added) return system_failure(ENOMEM, options.mount_point);
  return {};
}

// From now on the session believes that somebody has unmounted: it frees what it has and leaves the mount.
// What it looks at is whether its descriptor is in error, as that of a pipe is that nobody reads.
void forget_device(fuse_session* session) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    ::close(fuse_session_fd(session)); // poll() gives an error for it as well
    return;
  }
  ::close(ends[0]);
  ::dup3(ends[1], fuse_session_fd(session), O_CLOEXEC);
  ::close(ends[1]);
}

// libfuse mounts, as root or with the help of fusermount3; of its session only the descriptor is wanted.
Result<int> mount_device(const MountOptions& options) {
  const FuseComplaint complaint;
  fuse_args arguments = FUSE_ARGS_INIT(0, nullptr);
  if (const Result<> added = add_arguments(options, arguments); !added) {
    fuse_opt_free_args(&arguments);
    return Failure(added.error());
  }
  const fuse_lowlevel_ops none{};
  fuse_session* const session = fuse_session_new(&arguments, &none, sizeof none, nullptr);
  fuse_opt_free_args(&arguments);
  if (session == nullptr) {
    return failure(ErrorKind::usage,
                   fmt::format("{}: bad mount options: {}", options.mount_point, complaint.text()));
  }
  if (fuse_session_mount(session, options.mount_point.c_str()) != 0) {
    fuse_session_destroy(session);
    return failure(ErrorKind::failed, EPERM,
                   fmt::format("{}: cannot be mounted: {}", options.mount_point,
                               complaint.text().empty() ? "fusermount3 refused (its reason is above)"
                                                        : complaint.text()));
  }
  const int fd = ::fcntl(fuse_session_fd(session), F_DUPFD_CLOEXEC, 0);
  const int error = errno;
  if (fd >= 0) forget_device(session);
  fuse_session_unmount(session);
  fuse_session_destroy(session);
  if (fd < 0) return system_failure(error, options.mount_point);
  return fd;
}

} // namespace

KernelMount::KernelMount(std::string mount_point, std::unique_ptr<MountState> state,
                         std::vector<int> channels, bool adopted)
    : mount_point_(std::move(mount_point)),
      state_(std::move(state)),
      channels_(std::move(channels)),
      adopted_(adopted) {}

KernelMount::~KernelMount() { end(); }

Result<std::unique_ptr<KernelMount>> KernelMount::make(const MountOptions& options) {
  VSNAP_TRY(check_fuse());
  VSNAP_TRY(check_mount_point(options.mount_point));
  take_fuse_log();
  VSNAP_TRY_ASSIGN(auto state, MountState::make());
  VSNAP_TRY_ASSIGN(const int device, mount_device(options));
  state->keep_device(device_mounted_at(options.mount_point));
  std::unique_ptr<KernelMount> made(new KernelMount(options.mount_point, std::move(state), {device}, false));
  if (options.io_uring && ring_mount_option() != nullptr) return made;
  VSNAP_TRY(made->read_init());
  VSNAP_TRY(made->make_channels(options.threads != 0 ? options.threads : kDefaultThreads));
  return made;
}

Result<std::unique_ptr<KernelMount>> KernelMount::adopt(const std::string& mount_point,
                                                        std::vector<int> descriptors) {
  VSNAP_ASSERT(descriptors.size() >= 2);
  take_fuse_log();
  auto state = MountState::map(descriptors.front());
  descriptors.erase(descriptors.begin());
  if (!state) {
    for (const int fd : descriptors) ::close(fd);
    return Failure(state.error());
  }
  return std::unique_ptr<KernelMount>(
      new KernelMount(mount_point, std::move(*state), std::move(descriptors), true));
}

Result<> KernelMount::read_init() {
  std::array<std::byte, 1U << 16> request{}; // the kernel refuses to fill a small buffer
  for (;;) {
    const ssize_t length = ::read(device(), request.data(), request.size());
    if (length < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (length < 0) return system_failure(errno, fmt::format("{}: /dev/fuse", mount_point_));
    fuse_in_header header{};
    const auto bytes = static_cast<std::size_t>(length);
    if (bytes < sizeof header || bytes > MountState::kMaxInitBytes) break;
    std::memcpy(&header, request.data(), sizeof header);
    if (header.opcode != FUSE_INIT) break;
    state_->keep_init(std::span(request).first(bytes));
    return {};
  }
  return failure(ErrorKind::failed, EPROTO,
                 fmt::format("{}: the kernel began with something else than INIT", mount_point_));
}

Result<> KernelMount::make_channels(unsigned count) {
  while (channels_.size() < count) {
    const int fd = ::open(kDevice, O_RDWR | O_CLOEXEC);
    if (fd < 0) return system_failure(errno, kDevice);
    std::uint32_t source = static_cast<std::uint32_t>(device());
    if (::ioctl(fd, FUSE_DEV_IOC_CLONE, &source) != 0) {
      const int error = errno;
      ::close(fd);
      return system_failure(error, fmt::format("{}: another descriptor of the mount", kDevice));
    }
    channels_.push_back(fd);
  }
  return {};
}

Result<> KernelMount::can_outlive() const {
  if (is_of_library()) return failure(ErrorKind::failed, EOPNOTSUPP, "requests come through io_uring");
  struct {
    fuse_in_header header;
    fuse_init_in init;
  } request{};
  const auto bytes = state_->init();
  std::memcpy(&request, bytes.data(), std::min(bytes.size(), sizeof request));
  const bool offered = (request.init.flags & FUSE_INIT_EXT) != 0 && (request.init.flags2 & kHasResend) != 0;
  if (offered) return {};
  return failure(ErrorKind::failed, EOPNOTSUPP,
                 "this kernel cannot send requests again to a daemon's successor (Linux 6.9 can)");
}

std::vector<int> KernelMount::descriptors() const {
  std::vector<int> all{state_->descriptor()};
  all.insert(all.end(), channels_.begin(), channels_.end());
  return all;
}

void KernelMount::ask_again() const {
  fuse_out_header notice{};
  notice.len = sizeof notice;
  notice.error = kNotifyResend;
  if (::write(device(), &notice, sizeof notice) < 0 && errno != ENODEV) // ENODEV: unmounted meanwhile
    log::error("{}: what the daemon before had not answered cannot be asked for: errno {}", mount_point_,
               errno);
}

// The connection is closed first, so that unmounting need not wait for open files. A mount that somebody else
// has ended is not to be unmounted: another may be at its place.
void KernelMount::end() {
  if (!mounted_) return;
  mounted_ = false;
  if (on_end_) on_end_();
  pollfd there{.fd = device(), .events = 0, .revents = 0};
  const bool gone = (::poll(&there, 1, 0) == 1 && (there.revents & POLLERR) != 0) ||
                    device_mounted_at(mount_point_) != state_->device();
  close_channels();
  if (!gone) {
    const int code = unmount_directory(mount_point_, Unmount::at_once);
    if (code != 0) log::warning("{}: unmounting: errno {}", mount_point_, code);
  }
}

void KernelMount::leave() {
  mounted_ = false;
  close_channels();
}

void KernelMount::close_channels() {
  for (const int fd : channels_) ::close(fd);
  channels_.clear();
}

} // namespace vsnap
