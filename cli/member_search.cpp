#include "cli/member_search.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <algorithm>
#include <filesystem>
#include <map>

#include "cli/registry.h"
#include "core/pool.h"

namespace vsnap::cli {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> entries(const std::string& directory) {
  std::vector<std::string> found;
  std::error_code code;
  for (auto it = fs::directory_iterator(directory, code); !code && it != fs::directory_iterator();
       it.increment(code))
    found.push_back(it->path().filename().string());
  std::sort(found.begin(), found.end());
  return found;
}

// Names that stay first. Drives without a medium would be waited for.
std::vector<std::string> block_devices() {
  std::vector<std::string> paths;
  for (const std::string& name : entries("/dev/disk/by-id")) paths.push_back("/dev/disk/by-id/" + name);
  for (const std::string& name : entries("/sys/class/block")) {
    if (!name.starts_with("sr") && !name.starts_with("fd")) paths.push_back("/dev/" + name);
  }
  return paths;
}

} // namespace

std::vector<std::string> devices_of(Env& env, const Uuid& pool) {
  std::vector<std::string> found;
  std::vector<dev_t> seen;
  for (const std::string& path : block_devices()) {
    struct stat info = {};
    if (::stat(path.c_str(), &info) != 0 || !S_ISBLK(info.st_mode)) continue;
    if (std::find(seen.begin(), seen.end(), info.st_rdev) != seen.end()) continue;
    seen.push_back(info.st_rdev);
    const auto look = Pool::look(env, path);
    if (look && look->identity && look->identity->pool_uuid == pool) found.push_back(path);
  }
  return found;
}

std::vector<std::string> find_members(Env& env, const Uuid& pool) {
  std::map<std::uint32_t, std::string> found; // by number in the pool
  for (const std::string& path : devices_of(env, pool)) {
    const auto look = Pool::look(env, path);
    if (look && look->identity) found.emplace(look->identity->index, path);
  }
  std::vector<std::string> paths;
  for (auto& [index, path] : found) paths.push_back(std::move(path));
  return paths;
}

Result<std::vector<std::string>> check_members(Env& env, const Uuid& pool,
                                               const std::vector<std::string>& paths) {
  std::map<std::uint32_t, std::string> found;
  for (const std::string& text : paths) {
    VSNAP_TRY_ASSIGN(const std::string path, absolute_path(text));
    VSNAP_TRY_ASSIGN(const MemberLook look, Pool::look(env, path));
    if (!look.identity || look.identity->pool_uuid != pool) {
      return failure(ErrorKind::usage,
                     fmt::format("{}: {}", path,
                                 !look.identity ? "not a member of a pool"
                                                : "a member of pool " + look.identity->pool_name +
                                                      ", which is another one than that of the token"));
    }
    const auto [at, is_new] = found.emplace(look.identity->index, path);
    if (!is_new)
      return failure(ErrorKind::usage,
                     fmt::format("{}: the same member of the pool as {}", path, at->second));
  }
  std::vector<std::string> out;
  for (auto& [index, path] : found) out.push_back(std::move(path));
  return out;
}

} // namespace vsnap::cli
