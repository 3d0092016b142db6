#include "cli/volume_use.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "cli/first_line.h"
#include "cli/holders.h"
#include "cli/loop_device.h"
#include "fuse/unmount.h"

namespace vsnap::cli {
namespace {

namespace fs = std::filesystem;

const fs::path kBlockDevices = "/sys/class/block";

std::vector<std::string> names_in(const fs::path& directory) {
  std::vector<std::string> names;
  std::error_code code;
  for (auto it = fs::directory_iterator(directory, code); !code && it != fs::directory_iterator();
       it.increment(code))
    names.push_back(it->path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

// Partitions, and devices that are made of it: "loop0p1", "dm-3".
std::vector<std::string> made_of(const std::string& device) {
  std::vector<std::string> out;
  for (const std::string& name : names_in(kBlockDevices / device)) {
    std::error_code code;
    if (name.starts_with(device) && fs::exists(kBlockDevices / device / name / "partition", code))
      out.push_back(name);
  }
  for (std::string& name : names_in(kBlockDevices / device / "holders")) out.push_back(std::move(name));
  return out;
}

// All that lies on a loop device, itself first.
std::vector<std::string> stack_of(const std::string& loop) {
  std::vector<std::string> stack{loop};
  for (std::size_t at = 0; at < stack.size(); ++at) {
    for (const std::string& name : made_of(stack[at])) {
      if (std::find(stack.begin(), stack.end(), name) == stack.end()) stack.push_back(name);
    }
  }
  return stack;
}

std::string number_of(const std::string& device) { return first_line(kBlockDevices / device / "dev"); }

std::string text_of(const fs::path& path) {
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

// The mounts of a name space, and a process that sees them.
struct NameSpace {
  fs::path root;
  std::vector<MountEntry> mounts;
};

std::vector<NameSpace> name_spaces() {
  std::vector<NameSpace> found{{"/", parse_mount_entries(text_of("/proc/self/mountinfo"))}};
  std::error_code code;
  std::set<std::string> seen{fs::read_symlink("/proc/self/ns/mnt", code).string()};
  for (const std::string& pid : names_in("/proc")) {
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    const fs::path proc = fs::path("/proc") / pid;
    const std::string name = fs::read_symlink(proc / "ns/mnt", code).string();
    if (code || !seen.insert(name).second) continue;
    found.push_back({proc / "root", parse_mount_entries(text_of(proc / "mountinfo"))});
  }
  return found;
}

// By the numbers of each of its devices: the btrfs file systems that there are. What is mounted has a number
// of no device.
std::vector<std::set<std::string>> btrfs_devices() {
  std::vector<std::set<std::string>> found;
  for (const std::string& uuid : names_in("/sys/fs/btrfs")) {
    std::set<std::string> numbers;
    const fs::path devices = fs::path("/sys/fs/btrfs") / uuid / "devices";
    for (const std::string& name : names_in(devices)) numbers.insert(first_line(devices / name / "dev"));
    if (!numbers.empty()) found.push_back(std::move(numbers));
  }
  return found;
}

std::string number_of_node(const std::string& path) {
  struct stat info = {};
  if (::stat(path.c_str(), &info) != 0 || !S_ISBLK(info.st_mode)) return {};
  return std::to_string(major(info.st_rdev)) + ":" + std::to_string(minor(info.st_rdev));
}

// On that mount and no other, or closed.
Descriptor open_mount(const NameSpace& space, const MountEntry& mount) {
  const std::string path = space.root.string() + mount.point;
  Descriptor directory(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  struct statx info = {};
  if (directory.get() < 0 || ::statx(directory.get(), "", AT_EMPTY_PATH, STATX_MNT_ID, &info) != 0 ||
      (info.stx_mask & STATX_MNT_ID) == 0 || info.stx_mnt_id != static_cast<std::uint64_t>(mount.id))
    directory.reset();
  return directory;
}

class Search {
 public:
  VolumeUses run(const std::vector<std::string>& files) {
    for (const std::string& file : files) {
      out_.volumes.emplace_back();
      look_at(file, out_.volumes.back());
    }
    return std::move(out_);
  }

 private:
  void look_at(const std::string& file, VolumeUse& use) {
    std::vector<std::string> writable{file};
    const auto loops = loop_devices([&](const LoopDevice& loop) { return loop.backing_file == file; });
    for (const LoopDevice& loop : loops) {
      use.loops.push_back(loop.device);
      for (const std::string& name : stack_of(fs::path(loop.device).filename().string())) {
        writable.push_back("/dev/" + name);
        if (!add_mounts(name, use) && made_of(name).empty() && is_claimed(name))
          use.claimed.push_back("/dev/" + name);
      }
    }
    for (std::string& process : writers_of(writable)) use.others.push_back(std::move(process));
  }

  // By a file system that is mounted where it is not seen, by swap, by what has no holder in sysfs.
  static bool is_claimed(const std::string& device) {
    const std::string node = "/dev/" + device;
    return Descriptor(::open(node.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC)).get() < 0;
  }

  bool lies_on(const MountEntry& mount, const std::string& number) {
    if (mount.number == number) return true;
    if (mount.type != "btrfs") return false;
    const std::string source = number_of_node(mount.source);
    return std::any_of(btrfs_.begin(), btrfs_.end(), [&](const std::set<std::string>& devices) {
      return devices.contains(source) && devices.contains(number);
    });
  }

  bool add_mounts(const std::string& device, VolumeUse& use) {
    const std::string number = number_of(device);
    bool any = false;
    for (const NameSpace& space : spaces_) {
      for (const MountEntry& mount : space.mounts) {
        if (number.empty() || !lies_on(mount, number)) continue;
        any = true;
        add(space, mount, use);
      }
    }
    for (const MountEntry& mount : unreached_[&use]) {
      const bool reached = known_.contains(mount.number);
      if (!reached) use.claimed.push_back("/dev/" + device + " (mounted at " + mount.point + ")");
    }
    unreached_.erase(&use);
    return any;
  }

  void add(const NameSpace& space, const MountEntry& mount, VolumeUse& use) {
    auto known = known_.find(mount.number);
    if (known == known_.end()) {
      Descriptor directory = open_mount(space, mount);
      if (directory.get() < 0) {
        unreached_[&use].push_back(mount);
        return;
      }
      out_.file_systems.push_back({mount.number, mount.point, mount.type, std::move(directory)});
      known = known_.emplace(mount.number, out_.file_systems.size() - 1).first;
    }
    if (std::find(use.file_systems.begin(), use.file_systems.end(), known->second) == use.file_systems.end())
      use.file_systems.push_back(known->second);
  }

  VolumeUses out_;
  const std::vector<NameSpace> spaces_ = name_spaces();
  const std::vector<std::set<std::string>> btrfs_ = btrfs_devices();
  std::map<std::string, std::size_t> known_; // by number
  std::map<const VolumeUse*, std::vector<MountEntry>> unreached_;
};

} // namespace

std::vector<MountEntry> parse_mount_entries(std::string_view mountinfo) {
  std::vector<MountEntry> found;
  std::istringstream lines{std::string(mountinfo)};
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    MountEntry mount;
    std::string parent, root, point, options, optional;
    fields >> mount.id >> parent >> mount.number >> root >> point >> options;
    while (fields >> optional && optional != "-") continue;
    std::string source;
    fields >> mount.type >> source;
    if (!fields) continue;
    mount.point = unescaped_mount_field(point);
    mount.source = unescaped_mount_field(source);
    found.push_back(std::move(mount));
  }
  return found;
}

VolumeUses uses_of(const std::vector<std::string>& files) { return Search().run(files); }

} // namespace vsnap::cli
