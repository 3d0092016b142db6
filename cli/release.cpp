// vsnap release: gives the image of an adopted volume back.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pool_access.h"

namespace vsnap::cli {
namespace {

struct Options {
  std::string target;
  bool keep_snapshots = false;
};

void print_result(const CommonOptions& common, const Spec& spec, const ReleaseResult& result) {
  const std::string name = spec.pool + "/" + spec.view->text();
  if (common.json) {
    Json kept = Json::array();
    for (const ViewName& snapshot : result.kept) kept.push_back(spec.pool + "/" + snapshot.text());
    print_json({{"dry_run", common.dry_run}, {"name", name}, {"base", result.path}, {"kept", kept}});
    return;
  }
  if (!common.dry_run && !common.verbose) return;
  const bool would = common.dry_run;
  fmt::print("{} {}, as it is\n", would ? "would give back" : "gave back", result.path);
  for (const ViewName& snapshot : result.kept)
    fmt::print("{} {}/{}\n", would ? "would keep" : "kept", spec.pool, snapshot.text());
  if (would && result.copied_bytes > 0)
    fmt::print("would copy at most {} to the pool\n", format_size(result.copied_bytes));
}

Result<int> run(const CommonOptions& common, const Options& options) {
  VSNAP_TRY_ASSIGN(const Spec spec, resolve_volume(options.target));
  wire::ControlRequest request;
  request.mutable_release()->set_volume(spec.view->volume);
  request.mutable_release()->set_keep_snapshots(options.keep_snapshots);
  request.mutable_release()->set_dry_run(common.dry_run);
  ReleaseResult result;
  {
    CommandSink sink(common, "release " + spec.pool + "/" + spec.view->text(), ProgressUnit::bytes);
    VSNAP_TRY_ASSIGN(const auto reply, ask_pool(spec.pool, std::move(request), sink));
    result = wire::from_wire(reply.release());
  }
  print_result(common, spec, result);
  return 0;
}

} // namespace

void register_release(Program& program) {
  Command command = program.add("release", "POOL/VOL [--keep-snapshots]",
                                "Give the image of an adopted volume back, as it is.", Takes::dry_run);
  auto options = std::make_shared<Options>();
  command.argument("VOLUME", options->target);
  command.flag("--keep-snapshots", options->keep_snapshots,
               "copy to the pool what snapshots see in the image, and keep them");
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
