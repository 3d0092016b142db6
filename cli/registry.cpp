#include "cli/registry.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/names.h"
#include "core/pool.h"

namespace vsnap::cli {
namespace {

namespace fs = std::filesystem;

Result<std::string> pools_dir() {
  VSNAP_TRY_ASSIGN(const std::string dir, state_dir());
  return dir + "/pools";
}

Result<std::string> entry_path(const std::string& pool) {
  VSNAP_TRY(check_name("pool", pool));
  VSNAP_TRY_ASSIGN(const std::string dir, pools_dir());
  return dir + "/" + pool + ".json";
}

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

Failure no_such_pool(const std::string& pool) {
  std::optional<std::string> near;
  if (const auto names = registry_list()) near = nearest(pool, *names);
  return failure(
      ErrorKind::not_found,
      fmt::format("{}: no such pool ({})", pool,
                  near ? fmt::format("did you mean {}?", *near)
                       : "vsnap pool list shows those known here, vsnap pool attach MEMBER... adds one"));
}

// An end without warning while a member is added leaves its path here: the members themselves say whether it
// is one. With a daemon it may still become one after the command has ended.
void resolve_adding(RegistryEntry& entry) {
  if (entry.adding.empty()) return;
  const auto found = Pool::identify(Env::real(), entry.adding);
  const auto first = Pool::identify(Env::real(), entry.members.front());
  if (found && first && to_string(found->pool_uuid) == entry.uuid && first->pool_uuid == found->pool_uuid &&
      found->index == entry.members.size() && found->index < first->member_count) {
    entry.members.push_back(entry.adding);
  }
  entry.adding.clear();
}

} // namespace

Result<std::string> state_dir() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return std::string(value != nullptr ? value : "");
  };
  if (const auto dir = variable("VSNAP_STATE_DIR"); !dir.empty()) return absolute_path(dir);
  if (::geteuid() == 0) return std::string("/var/lib/vsnap");
  if (const auto dir = variable("XDG_STATE_HOME"); dir.starts_with('/')) return dir + "/vsnap";
  if (const auto home = variable("HOME"); home.starts_with('/')) return home + "/.local/state/vsnap";
  return failure(ErrorKind::failed, ENOENT,
                 "no place to keep the list of pools (set VSNAP_STATE_DIR or HOME)");
}

Result<RegistryEntry> registry_find(const std::string& pool) {
  VSNAP_TRY_ASSIGN(const std::string path, entry_path(pool));
  std::ifstream in(path);
  if (!in) {
    if (::access(path.c_str(), F_OK) == 0) return system_failure(EACCES, path);
    return no_such_pool(pool);
  }
  const auto json = nlohmann::json::parse(in, nullptr, false);
  try {
    RegistryEntry entry{pool, json.at("uuid").get<std::string>(),
                        json.at("members").get<std::vector<std::string>>(), json.value("adding", "")};
    if (!entry.members.empty()) {
      resolve_adding(entry);
      return entry;
    }
  } catch (const nlohmann::json::exception&) { // the error below says what to do
  }
  return failure(ErrorKind::damaged,
                 fmt::format("{}: {} cannot be read as a list of members (vsnap pool attach MEMBER... "
                             "writes it anew)",
                             pool, path));
}

Result<std::vector<std::string>> registry_list() {
  VSNAP_TRY_ASSIGN(const std::string dir, pools_dir());
  std::vector<std::string> names;
  std::error_code code;
  for (auto it = fs::directory_iterator(dir, code); !code && it != fs::directory_iterator();
       it.increment(code)) {
    const fs::path& path = it->path();
    if (path.extension() == ".json" && valid_name(path.stem().string()))
      names.push_back(path.stem().string());
  }
  if (code && code.value() != ENOENT) return system_failure(code.value(), dir);
  std::sort(names.begin(), names.end());
  return names;
}

Result<> registry_save(const RegistryEntry& entry, bool must_be_new) {
  VSNAP_TRY_ASSIGN(const std::string path, entry_path(entry.pool));
  std::string text;
  try {
    nlohmann::ordered_json json{
        {"schema", 1}, {"name", entry.pool}, {"uuid", entry.uuid}, {"members", entry.members}};
    if (!entry.adding.empty()) json["adding"] = entry.adding;
    text = json.dump(2) + "\n";
  } catch (const nlohmann::json::exception&) {
    return failure(ErrorKind::usage, fmt::format("{}: the path of a member is not UTF-8", entry.pool));
  }
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
  if (code == EEXIST) {
    return failure(ErrorKind::busy, EEXIST,
                   fmt::format("{0}: a pool of this name is known here already (vsnap pool status "
                               "{0})",
                               entry.pool));
  }
  if (code != 0) return system_failure(code, path);
  return sync_directory(dir);
}

Result<> registry_remove(const std::string& pool) {
  VSNAP_TRY_ASSIGN(const std::string path, entry_path(pool));
  if (::unlink(path.c_str()) != 0) return errno == ENOENT ? no_such_pool(pool) : system_failure(errno, path);
  return sync_directory(fs::path(path).parent_path().string());
}

Result<> check_members_present(const RegistryEntry& entry) {
  for (const std::string& member : entry.members) {
    if (::access(member.c_str(), F_OK) != 0 && (errno == ENOENT || errno == ENOTDIR)) {
      return failure(
          ErrorKind::damaged, ENOENT,
          fmt::format("{}: member {} is missing (moved? vsnap pool attach with all its members says "
                      "where they are now; vsnap mount -o degraded {} DIR shows what is on the others)",
                      entry.pool, member, entry.pool));
    }
    const auto found = Pool::identify(Env::real(), member);
    if (!found && found.error().kind == ErrorKind::not_found) {
      return failure(
          ErrorKind::damaged,
          fmt::format("{}: {} is no member of a pool any more: it was overwritten or wiped (restore "
                      "it from a copy; vsnap mount -o degraded {} DIR shows what is on the others)",
                      entry.pool, member, entry.pool));
    }
  }
  return {};
}

Result<std::string> absolute_path(const std::string& path) {
  if (path.empty()) return failure(ErrorKind::usage, "an empty path");
  std::error_code code;
  const fs::path made = fs::weakly_canonical(fs::absolute(path, code), code);
  if (code) return system_failure(code.value(), path);
  return made.string();
}

} // namespace vsnap::cli
