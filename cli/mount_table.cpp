#include "cli/mount_table.h"

#include <fmt/format.h>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "cli/registry.h"
#include "fuse/unmount.h"
#include "sync/daemon_record.h"

namespace vsnap::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kSource = "vsnap:";

std::string without_trailing_slash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

// Pools of one name may be mounted under different runtime directories; only the daemon that serves this very
// mount may be asked about its files.
Result<Spec> of_known_daemon(const Spec& spec, const std::string& path,
                             const std::vector<PoolMount>& mounts) {
  const auto daemon = read_record(spec.pool);
  for (const PoolMount& mount : mounts) {
    const bool contains_path = path == mount.mount_point || path.starts_with(mount.mount_point + "/");
    if (contains_path && daemon && daemon->mount_point == mount.mount_point) return spec;
  }
  return failure(ErrorKind::not_found,
                 fmt::format("{}: mounted by a daemon that is not known in {} (set VSNAP_RUNTIME_DIR as for "
                             "vsnap mount)",
                             vsnap::quoted(path), runtime_dir()));
}

// nullopt: under no mount of ours.
std::optional<Result<Spec>> spec_under_mount(const std::string& text) {
  const auto mounts = pool_mounts();
  if (mounts.empty()) return std::nullopt;
  // As it is written first: asking the system about a path under a mount whose daemon has died gives only
  // errors.
  std::error_code code;
  const fs::path written = fs::absolute(text, code).lexically_normal();
  std::vector<std::string> paths{without_trailing_slash(written.string())};
  const fs::path real_parent = fs::canonical(written.parent_path(), code);
  if (!code) paths.push_back((real_parent / written.filename()).string());
  const fs::path real = fs::canonical(written, code);
  if (!code) paths.push_back(real.string());
  for (const std::string& path : paths) {
    auto spec = spec_of_path(path, mounts);
    if (spec && *spec) return of_known_daemon(**spec, path, mounts);
    if (spec) return spec;
  }
  return std::nullopt;
}

bool is_known_pool(const std::string& pool) {
  const auto entry = registry_find(pool);
  return entry || entry.error().kind != ErrorKind::not_found || read_record(pool);
}

// A word without a slash is a path only where there is such a file, or one is to be made.
bool may_be_path(const std::string& text, Naming naming) {
  std::error_code code;
  return !text.empty() && (naming == Naming::fresh || text.find('/') != std::string::npos ||
                           fs::exists(fs::symlink_status(text, code)));
}

// "data@monday": says what is missing, with the pool if only one is known.
Result<Spec> without_pool(const std::string& text, Result<Spec> spec) {
  if (!parse_view_name(text)) return spec;
  const auto pools = registry_list();
  return failure(ErrorKind::usage, fmt::format("{0}: no pool is named (write {1}/{2})", vsnap::quoted(text),
                                               pools && pools->size() == 1 ? pools->front() : "POOL", text));
}

} // namespace

std::string fs_name(const std::string& pool) { return std::string(kSource) + pool; }

std::vector<PoolMount> parse_mount_table(std::string_view mountinfo) {
  std::vector<PoolMount> out;
  std::istringstream lines{std::string(mountinfo)};
  for (std::string line; std::getline(lines, line);) {
    const auto separator = line.find(" - ");
    if (separator == std::string::npos) continue;
    std::istringstream before(line.substr(0, separator));
    std::istringstream after(line.substr(separator + 3));
    std::string id, parent, device, root, mount_point, type, source;
    before >> id >> parent >> device >> root >> mount_point;
    after >> type >> source;
    source = unescaped_mount_field(source);
    if (!type.starts_with("fuse") || !source.starts_with(kSource)) continue;
    out.push_back({source.substr(kSource.size()), unescaped_mount_field(mount_point)});
  }
  return out;
}

std::vector<PoolMount> pool_mounts() {
  std::ifstream in("/proc/self/mountinfo");
  const std::string text((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  return parse_mount_table(text);
}

std::optional<Result<Spec>> spec_of_path(const std::string& path, const std::vector<PoolMount>& mounts) {
  for (auto it = mounts.rbegin(); it != mounts.rend(); ++it) {
    if (path == it->mount_point) return Spec{it->pool, std::nullopt};
    if (!path.starts_with(it->mount_point + "/")) continue;
    auto name = parse_view_name(std::string_view(path).substr(it->mount_point.size() + 1));
    if (!name) return Failure(name.error());
    return Spec{it->pool, *name};
  }
  return std::nullopt;
}

Result<Spec> resolve_target(const std::string& text, Naming naming) {
  if (text.size() > 1 && text.ends_with('@')) {
    return failure(ErrorKind::usage, fmt::format("{}: no snapshot's name behind the @ (write {}NAME)",
                                                 vsnap::quoted(text), text));
  }
  const bool is_path = text.starts_with('/') || text.starts_with("./") || text.starts_with("../") ||
                       text == "." || text == "..";
  if (!is_path) {
    auto spec = parse_spec(text);
    if (spec && is_known_pool(spec->pool)) return spec;
    const auto found = may_be_path(text, naming) ? spec_under_mount(text) : std::nullopt;
    if (found && (*found || !spec)) return *found;
    return spec || text.find('/') != std::string::npos ? spec : without_pool(text, std::move(spec));
  }
  if (auto found = spec_under_mount(text)) return *found;
  return failure(
      ErrorKind::not_found,
      fmt::format("{}: not under a mounted pool (write POOL/VOLUME@SNAPSHOT; vsnap pool list shows mounts)",
                  vsnap::quoted(text)));
}

Result<Spec> resolve_view(const std::string& text, Naming naming) {
  VSNAP_TRY_ASSIGN(Spec spec, resolve_target(text, naming));
  if (spec.view) return spec;
  return failure(ErrorKind::usage, fmt::format("{}: a volume or snapshot is needed (write POOL/VOLUME or "
                                               "POOL/VOLUME@SNAPSHOT)",
                                               vsnap::quoted(text)));
}

Result<Spec> resolve_volume(const std::string& text, Naming naming) {
  VSNAP_TRY_ASSIGN(Spec spec, resolve_target(text, naming));
  if (spec.view && !spec.view->is_snapshot()) return spec;
  return failure(ErrorKind::usage,
                 fmt::format("{}: a volume is needed (write POOL/VOLUME)", vsnap::quoted(text)));
}

} // namespace vsnap::cli
