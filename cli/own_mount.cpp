#include "cli/own_mount.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <charconv>
#include <filesystem>
#include <optional>

#include "cli/first_line.h"

namespace vsnap::cli {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxLayers = 32; // file on file system on partition on mapping on loop device on ...

std::optional<dev_t> parse_device(const std::string& text) {
  unsigned major = 0;
  unsigned minor = 0;
  const char* const end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, major);
  if (first.ec != std::errc() || first.ptr == end) return std::nullopt;
  if (std::from_chars(first.ptr + 1, end, minor).ec != std::errc()) return std::nullopt;
  return ::makedev(major, minor);
}

bool file_lies_on(const std::string& path, dev_t mount, int layers);

// Down through partitions, mappings and loop devices.
bool device_lies_on(dev_t device, dev_t mount, int layers) {
  if (layers == 0) return false;
  std::error_code code;
  const fs::path dir =
      fs::canonical(fmt::format("/sys/dev/block/{}:{}", ::major(device), ::minor(device)), code);
  if (code) return false; // not a block device: a file system without one
  if (const auto file = first_line(dir / "loop/backing_file"); !file.empty())
    return file_lies_on(file, mount, layers - 1);
  if (fs::exists(dir / "partition", code)) {
    const auto whole = parse_device(first_line(dir.parent_path() / "dev"));
    return whole && device_lies_on(*whole, mount, layers - 1);
  }
  for (auto it = fs::directory_iterator(dir / "slaves", code); !code && it != fs::directory_iterator();
       it.increment(code)) {
    const auto below = parse_device(first_line(it->path() / "dev"));
    if (below && device_lies_on(*below, mount, layers - 1)) return true;
  }
  return false;
}

bool file_lies_on(const std::string& path, dev_t mount, int layers) {
  struct stat info = {};
  if (::stat(path.c_str(), &info) != 0 &&
      (errno != ENOENT || ::stat(fs::path(path).parent_path().c_str(), &info) != 0)) {
    return false;
  }
  if (S_ISBLK(info.st_mode)) return device_lies_on(info.st_rdev, mount, layers);
  return info.st_dev == mount || device_lies_on(info.st_dev, mount, layers);
}

} // namespace

bool lies_in_mount(const std::string& path, const std::string& mount_point) {
  struct stat info = {};
  return ::stat(mount_point.c_str(), &info) == 0 && file_lies_on(path, info.st_dev, kMaxLayers);
}

} // namespace vsnap::cli
