// vsnap snapshot: preserves the content of volumes at this moment.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pool_access.h"

namespace vsnap::cli {
namespace {

Result<int> run(const CommonOptions& common, const std::vector<std::string>& targets) {
  wire::ControlRequest request;
  Json names = Json::array();
  std::string pool;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    const std::string& target = targets[i];
    if (target.find('@') == std::string::npos && i + 1 < targets.size() && valid_name(targets[i + 1])) {
      return failure(ErrorKind::usage, fmt::format("{}: the snapshot's name follows an @ (write {}@{})",
                                                   target, target, targets[i + 1]));
    }
    VSNAP_TRY_ASSIGN(const Spec spec, resolve_view(target, Naming::fresh));
    if (!pool.empty() && spec.pool != pool) {
      return failure(ErrorKind::usage,
                     fmt::format("{}: not in pool {}: one moment needs one pool (run vsnap snapshot once "
                                 "for each)",
                                 target, pool));
    }
    pool = spec.pool;
    *request.mutable_snapshot()->add_names() = wire::to_wire(*spec.view);
    names.push_back(pool + "/" + spec.view->text());
  }
  VSNAP_TRY(ask_pool(pool, std::move(request)));
  if (common.json) {
    print_json({{"snapshots", names}});
  } else if (common.verbose) {
    for (const Json& name : names) fmt::print("created {}\n", name.get<std::string>());
  }
  return 0;
}

} // namespace

void register_snapshot(Program& program) {
  Command command = program.add("snapshot", "POOL/VOL@SNAP...",
                                "Preserve volumes as they are now; several at one moment, all or none.");
  auto targets = std::make_shared<std::vector<std::string>>();
  command.argument("SNAPSHOT", *targets);
  program.on(command, [targets](const CommonOptions& common) { return run(common, *targets); });
}

} // namespace vsnap::cli
