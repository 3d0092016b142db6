// vsnap copy: holds, lets go on, and limits the copying of a full-sized snapshot.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pool_access.h"
#include "cli/rate.h"

namespace vsnap::cli {
namespace {

struct Options {
  std::string target;
  std::string rate;
};

using Change = std::function<Result<>(wire::SetCopyRequest& request)>;

Result<int> run(const CommonOptions& common, const std::string& target, const Change& change) {
  VSNAP_TRY_ASSIGN(const Spec spec, resolve_view(target));
  wire::ControlRequest request;
  *request.mutable_set_copy()->mutable_name() = wire::to_wire(*spec.view);
  VSNAP_TRY(change(*request.mutable_set_copy()));
  VSNAP_TRY_ASSIGN(const auto reply, ask_pool(spec.pool, std::move(request)));
  const ViewInfo view = wire::from_wire(reply.view());
  if (common.json) print_json({{"view", view_json(spec.pool, view)}});
  if (common.verbose && !common.json)
    fmt::print("{}/{}: {}\n", spec.pool, view.name.text(), view.state.empty() ? "complete" : view.state);
  return 0;
}

void register_switch(Program& program, const std::string& name, const std::string& description, bool paused) {
  Command command = program.add(name, "SPEC", description, Takes::nothing, "copy");
  auto target = std::make_shared<std::string>();
  command.argument("SPEC", *target);
  program.on(command, [target, paused](const CommonOptions& common) {
    return run(common, *target, [paused](wire::SetCopyRequest& request) -> Result<> {
      request.set_paused(paused);
      return {};
    });
  });
}

} // namespace

void register_copy(Program& program) {
  register_switch(program, "pause", "Hold the copying of a full-sized snapshot.", true);
  register_switch(program, "resume", "Let it go on, now.", false);
  Command command = program.add("limit", "SPEC RATE", "Say how fast it may be.", Takes::nothing, "copy");
  auto options = std::make_shared<Options>();
  command.argument("SPEC", options->target);
  command.argument("RATE", options->rate);
  program.on(command, [options](const CommonOptions& common) {
    return run(common, options->target, [&](wire::SetCopyRequest& request) -> Result<> {
      VSNAP_TRY_ASSIGN(const std::uint64_t rate, parse_rate(options->rate));
      request.set_bytes_per_second(rate);
      return {};
    });
  });
}

} // namespace vsnap::cli
