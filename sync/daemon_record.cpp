#include "sync/daemon_record.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/log.h"
#include "core/names.h"

namespace vsnap {
namespace {

namespace fs = std::filesystem;

std::string record_path(const std::string& pool) { return runtime_dir() + "/" + pool + ".json"; }

std::string last_words_path(const std::string& pool) { return runtime_dir() + "/" + pool + ".end"; }

// All of it or nothing.
Result<> write_whole(const std::string& path, const std::string& text) {
  const std::string fresh = path + ".new";
  const int fd = ::open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return system_failure(errno, fresh);
  const bool written = ::write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  const int code = errno;
  ::close(fd);
  if (!written) return system_failure(code, fresh);
  if (::rename(fresh.c_str(), path.c_str()) != 0) return system_failure(errno, path);
  return {};
}

struct ProcessState {
  char state = '?';
  std::uint64_t start_ticks = 0;
};

std::optional<ProcessState> process_state(std::int64_t pid) {
  std::ifstream in(fmt::format("/proc/{}/stat", pid));
  std::string text; // nothing where the process ends in this moment
  std::getline(in, text, '\0');
  // The second field, the program's name in parentheses, may hold anything; the fields behind it are numbered
  // from 3.
  const auto end_of_name = text.rfind(')');
  if (end_of_name == std::string::npos || end_of_name + 2 >= text.size()) return std::nullopt;
  ProcessState out;
  out.state = text[end_of_name + 2];
  std::size_t at = end_of_name + 2;
  for (int field = 3; field < 22; ++field) {
    at = text.find(' ', at);
    if (at == std::string::npos) return std::nullopt;
    ++at;
  }
  out.start_ticks = std::strtoull(text.c_str() + at, nullptr, 10);
  return out;
}

bool is_process(std::int64_t pid, std::uint64_t start_ticks) {
  const auto state = process_state(pid);
  if (!state || state->state == 'Z' || state->state == 'X') return false;
  return start_ticks == 0 || start_ticks == state->start_ticks;
}

} // namespace

std::string runtime_dir() {
  if (const char* dir = std::getenv("VSNAP_RUNTIME_DIR"); dir != nullptr && *dir != '\0') {
    std::error_code code;
    const fs::path absolute = fs::absolute(dir, code);
    return code ? std::string(dir) : absolute.lexically_normal().string();
  }
  if (::geteuid() == 0) return "/run/vsnap";
  if (const char* dir = std::getenv("XDG_RUNTIME_DIR"); dir != nullptr && *dir == '/')
    return std::string(dir) + "/vsnap";
  return fmt::format("/tmp/vsnap-{}", ::geteuid());
}

Result<> prepare_runtime_dir() {
  const std::string dir = runtime_dir();
  std::error_code code;
  fs::create_directories(fs::path(dir).parent_path(), code);
  if (::mkdir(dir.c_str(), 0700) != 0 && errno != EEXIST) {
    return system_failure(errno,
                          fmt::format("{}: cannot make the runtime directory (set VSNAP_RUNTIME_DIR)", dir));
  }
  struct stat info = {};
  if (::lstat(dir.c_str(), &info) != 0) return system_failure(errno, dir);
  if (!S_ISDIR(info.st_mode) || info.st_uid != ::geteuid() || (info.st_mode & 0022) != 0) {
    return failure(
        ErrorKind::failed, EPERM,
        fmt::format("{}: not a directory that only you can write to (set VSNAP_RUNTIME_DIR to one)", dir));
  }
  return {};
}

Result<std::string> control_socket_path(const std::string& pool) {
  std::string path = runtime_dir() + "/" + pool + ".sock";
  constexpr std::size_t kLongest = sizeof(sockaddr_un::sun_path) - 1;
  if (path.size() > kLongest) {
    return failure(
        ErrorKind::usage, ENAMETOOLONG,
        fmt::format(
            "{}: too long for a socket: {} bytes, at most {} (set VSNAP_RUNTIME_DIR to a shorter path)", path,
            path.size(), kLongest));
  }
  return path;
}

std::string daemon_log_path(const std::string& pool) { return runtime_dir() + "/" + pool + ".log"; }

DaemonRecord own_record(Env& env, const std::string& pool, const Uuid& uuid, const std::string& mount_point,
                        const std::string& socket_path, std::int64_t keeper) {
  const auto state = process_state(::getpid());
  const auto keeper_state = keeper != 0 ? process_state(keeper) : std::nullopt;
  DaemonRecord record;
  record.pool = pool;
  record.pool_uuid = to_string(uuid);
  record.mount_point = mount_point;
  record.socket_path = socket_path;
  record.pid = ::getpid();
  record.start_ticks = state ? state->start_ticks : 0;
  record.boot_id = env.boot_id();
  record.keeper_pid = keeper_state ? keeper : 0;
  record.keeper_start_ticks = keeper_state ? keeper_state->start_ticks : 0;
  return record;
}

Result<> write_record(const DaemonRecord& record) {
  std::string text;
  try {
    text = nlohmann::json{{"schema", 1},
                          {"pool", record.pool},
                          {"uuid", record.pool_uuid},
                          {"mount_point", record.mount_point},
                          {"socket", record.socket_path},
                          {"pid", record.pid},
                          {"start_ticks", record.start_ticks},
                          {"boot_id", record.boot_id},
                          {"keeper_pid", record.keeper_pid},
                          {"keeper_start_ticks", record.keeper_start_ticks},
                          {"first_member", record.first_member}}
               .dump();
  } catch (const nlohmann::json::exception&) {
    return failure(ErrorKind::usage, fmt::format("{}: path is not UTF-8", vsnap::quoted(record.mount_point)));
  }
  VSNAP_TRY(write_whole(record_path(record.pool), text));
  ::unlink(last_words_path(record.pool).c_str());
  return {};
}

void remove_record(const DaemonRecord& record) noexcept {
  ::unlink(record_path(record.pool).c_str());
  ::unlink(record.socket_path.c_str());
}

bool is_running(Env& env, const DaemonRecord& record) {
  return record.boot_id == env.boot_id() && is_process(record.pid, record.start_ticks);
}

bool is_kept(Env& env, const DaemonRecord& record) {
  return record.keeper_pid != 0 && record.boot_id == env.boot_id() &&
         is_process(record.keeper_pid, record.keeper_start_ticks);
}

std::optional<DaemonRecord> read_record(const std::string& pool) {
  std::ifstream in(record_path(pool));
  if (!in) return std::nullopt;
  const auto json = nlohmann::json::parse(in, nullptr, false);
  if (!json.is_object()) return std::nullopt;
  try {
    DaemonRecord record;
    record.pool = json.at("pool").get<std::string>();
    record.pool_uuid = json.at("uuid").get<std::string>();
    record.mount_point = json.at("mount_point").get<std::string>();
    record.socket_path = json.at("socket").get<std::string>();
    record.pid = json.at("pid").get<std::int64_t>();
    record.start_ticks = json.at("start_ticks").get<std::uint64_t>();
    record.boot_id = json.at("boot_id").get<std::string>();
    record.keeper_pid = json.value("keeper_pid", std::int64_t{0});
    record.keeper_start_ticks = json.value("keeper_start_ticks", std::uint64_t{0});
    record.first_member = json.value("first_member", "");
    if (record.pool != pool) return std::nullopt;
    return record;
  } catch (const nlohmann::json::exception&) {
    return std::nullopt; // half a file or somebody else's: as good as none
  }
}

void leave_last_words(const DaemonRecord& record, bool no_space, const std::string& message) noexcept {
  try {
    const auto text = nlohmann::json{{"schema", 1},
                                     {"pid", record.pid},
                                     {"start_ticks", record.start_ticks},
                                     {"boot_id", record.boot_id},
                                     {"no_space", no_space},
                                     {"message", message}}
                          .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    const auto written = write_whole(last_words_path(record.pool), text);
    if (!written) log::warning("{}", written.error().message);
  } catch (const std::exception&) { // memory is short: the log has to do
  }
}

void take_back_last_words(const DaemonRecord& record) noexcept {
  try {
    const auto words = read_last_words(record.pool);
    if (words && is_of(*words, record)) ::unlink(last_words_path(record.pool).c_str());
  } catch (const std::exception&) { // they stay: better too careful than to lose them
  }
}

std::optional<LastWords> read_last_words(const std::string& pool) {
  std::ifstream in(last_words_path(pool));
  if (!in) return std::nullopt;
  const auto json = nlohmann::json::parse(in, nullptr, false);
  try {
    return LastWords{json.at("pid").get<std::int64_t>(), json.at("start_ticks").get<std::uint64_t>(),
                     json.at("boot_id").get<std::string>(), json.at("no_space").get<bool>(),
                     json.at("message").get<std::string>()};
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
}

bool is_of(const LastWords& words, const DaemonRecord& record) {
  return words.pid == record.pid && words.start_ticks == record.start_ticks &&
         words.boot_id == record.boot_id;
}

std::optional<DaemonRecord> live_daemon(Env& env, const std::string& pool) {
  constexpr std::int64_t kLongestNs = 10'000'000'000;
  const std::int64_t start_ns = env.monotonic_ns();
  for (;;) {
    auto record = read_record(pool);
    if (!record || is_running(env, *record)) return record;
    if (!is_kept(env, *record)) return std::nullopt;
    if (env.monotonic_ns() - start_ns > kLongestNs) return record;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

} // namespace vsnap
