#include "cli/registry.h"

#include <fmt/format.h>
#include <unistd.h>
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/state_file.h"
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
  auto written = write_state_file(path, text, must_be_new);
  if (written || !must_be_new || written.error().errno_value != EEXIST) return written;
  return failure(ErrorKind::busy, EEXIST,
                 fmt::format("{0}: a pool of this name is known here already (vsnap pool status "
                             "{0})",
                             entry.pool));
}

Result<> registry_remove(const std::string& pool) {
  VSNAP_TRY_ASSIGN(const std::string path, entry_path(pool));
  auto removed = remove_state_file(path);
  if (!removed && removed.error().errno_value == ENOENT) return no_such_pool(pool);
  return removed;
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
