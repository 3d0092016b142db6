// vsnap pool create: makes a pool of image files and partitions.
#include <fmt/format.h>
#include <sys/stat.h>

#include "cli/command.h"
#include "cli/member_argument.h"
#include "cli/output.h"
#include "cli/registry.h"
#include "core/names.h"
#include "core/new_member.h"
#include "core/pool.h"

namespace vsnap::cli {
namespace {

struct Options {
  std::string name;
  std::vector<std::string> members;
  std::string size;
  bool force = false;
};

Result<> check_name_is_free(const std::string& name) {
  const auto known = registry_find(name);
  if (known) {
    return failure(
        ErrorKind::busy, EEXIST,
        fmt::format(
            "{0}: a pool of this name is known here already (vsnap pool status {0} shows it, vsnap pool "
            "detach {0} forgets it)",
            name));
  }
  return known.error().kind == ErrorKind::not_found ? Result<>() : Failure(known.error());
}

// "pool create /srv/lab.img lab", and the same in the directory of the file.
Result<> check_order(const Options& options) {
  const std::string& last = options.members.back();
  struct stat info = {};
  const bool first_is_member =
      options.name.find('/') != std::string::npos || ::stat(options.name.c_str(), &info) == 0;
  if (!first_is_member || S_ISDIR(info.st_mode) || !valid_name(last) || ::stat(last.c_str(), &info) == 0)
    return {};
  return failure(
      ErrorKind::usage,
      fmt::format("pool create: the pool's name comes before its members (vsnap pool create {} {})", last,
                  options.name));
}

// "/srv/x.img, which has an ext4 file system", as far as it can be told.
std::string with_contents(const std::string& path) {
  const auto file = Env::real().open_file(path, {});
  const auto found = file ? what_is_on(**file, path) : Result<std::optional<std::string>>();
  if (!found || !*found) return path;
  return fmt::format("{}, which {}", path, **found);
}

void print_result(const CommonOptions& common, const CreatePoolOptions& pool, const std::string& uuid) {
  Json members = Json::array();
  for (const MemberSpec& member : pool.members) members.push_back(member.path);
  if (common.json) {
    print_json({{"dry_run", common.dry_run},
                {"name", pool.name},
                {"uuid", uuid.empty() ? Json(nullptr) : Json(uuid)},
                {"members", members}});
  } else if (common.dry_run || common.verbose) {
    fmt::print("{} pool {}\n", common.dry_run ? "would make" : "made", pool.name);
    for (const MemberSpec& member : pool.members) {
      const bool made = member.size_bytes != 0;
      if (common.dry_run) {
        fmt::print("would {} {}\n", made ? "make file" : "overwrite",
                   made ? member.path : with_contents(member.path));
      } else {
        fmt::print("{} {}\n", made ? "made file" : "took", member.path);
      }
    }
  }
}

Result<int> run(const CommonOptions& common, const Options& options) {
  VSNAP_TRY(check_order(options));
  VSNAP_TRY(check_name("pool", options.name));
  CreatePoolOptions create{options.name, {}, options.force, common.dry_run};
  RegistryEntry entry{options.name, {}, {}};
  for (const std::string& text : options.members) {
    VSNAP_TRY_ASSIGN(MemberSpec member, member_argument(text, options.size));
    entry.members.push_back(member.path);
    create.members.push_back(std::move(member));
  }
  VSNAP_TRY(check_name_is_free(options.name));
  VSNAP_TRY(Pool::create(Env::real(), create));
  if (!common.dry_run) {
    VSNAP_TRY_ASSIGN(const MemberIdentity identity, Pool::identify(Env::real(), entry.members.front()));
    entry.uuid = to_string(identity.pool_uuid);
    if (auto saved = registry_save(entry, true); !saved) {
      Error error = saved.error();
      error.message += " (the pool was made; vsnap pool attach makes it known)";
      return Failure(std::move(error));
    }
  }
  print_result(common, create, entry.uuid);
  return 0;
}

} // namespace

void register_pool_create(Program& program) {
  Command command =
      program.add("create", "NAME MEMBER... [--size SIZE] [--force]",
                  "Make a pool of image files and partitions. A missing file is made, sparse, with --size.",
                  Takes::dry_run, "pool");
  auto options = std::make_shared<Options>();
  command.argument("NAME", options->name);
  command.argument("MEMBER", options->members);
  command.option("--size", options->size, "of files that do not exist yet", "SIZE");
  command.flag("--force", options->force, "also over a file system, another pool or other data");
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
