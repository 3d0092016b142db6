#include "cli/holders.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>

#include "cli/first_line.h"
#include "cli/loop_device.h"
#include "fuse/unmount.h"

namespace vsnap::cli {
namespace {

namespace fs = std::filesystem;

bool all_digits(const std::string& text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

std::string describe_process(const fs::path& proc) {
  std::string name;
  std::ifstream(proc / "comm") >> name;
  return fmt::format("{} (pid {})", name.empty() ? "a process" : name, proc.filename().string());
}

// Links only: a stat of a file under the mount could wait for its daemon. `wanted` gets what the descriptor
// is open on, and its number.
using WantedFile = std::function<bool(const std::string& file, const std::string& descriptor)>;
bool any_open_file(const fs::path& proc, const WantedFile& wanted) {
  std::error_code code;
  for (auto it = fs::directory_iterator(proc / "fd", code); !code && it != fs::directory_iterator();
       it.increment(code)) {
    std::error_code unreadable;
    const fs::path target = fs::read_symlink(it->path(), unreadable);
    if (!unreadable && wanted(target.string(), it->path().filename().string())) return true;
  }
  return false;
}

bool any_link(const fs::path& proc, const std::function<bool(const std::string&)>& wanted) {
  std::error_code code;
  for (const char* name : {"cwd", "root"}) {
    const fs::path target = fs::read_symlink(proc / name, code);
    if (!code && wanted(target.string())) return true;
  }
  return any_open_file(proc, [&](const std::string& file, const std::string&) { return wanted(file); });
}

std::vector<std::string> processes(const std::function<bool(const fs::path& proc)>& wanted) {
  std::vector<std::string> out;
  std::error_code code;
  for (auto it = fs::directory_iterator("/proc", code); !code && it != fs::directory_iterator();
       it.increment(code)) {
    const std::string pid = it->path().filename().string();
    if (!all_digits(pid) || pid == std::to_string(::getpid())) continue;
    if (wanted(it->path())) out.push_back(describe_process(it->path()));
  }
  return out;
}

// The flags of open(2), octal in a line of their own.
int access_mode(const fs::path& proc, const std::string& descriptor) {
  std::ifstream info(proc / "fdinfo" / descriptor);
  for (std::string key; info >> key;) {
    if (key != "flags:") continue;
    unsigned flags = 0;
    info >> std::oct >> flags;
    return static_cast<int>(flags & O_ACCMODE);
  }
  return O_RDONLY;
}

bool contains(const std::vector<std::string>& words, const std::string& word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

// "/dev/loop0", "/dev/loop0p1", ...
std::vector<std::string> with_partitions(const std::string& device) {
  const std::string name = fs::path(device).filename().string();
  std::vector<std::string> out{device};
  std::error_code code;
  for (auto it = fs::directory_iterator("/sys/class/block/" + name, code);
       !code && it != fs::directory_iterator(); it.increment(code)) {
    const std::string part = it->path().filename().string();
    if (part.starts_with(name)) out.push_back("/dev/" + part);
  }
  return out;
}

std::vector<std::string> mount_points_of(const std::vector<std::string>& devices) {
  std::vector<std::string> numbers; // "7:0", as they stand in mountinfo
  for (const std::string& device : devices) {
    const std::string number = first_line(fs::path("/sys/class/block") / fs::path(device).filename() / "dev");
    if (!number.empty()) numbers.push_back(number);
  }
  std::vector<std::string> out;
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream fields(line);
    std::string id, parent, number, root, point;
    fields >> id >> parent >> number >> root >> point;
    if (contains(numbers, number)) out.push_back(unescaped_mount_field(point));
  }
  return out;
}

std::string describe_loop(const std::string& device) {
  const auto who = holders_of_device(device);
  return who.empty() ? device : fmt::format("{} ({})", device, fmt::join(who, ", "));
}

std::vector<std::string> holders_where(const std::function<bool(const std::string&)>& wanted) {
  std::vector<std::string> out;
  for (const LoopDevice& loop : loop_devices([&](const LoopDevice& it) { return wanted(it.backing_file); }))
    out.push_back(describe_loop(loop.device));
  for (std::string& process : processes([&](const fs::path& proc) { return any_link(proc, wanted); }))
    out.push_back(std::move(process));
  return out;
}

} // namespace

std::vector<std::string> holders_of_mount(const std::string& directory) {
  return holders_where(
      [&](const std::string& path) { return path == directory || path.starts_with(directory + "/"); });
}

std::vector<std::string> holders_of_file(const std::string& file) {
  return holders_where([&](const std::string& path) { return path == file; });
}

std::vector<std::string> holders_of_device(const std::string& device) {
  const std::vector<std::string> parts = with_partitions(device);
  std::vector<std::string> out;
  for (const std::string& point : mount_points_of(parts)) out.push_back("mounted at " + point);
  for (const std::string& part : parts) {
    std::error_code code;
    const fs::path dir = fs::path("/sys/class/block") / fs::path(part).filename() / "holders";
    for (auto it = fs::directory_iterator(dir, code); !code && it != fs::directory_iterator();
         it.increment(code))
      out.push_back("/dev/" + it->path().filename().string());
  }
  const auto wanted = [&](const std::string& path) { return contains(parts, path); };
  for (std::string& process : processes([&](const fs::path& proc) { return any_link(proc, wanted); }))
    out.push_back(std::move(process));
  return out;
}

std::vector<std::string> writers_of(const std::vector<std::string>& files) {
  return processes([&](const fs::path& proc) {
    return any_open_file(proc, [&](const std::string& file, const std::string& descriptor) {
      return contains(files, file) && access_mode(proc, descriptor) != O_RDONLY;
    });
  });
}

bool has_open(pid_t process, const std::string& file) {
  return any_link(fs::path("/proc") / std::to_string(process),
                  [&](const std::string& path) { return path == file; });
}

bool has_disks(pid_t process) {
  const fs::path proc = fs::path("/proc") / std::to_string(process);
  return any_open_file(proc, [&](const std::string& file, const std::string& descriptor) {
    if (!file.starts_with('/')) return false; // a socket, and the like
    if (file == "/dev/kvm") return true;
    std::error_code code;
    if (file.starts_with("/dev/") && !file.starts_with("/dev/shm/"))
      return fs::exists(fs::path("/sys/class/block") / fs::path(file).filename(), code);
    if (file.starts_with("/run/") || file.starts_with("/proc/") || file.starts_with("/memfd:")) return false;
    return access_mode(proc, descriptor) == O_RDWR;
  });
}

} // namespace vsnap::cli
