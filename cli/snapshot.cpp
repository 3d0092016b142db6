// vsnap snapshot: preserves the content of volumes at this moment.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/freeze.h"
#include "cli/full_snapshot.h"
#include "cli/mount_table.h"
#include "cli/pool_access.h"
#include "cli/taken_snapshots.h"

namespace vsnap::cli {
namespace {

struct Options {
  std::vector<std::string> targets;
  FullSnapshotArguments full;
  FreezeArguments freeze;
};

Result<int> run_full(const CommonOptions& common, const Options& options) {
  if (options.targets.size() != 1)
    return failure(ErrorKind::usage, "--full: one snapshot at a time (run vsnap snapshot --full for each)");
  return take_full_snapshot(common, options.targets[0], options.full, options.freeze);
}

Result<int> run(const CommonOptions& common, const Options& options) {
  VSNAP_TRY(check(options.freeze));
  if (options.full.full) return run_full(common, options);
  if (!options.full.to.empty() || !options.full.bwlimit.empty() || options.full.wait) {
    return failure(ErrorKind::usage,
                   "--to, --bwlimit and --wait are for a snapshot that is copied (add --full)");
  }
  const std::vector<std::string>& targets = options.targets;
  std::vector<ViewName> names;
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
    names.push_back(*spec.view);
  }
  VSNAP_TRY_ASSIGN(PoolAccess access, PoolAccess::open(pool));
  wire::ControlReply reply;
  const auto levels = take_snapshots(access, pool, names, options.freeze, common, [&]() -> Result<> {
    wire::ControlRequest request;
    for (const ViewName& name : names) *request.mutable_snapshot()->add_names() = wire::to_wire(name);
    VSNAP_TRY_ASSIGN(reply, access.call(std::move(request)));
    return {};
  });
  const auto closed = access.close();
  VSNAP_TRY(levels);
  VSNAP_TRY(closed);
  print_snapshots(common, pool, names, *levels, reply);
  return 0;
}

} // namespace

void register_snapshot(Program& program) {
  Command command = program.add("snapshot",
                                "POOL/VOL@SNAP... [--freeze [--freeze-limit SECONDS] [--qga SOCKET]] "
                                "[--full [--to MEMBER] [--bwlimit RATE] [--wait]]",
                                "Preserve volumes as they are now; several at one moment, all or none.");
  auto options = std::make_shared<Options>();
  command.argument("SNAPSHOT", options->targets);
  command.flag("--freeze", options->freeze.freeze, "hold what uses them still meanwhile");
  command.option("--freeze-limit", options->freeze.limit, "for that long at most, 5 if not given", "SECONDS");
  command.repeated_option("--qga", options->freeze.agents, "also the VM with this guest agent", "SOCKET");
  command.flag("--full", options->full.full, "copy it in the background, to space of its own");
  command.repeated_option("--to", options->full.to, "onto this member, a path or a number", "MEMBER");
  command.option("--bwlimit", options->full.bwlimit, "bytes a second at most, such as 10M", "RATE");
  command.flag("--wait", options->full.wait, "return when the copy is complete");
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
