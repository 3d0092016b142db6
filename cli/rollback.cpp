// vsnap rollback: gives a volume the content of one of its snapshots.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pause.h"
#include "cli/pool_access.h"

namespace vsnap::cli {
namespace {

struct Options {
  std::string target;
  bool discard = false;
};

wire::ControlRequest make_request(const Spec& spec, bool discard, bool dry_run) {
  wire::ControlRequest request;
  *request.mutable_rollback()->mutable_to() = wire::to_wire(*spec.view);
  request.mutable_rollback()->set_discard(discard);
  request.mutable_rollback()->set_dry_run(dry_run);
  return request;
}

std::string plan_text(const std::string& pool, const RollbackResult& result) {
  const std::string head =
      fmt::format("would roll {0}/{1} back to {0}/{2}\n", pool, result.to.volume, result.to.text());
  return head + (result.kept
                     ? fmt::format("would keep the state before as {}/{}\n", pool, result.kept->text())
                     : "would give up the state before\n");
}

Result<int> run(const CommonOptions& common, const Options& options) {
  VSNAP_TRY_ASSIGN(const Spec spec, resolve_view(options.target));
  VSNAP_TRY_ASSIGN(PoolAccess access, PoolAccess::open(spec.pool));
  if (options.discard && would_ask(common)) { // only that loses anything
    VSNAP_TRY_ASSIGN(const auto preview, access.call(make_request(spec, true, true)));
    VSNAP_TRY(confirm(common, "rollback", plan_text(spec.pool, wire::from_wire(preview.rollback()))));
  }
  wire::ControlReply reply;
  {
    CommandSink sink(common, "roll back " + spec.pool + "/" + spec.view->text(), ProgressUnit::bytes);
    VSNAP_TRY_ASSIGN(reply, access.call(make_request(spec, options.discard, common.dry_run), sink));
    VSNAP_TRY(access.close());
  }
  const RollbackResult result = wire::from_wire(reply.rollback());
  if (common.json) {
    Json out{{"dry_run", common.dry_run},
             {"to", spec.pool + "/" + result.to.text()},
             {"kept", result.kept ? Json(spec.pool + "/" + result.kept->text()) : Json(nullptr)}};
    add_pause(out, reply);
    print_json(std::move(out));
  } else if (common.dry_run && !common.quiet) {
    fmt::print("{}", plan_text(spec.pool, result));
  } else if (result.kept && !common.quiet) {
    fmt::print("kept the state before as {}/{}\n", spec.pool, result.kept->text());
  }
  if (common.verbose && !common.dry_run && !common.json)
    fmt::print("{}", pause_text(spec.pool + "/" + result.to.volume, reply));
  return 0;
}

} // namespace

void register_rollback(Program& program) {
  Command command =
      program.add("rollback", "POOL/VOL@SNAP [--discard]",
                  "Give a volume the content of one of its snapshots. Newer snapshots stay, and the state "
                  "before is kept as VOL@before-rollback-N.",
                  Takes::dry_run | Takes::yes);
  auto options = std::make_shared<Options>();
  command.argument("SNAPSHOT", options->target);
  command.flag("--discard", options->discard, "do not keep the state before");
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
