#include "cli/holders.h"

#include <fmt/format.h>
#include <unistd.h>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>

#include "cli/loop_device.h"

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

// Reads links only: a stat of a file under the mount could wait for its daemon.
bool any_link(const fs::path& proc, const std::function<bool(const std::string&)>& wanted) {
  std::error_code code;
  for (const char* name : {"cwd", "root"}) {
    const fs::path target = fs::read_symlink(proc / name, code);
    if (!code && wanted(target.string())) return true;
  }
  for (auto it = fs::directory_iterator(proc / "fd", code); !code && it != fs::directory_iterator();
       it.increment(code)) {
    std::error_code unreadable;
    const fs::path target = fs::read_symlink(it->path(), unreadable);
    if (!unreadable && wanted(target.string())) return true;
  }
  return false;
}

std::vector<std::string> processes(const std::function<bool(const std::string&)>& wanted) {
  std::vector<std::string> out;
  std::error_code code;
  for (auto it = fs::directory_iterator("/proc", code); !code && it != fs::directory_iterator();
       it.increment(code)) {
    const std::string pid = it->path().filename().string();
    if (!all_digits(pid) || pid == std::to_string(::getpid())) continue;
    if (any_link(it->path(), wanted)) out.push_back(describe_process(it->path()));
  }
  return out;
}

} // namespace

std::vector<std::string> holders_of_mount(const std::string& directory) {
  const auto inside = [&](const std::string& path) {
    return path == directory || path.starts_with(directory + "/");
  };
  std::vector<std::string> out;
  for (const LoopDevice& loop : loop_devices()) {
    if (inside(loop.backing_file)) out.push_back(loop.device);
  }
  for (std::string& process : processes(inside)) out.push_back(std::move(process));
  return out;
}

std::vector<std::string> holders_of_device(const std::string& device) {
  return processes([&](const std::string& path) { return path == device; });
}

} // namespace vsnap::cli
