// vsnap flatten: makes a clone independent of the snapshot it started from.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pool_access.h"

namespace vsnap::cli {
namespace {

Result<int> run(const CommonOptions& common, const std::string& target) {
  VSNAP_TRY_ASSIGN(const Spec spec, resolve_volume(target));
  const std::string name = spec.pool + "/" + spec.view->text();
  wire::ControlRequest request;
  request.mutable_flatten()->set_volume(spec.view->volume);
  {
    CommandSink sink(common, "flatten " + name, ProgressUnit::bytes);
    VSNAP_TRY(ask_pool(spec.pool, std::move(request), sink));
  }
  if (common.json) print_json({{"name", name}});
  if (common.verbose && !common.json) fmt::print("flattened {}\n", name);
  return 0;
}

} // namespace

void register_flatten(Program& program) {
  Command command =
      program.add("flatten", "POOL/VOL", "Make a clone independent of the snapshot it started from.");
  auto target = std::make_shared<std::string>();
  command.argument("VOLUME", *target);
  program.on(command, [target](const CommonOptions& common) { return run(common, *target); });
}

} // namespace vsnap::cli
