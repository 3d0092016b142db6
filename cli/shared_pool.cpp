#include "cli/shared_pool.h"

#include <fmt/format.h>
#include <unistd.h>
#include <charconv>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cli/registry.h"
#include "cli/state_file.h"
#include "core/names.h"

namespace vsnap::cli {
namespace {

Result<std::string> entry_path(const std::string& pool) {
  VSNAP_TRY(check_name("pool", pool));
  VSNAP_TRY_ASSIGN(const std::string dir, state_dir());
  return dir + "/shared/" + pool + ".json";
}

std::optional<Uuid> uuid_from(const std::string& text) {
  Uuid uuid{};
  std::string digits;
  for (const char c : text) {
    if (c != '-') digits += c;
  }
  if (digits.size() != 2 * uuid.size()) return std::nullopt;
  for (std::size_t i = 0; i < uuid.size(); ++i) {
    const char* const at = digits.data() + 2 * i;
    const auto [end, code] = std::from_chars(at, at + 2, uuid[i], 16);
    if (code != std::errc() || end != at + 2) return std::nullopt;
  }
  return uuid;
}

} // namespace

Result<std::optional<SharedPool>> shared_pool_find(const std::string& pool) {
  VSNAP_TRY_ASSIGN(const std::string path, entry_path(pool));
  std::ifstream in(path);
  if (!in) {
    if (::access(path.c_str(), F_OK) == 0) return system_failure(EACCES, path);
    return std::nullopt;
  }
  const auto json = nlohmann::json::parse(in, nullptr, false);
  try {
    SharedPool entry;
    entry.pool = pool;
    entry.address = json.at("address").get<std::string>();
    entry.host = json.at("host").get<std::string>();
    entry.members = json.at("members").get<std::vector<std::string>>();
    const auto uuid = uuid_from(json.at("uuid").get<std::string>());
    const auto key = key_from(json.at("server_key").get<std::string>());
    if (uuid && key) {
      entry.uuid = *uuid;
      entry.server_key = *key;
      return entry;
    }
  } catch (const nlohmann::json::exception&) { // the error below says what to do
  }
  return failure(ErrorKind::damaged,
                 fmt::format("{0}: {1} cannot be read (vsnap host invite {0}, where it is coordinated, and "
                             "vsnap host join here write it anew)",
                             pool, path));
}

Result<> shared_pool_save(const SharedPool& entry) {
  VSNAP_TRY_ASSIGN(const std::string path, entry_path(entry.pool));
  std::string text;
  try {
    const nlohmann::ordered_json json{{"schema", 1},
                                      {"name", entry.pool},
                                      {"uuid", to_string(entry.uuid)},
                                      {"address", entry.address},
                                      {"server_key", key_text(entry.server_key)},
                                      {"host", entry.host},
                                      {"members", entry.members}};
    text = json.dump(2) + "\n";
  } catch (const nlohmann::json::exception&) {
    return failure(ErrorKind::usage, fmt::format("{}: the path of a member is not UTF-8", entry.pool));
  }
  return write_state_file(path, text, false);
}

Result<> shared_pool_remove(const std::string& pool) {
  VSNAP_TRY_ASSIGN(const std::string path, entry_path(pool));
  return remove_state_file(path);
}

Result<> check_not_guest(const std::string& pool) {
  VSNAP_TRY_ASSIGN(const auto shared, shared_pool_find(pool));
  if (!shared) return {};
  return failure(ErrorKind::busy,
                 fmt::format("{0}: this host is a guest of it: {1} coordinates it, and nobody else opens it "
                             "(there the command works; vsnap pool detach {0} forgets it here)",
                             pool, shared->address));
}

Result<KeyPair> host_key() {
  VSNAP_TRY_ASSIGN(const std::string dir, state_dir());
  return own_key(dir + "/host.key");
}

} // namespace vsnap::cli
