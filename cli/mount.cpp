// vsnap mount: shows a pool as a directory of files.
#include <dirent.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>
#include <charconv>
#include <filesystem>
#include <optional>

#include "cli/command.h"
#include "cli/duration.h"
#include "cli/keeper.h"
#include "cli/member_search.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/registry.h"
#include "cli/shared_pool.h"
#include "core/names.h"
#include "fuse/unmount.h"
#include "sync/coordinator.h"
#include "sync/daemon_record.h"
#include "sync/invitation_token.h"

namespace vsnap::cli {
namespace {

struct Options {
  std::string pool;
  std::string directory;
  std::vector<std::string> mount_options;
  std::string listen;
  std::string lease;
  std::string fence;
  std::vector<std::string> only;
  bool foreground = false;
};

constexpr const char* kOptions =
    "allow_other, degraded, threads=N, cache=SIZE, direct=on|off, restart=on|off, io_uring, debug";
constexpr unsigned kMaxThreads = 256;
// What mount(8) and fstab hand on that needs nothing done here.
constexpr std::string_view kIgnored[] = {"rw",       "auto", "noauto", "user", "nouser", "nofail", "_netdev",
                                         "defaults", "dev",  "nodev",  "suid", "nosuid", "exec",   "noexec"};

// `direct`: left alone where nothing is said.
Result<> parse_one(const std::string& option, DaemonOptions& out, std::optional<bool>& direct) {
  const auto equals = option.find('=');
  const std::string key = option.substr(0, equals);
  const std::string value = equals == std::string::npos ? std::string() : option.substr(equals + 1);
  if (option == "allow_other") {
    out.allow_other = true;
  } else if (option == "degraded") {
    out.degraded = true;
  } else if (option == "debug") {
    out.debug = true;
  } else if (option == "io_uring") {
    out.io_uring = true;
  } else if (key == "direct" || key == "restart") {
    if (value != "on" && value != "off") {
      return failure(ErrorKind::usage, fmt::format("mount: {}={}: on or off is needed", key, value));
    }
    if (key == "direct") {
      direct = value == "on";
    } else {
      out.restart = value == "on";
    }
  } else if (key == "threads") {
    const auto [end, code] = std::from_chars(value.data(), value.data() + value.size(), out.threads);
    if (code != std::errc() || end != value.data() + value.size() || out.threads == 0 ||
        out.threads > kMaxThreads) {
      return failure(ErrorKind::usage,
                     fmt::format("mount: threads={}: a number from 1 to {} is needed", value, kMaxThreads));
    }
  } else if (key == "cache") {
    VSNAP_TRY_ASSIGN(out.cache_bytes, parse_size(value));
  } else if (std::find(std::begin(kIgnored), std::end(kIgnored), option) == std::end(kIgnored) &&
             !option.starts_with("x-")) {
    return failure(ErrorKind::usage,
                   fmt::format("mount: {}: no such option ({})", vsnap::quoted(option), kOptions));
  }
  return {};
}

Result<> parse_mount_options(const std::vector<std::string>& lists, DaemonOptions& out,
                             std::optional<bool>& direct) {
  for (const std::string& list : lists) {
    for (std::size_t at = 0; at <= list.size();) {
      const std::size_t comma = std::min(list.find(',', at), list.size());
      if (comma != at) VSNAP_TRY(parse_one(list.substr(at, comma - at), out, direct));
      at = comma + 1;
    }
  }
  return {};
}

std::string as_written(const std::string& text) {
  std::error_code code;
  std::string path = std::filesystem::absolute(text, code).lexically_normal().string();
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

// What a killed daemon of this pool left there is only in the way: programs that still have files of it open
// get errors already.
Result<> clear_dead_mount(const std::string& pool, const std::string& path) {
  for (const PoolMount& mount : pool_mounts()) {
    if (mount != PoolMount{pool, path} || !is_dead_mount(path)) continue;
    if (const int code = unmount_directory(path, Unmount::at_once); code != 0) {
      return system_failure(code, fmt::format("{}: a dead mount of pool {} is in the way", path, pool));
    }
  }
  return {};
}

// A mount hides what lies below it, so only an empty directory is taken.
Result<std::string> check_mount_point(const std::string& pool, const std::string& text) {
  VSNAP_TRY(clear_dead_mount(pool, as_written(text)));
  VSNAP_TRY_ASSIGN(std::string path, absolute_path(text));
  for (const PoolMount& mount : pool_mounts()) {
    if (mount.mount_point == path) {
      return failure(ErrorKind::busy,
                     fmt::format("{0}: pool {1} is mounted there already (vsnap umount {0} unmounts it)",
                                 path, mount.pool));
    }
  }
  struct stat info = {};
  if (::stat(path.c_str(), &info) != 0) {
    if (errno != ENOENT) return system_failure(errno, path);
    return failure(ErrorKind::failed, ENOENT, fmt::format("{0}: no such directory (mkdir {0} first)", path));
  }
  if (!S_ISDIR(info.st_mode))
    return failure(ErrorKind::failed, ENOTDIR, fmt::format("{}: not a directory", path));
  std::error_code code;
  const bool empty = std::filesystem::is_empty(path, code);
  if (code) return system_failure(code.value(), path);
  if (!empty) {
    return failure(ErrorKind::failed, ENOTEMPTY,
                   fmt::format("{}: not empty, and a mount would hide what is there (use an "
                               "empty directory)",
                               path));
  }
  return path;
}

Result<> parse_sharing(const Options& options, DaemonOptions& out) {
  if (options.listen.empty()) {
    if (options.lease.empty() && options.fence.empty()) return {};
    return failure(ErrorKind::usage, fmt::format("mount: {} is for a pool that is shared (--listen)",
                                                 options.lease.empty() ? "--fence" : "--lease"));
  }
  if (out.degraded) return failure(ErrorKind::usage, "mount: what is mounted degraded is not shared");
  VSNAP_TRY(check_address("mount --listen", options.listen));
  out.listen = options.listen;
  out.fence = options.fence;
  if (options.lease.empty()) return {};
  VSNAP_TRY_ASSIGN(out.lease_ns, parse_duration(options.lease));
  if (out.lease_ns >= Coordinator::kShortestLease_ns && out.lease_ns <= Coordinator::kLongestLease_ns)
    return {};
  return failure(ErrorKind::usage, fmt::format("mount --lease {}: from {} to {}", options.lease,
                                               format_duration(Coordinator::kShortestLease_ns),
                                               format_duration(Coordinator::kLongestLease_ns)));
}

// What there is to mount, and where its members are. A pool that another host coordinates is mounted as it
// lets this one.
Result<> find_pool(const Options& options, DaemonOptions& daemon) {
  daemon.pool = options.pool;
  VSNAP_TRY_ASSIGN(const auto shared, shared_pool_find(options.pool));
  if (!shared) {
    if (!options.only.empty())
      return failure(ErrorKind::usage, "mount: --only is for a pool that another host coordinates");
    VSNAP_TRY_ASSIGN(const RegistryEntry entry, registry_find(options.pool));
    if (!daemon.degraded) VSNAP_TRY(check_members_present(entry));
    daemon.members = entry.members;
    daemon.uuid = entry.uuid;
    return {};
  }
  if (!options.listen.empty() || daemon.degraded) {
    return failure(ErrorKind::busy, fmt::format("{}: {} coordinates it, so here it is neither shared on nor "
                                                "mounted degraded",
                                                options.pool, shared->address));
  }
  for (const std::string& name : options.only) {
    VSNAP_TRY_ASSIGN(const ViewName view, parse_view_name(name));
    daemon.only.push_back(view.text());
  }
  daemon.joined = true;
  daemon.members = shared->members.empty() ? find_members(Env::real(), shared->uuid) : shared->members;
  daemon.uuid = to_string(shared->uuid);
  return {};
}

Result<int> run(const CommonOptions& common, const Options& options) {
  DaemonOptions daemon;
  if (!registry_find(options.pool) && valid_name(options.directory) &&
      (!valid_name(options.pool) || registry_find(options.directory))) {
    return failure(ErrorKind::usage, fmt::format("mount: the pool comes first (vsnap mount {} {})",
                                                 options.directory, options.pool));
  }
  VSNAP_TRY(check_name("pool", options.pool));
  std::optional<bool> direct;
  VSNAP_TRY(parse_mount_options(options.mount_options, daemon, direct));
  VSNAP_TRY(parse_sharing(options, daemon));
  // What a page cache here held back, or kept, another host that has a volume delegated would not agree with.
  daemon.direct = direct.value_or(!daemon.listen.empty());
  if (const auto running = live_daemon(Env::real(), options.pool)) {
    return failure(ErrorKind::busy,
                   fmt::format("{0}: mounted already, at {1} by pid {2} (vsnap umount {0} unmounts it)",
                               options.pool, running->mount_point, running->pid));
  }
  VSNAP_TRY(find_pool(options, daemon));
  VSNAP_TRY_ASSIGN(daemon.mount_point, check_mount_point(options.pool, options.directory));
  if (options.foreground) {
    VSNAP_TRY(run_keeper(daemon, [&] { ::sd_notify(0, "READY=1"); }));
  } else {
    VSNAP_TRY(start_in_background(daemon));
    if (common.json) print_json({{"pool", daemon.pool}, {"mount_point", daemon.mount_point}});
    if (common.verbose && !common.json) fmt::print("mounted {} at {}\n", daemon.pool, daemon.mount_point);
  }
  return 0;
}

} // namespace

void register_mount(Program& program) {
  Command command = program.add(
      "mount",
      "POOL DIR [-o OPTIONS] [-f] [--listen ADDRESS [--lease DURATION] [--fence COMMAND]] [--only NAME]...",
      "Show a pool as a directory of files.");
  auto options = std::make_shared<Options>();
  command.argument("POOL", options->pool);
  command.argument("DIR", options->directory);
  command.repeated_option("-o", options->mount_options, kOptions, "OPT,OPT");
  command.option("--listen", options->listen, "share the pool with other hosts, at tcp://ADDR:PORT",
                 "ADDRESS");
  command.option("--lease", options->lease, "of those hosts; 10s", "DURATION");
  command.option("--fence", options->fence,
                 "cuts a host off that is lost with a volume: sh -c COMMAND, $1 the pool, $2 the host",
                 "COMMAND");
  command.repeated_option("--only", options->only,
                          "of a pool that another host coordinates: that snapshot, or those of that volume",
                          "NAME");
  command.flag("-f,--foreground", options->foreground, "stay in the foreground, log to standard error");
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
