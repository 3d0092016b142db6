// vsnap catalog dump: the catalog of a pool as a plain SQLite file.
#include <fmt/format.h>
#include <unistd.h>

#include "cli/command.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pool_access.h"
#include "cli/registry.h"

namespace vsnap::cli {
namespace {

struct Options {
  std::string pool;
  std::string file;
};

Result<int> run(const CommonOptions& common, const Options& options) {
  if (options.file == "-") {
    return failure(ErrorKind::usage,
                   "catalog dump: a catalog is written to a file, not to standard output (name one)");
  }
  VSNAP_TRY_ASSIGN(const Spec spec, resolve_target(options.pool));
  VSNAP_TRY_ASSIGN(const std::string path, absolute_path(options.file));
  if (::access(path.c_str(), F_OK) == 0) {
    return failure(ErrorKind::failed, EEXIST,
                   fmt::format("{}: exists already (remove it, or give another name)", path));
  }
  wire::ControlRequest request;
  request.mutable_dump_catalog()->set_path(path);
  {
    CommandSink sink(common, "catalog dump " + spec.pool, ProgressUnit::pages);
    VSNAP_TRY(ask_pool(spec.pool, std::move(request), sink));
  }
  if (common.json) print_json({{"pool", spec.pool}, {"file", path}});
  if (common.verbose && !common.json) fmt::print("wrote {}\n", path);
  return 0;
}

} // namespace

void register_catalog(Program& program) {
  Command command = program.add("dump", "POOL FILE.db", "Write the catalog as a plain SQLite file.",
                                Takes::nothing, "catalog");
  auto options = std::make_shared<Options>();
  command.argument("POOL", options->pool);
  command.argument("FILE", options->file);
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
