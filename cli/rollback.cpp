// vsnap rollback: gives a volume the content of one of its snapshots.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pool_access.h"

namespace vsnap::cli {
namespace {

struct Options {
  std::string target;
  bool discard = false;
};

Result<int> run(const CommonOptions& common, const Options& options) {
  VSNAP_TRY_ASSIGN(const Spec spec, resolve_view(options.target));
  wire::ControlRequest request;
  *request.mutable_rollback()->mutable_to() = wire::to_wire(*spec.view);
  request.mutable_rollback()->set_discard(options.discard);
  request.mutable_rollback()->set_dry_run(common.dry_run);
  VSNAP_TRY_ASSIGN(const auto reply, ask_pool(spec.pool, std::move(request)));
  const RollbackResult result = wire::from_wire(reply.rollback());
  const std::string to = spec.pool + "/" + result.to.text();
  if (common.json) {
    print_json({{"dry_run", common.dry_run},
                {"to", to},
                {"kept", result.kept ? Json(spec.pool + "/" + result.kept->text()) : Json(nullptr)}});
    return 0;
  }
  if (common.quiet) return 0;
  const std::string volume = spec.pool + "/" + result.to.volume;
  if (common.dry_run) fmt::print("would roll {} back to {}\n", volume, to);
  if (result.kept) {
    fmt::print("{}the state before as {}/{}\n", common.dry_run ? "would keep " : "kept ", spec.pool,
               result.kept->text());
  } else if (common.dry_run) {
    fmt::print("would give up the state before\n");
  }
  return 0;
}

} // namespace

void register_rollback(Program& program) {
  Command command =
      program.add("rollback", "POOL/VOL@SNAP [--discard]",
                  "Give a volume the content of one of its snapshots. Newer snapshots stay, and the state "
                  "before is kept as VOL@before-rollback-N.",
                  Takes::dry_run);
  auto options = std::make_shared<Options>();
  command.argument("SNAPSHOT", options->target);
  command.flag("--discard", options->discard, "do not keep the state before");
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
