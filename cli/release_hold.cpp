// vsnap release-hold: takes a hold away.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/output.h"
#include "cli/pool_access.h"
#include "cli/tagged_snapshots.h"

namespace vsnap::cli {
namespace {

Result<int> run(const CommonOptions& common, const std::vector<std::string>& words) {
  VSNAP_TRY_ASSIGN(const TaggedSnapshots held, tagged_snapshots(words, "release-hold"));
  wire::ControlRequest request;
  *request.mutable_release_hold() = held.request;
  VSNAP_TRY(ask_pool(held.pool, std::move(request)));
  if (common.json) print_json({{"released", held.names}, {"tag", held.request.tag()}});
  if (common.verbose && !common.json) {
    for (const std::string& name : held.names)
      fmt::print("{}: no longer held by {}\n", name, held.request.tag());
  }
  return 0;
}

} // namespace

void register_release_hold(Program& program) {
  Command command = program.add("release-hold", "POOL/VOL@SNAP... TAG", "Take a hold on snapshots away.");
  auto words = std::make_shared<std::vector<std::string>>();
  command.argument("SNAPSHOT... TAG", *words);
  program.on(command, [words](const CommonOptions& common) { return run(common, *words); });
}

} // namespace vsnap::cli
