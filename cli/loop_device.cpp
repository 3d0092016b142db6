#include "cli/loop_device.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <thread>

#include "cli/descriptor.h"
#include "cli/first_line.h"
#include "cli/holders.h"

namespace vsnap::cli {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

constexpr unsigned kLoopMajor = 7;
constexpr int kAttempts = 64; // others may take the free device between asking for it and using it

// Without udev nobody makes the node of a new device.
Result<> make_node(const std::string& device, int number) {
  struct stat info = {};
  if (::stat(device.c_str(), &info) == 0) return {};
  if (::mknod(device.c_str(), S_IFBLK | 0660, ::makedev(kLoopMajor, static_cast<unsigned>(number))) == 0)
    return {};
  if (errno == EEXIST) return {};
  return system_failure(errno, device);
}

Failure in_use(const std::string& device) {
  const auto who = holders_of_device(device);
  return failure(ErrorKind::busy, fmt::format("{}: in use{}{} (unmount it or end its user first)", device,
                                              who.empty() ? "" : ": ", fmt::join(who, ", ")));
}

// Names repeat in other mount name spaces: a device is over the file that has this name here only if that is
// the same file. Where either cannot be looked at, the name has to do.
bool is_over(const std::string& device, const std::string& file) {
  const Descriptor loop(::open(device.c_str(), O_RDONLY | O_CLOEXEC));
  loop_info64 info = {};
  struct stat there = {};
  if (file.ends_with(" (deleted)") || loop.get() < 0 || ::ioctl(loop.get(), LOOP_GET_STATUS64, &info) != 0)
    return true;
  if (::stat(file.c_str(), &there) != 0) return errno != ENOENT;
  return info.lo_inode == there.st_ino && info.lo_device == there.st_dev;
}

bool attached(const std::string& device) {
  std::error_code code;
  return fs::exists("/sys/block/" + fs::path(device).filename().string() + "/loop/backing_file", code);
}

// EBUSY: somebody was quicker.
int configure(const std::string& device, int file, const LoopOptions& options) {
  const Descriptor loop(::open(device.c_str(), (options.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC));
  if (loop.get() < 0) return errno;
  loop_config config{};
  config.fd = static_cast<__u32>(file);
  config.block_size = options.sector_size_bytes;
  config.info.lo_flags = LO_FLAGS_DIRECT_IO | (options.read_only ? LO_FLAGS_READ_ONLY : 0);
  options.file.copy(reinterpret_cast<char*>(config.info.lo_file_name), LO_NAME_SIZE - 1);
  return ::ioctl(loop.get(), LOOP_CONFIGURE, &config) == 0 ? 0 : errno;
}

} // namespace

std::vector<LoopDevice> loop_devices(const std::function<bool(const LoopDevice&)>& wanted) {
  std::vector<LoopDevice> out;
  std::error_code code;
  for (auto it = fs::directory_iterator("/sys/block", code); !code && it != fs::directory_iterator();
       it.increment(code)) {
    const std::string name = it->path().filename().string();
    if (!name.starts_with("loop")) continue;
    LoopDevice loop{"/dev/" + name, first_line(it->path() / "loop/backing_file"),
                    first_line(it->path() / "ro") == "1"};
    if (loop.backing_file.empty() || !wanted(loop) || !is_over(loop.device, loop.backing_file)) continue;
    out.push_back(std::move(loop));
  }
  std::sort(out.begin(), out.end(), [](const LoopDevice& a, const LoopDevice& b) {
    return a.device.size() != b.device.size() ? a.device.size() < b.device.size() : a.device < b.device;
  });
  return out;
}

Result<std::string> loop_attach(const LoopOptions& options) {
  const Descriptor control(::open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (control.get() < 0) {
    return system_failure(
        errno, "/dev/loop-control (loop devices need root; other programs can open the file itself)");
  }
  // The device uses it past the cache in any case; so its daemon knows.
  const int access = options.read_only ? O_RDONLY : O_RDWR;
  const Descriptor file(::open(options.file.c_str(), access | O_DIRECT | O_CLOEXEC));
  if (file.get() < 0) return system_failure(errno, options.file);
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const int number = ::ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) return system_failure(errno, "no free loop device");
    const std::string device = fmt::format("/dev/loop{}", number);
    VSNAP_TRY(make_node(device, number));
    const int code = configure(device, file.get(), options);
    if (code == 0) return device;
    if (code == EINVAL) {
      return failure(ErrorKind::usage,
                     fmt::format("{}: the kernel refuses sectors of {} bytes (512, 1024, 2048 or 4096)",
                                 options.file, options.sector_size_bytes));
    }
    if (code != EBUSY && code != ENXIO) return system_failure(code, device);
    std::this_thread::sleep_for(milliseconds(attempt));
  }
  return failure(
      ErrorKind::busy,
      fmt::format("{}: other programs take every free loop device first (try again)", options.file));
}

Result<> loop_detach(const LoopDevice& device) {
  // O_EXCL finds a mounted file system; holders_of_device those who only have it open. The kernel itself
  // would not refuse: it detaches when the last of them closes.
  Descriptor loop(::open(device.device.c_str(), (device.read_only ? O_RDONLY : O_RDWR) | O_EXCL | O_CLOEXEC));
  if (loop.get() < 0 && errno == EBUSY) return in_use(device.device);
  if (loop.get() < 0) return system_failure(errno, device.device);
  if (!holders_of_device(device.device).empty()) return in_use(device.device);
  if (!device.read_only && ::fsync(loop.get()) != 0) return system_failure(errno, device.device);
  if (::ioctl(loop.get(), LOOP_CLR_FD, 0) != 0 && errno != ENXIO) {
    return errno == EBUSY ? in_use(device.device) : system_failure(errno, device.device);
  }
  loop.reset();
  for (int waited_ms = 0; attached(device.device); waited_ms += 10) {
    if (waited_ms >= 10'000) return in_use(device.device);
    std::this_thread::sleep_for(milliseconds(10));
  }
  return {};
}

} // namespace vsnap::cli
