// vsnap hold: keeps snapshots from being removed.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/output.h"
#include "cli/pool_access.h"
#include "cli/tagged_snapshots.h"

namespace vsnap::cli {
namespace {

Result<int> run(const CommonOptions& common, const std::vector<std::string>& words) {
  VSNAP_TRY_ASSIGN(const TaggedSnapshots held, tagged_snapshots(words, "hold"));
  wire::ControlRequest request;
  *request.mutable_hold() = held.request;
  VSNAP_TRY(ask_pool(held.pool, std::move(request)));
  if (common.json) print_json({{"held", held.names}, {"tag", held.request.tag()}});
  if (common.verbose && !common.json) {
    for (const std::string& name : held.names) fmt::print("{}: held by {}\n", name, held.request.tag());
  }
  return 0;
}

} // namespace

void register_hold(Program& program) {
  Command command = program.add("hold", "POOL/VOL@SNAP... TAG",
                                "Keep snapshots from being removed, until the tag is released.");
  auto words = std::make_shared<std::vector<std::string>>();
  command.argument("SNAPSHOT... TAG", *words);
  program.on(command, [words](const CommonOptions& common) { return run(common, *words); });
}

} // namespace vsnap::cli
