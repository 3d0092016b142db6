// vsnap create: makes a thin volume.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pool_access.h"

namespace vsnap::cli {
namespace {

struct Options {
  std::string target;
  std::string size;
  std::string extra; // a size without --size
};

Result<int> run(const CommonOptions& common, const Options& options) {
  if (options.size.empty() || !options.extra.empty()) {
    const bool forgotten = options.size.empty();
    return failure(ErrorKind::usage,
                   fmt::format("create: {} (vsnap create {} --size {})",
                               forgotten ? "a size is needed" : "one volume, and one size", options.target,
                               !forgotten              ? options.size
                               : options.extra.empty() ? "20G"
                                                       : options.extra));
  }
  VSNAP_TRY_ASSIGN(const Spec spec, resolve_volume(options.target, Naming::fresh));
  VSNAP_TRY_ASSIGN(const std::uint64_t size_bytes, parse_size(options.size));
  wire::ControlRequest request;
  request.mutable_create_volume()->set_name(spec.view->volume);
  request.mutable_create_volume()->set_size_bytes(size_bytes);
  VSNAP_TRY_ASSIGN(const auto reply, ask_pool(spec.pool, std::move(request)));
  if (common.json) print_json({{"view", view_json(spec.pool, wire::from_wire(reply.view()))}});
  if (common.verbose && !common.json) fmt::print("created {}/{}\n", spec.pool, spec.view->text());
  return 0;
}

} // namespace

void register_create(Program& program) {
  Command command = program.add("create", "POOL/VOL --size SIZE", "Make a thin volume.");
  auto options = std::make_shared<Options>();
  command.argument("VOLUME", options->target);
  command.option("--size", options->size, "its size: 4096, 64K, 20G, 1T", "SIZE");
  command.argument("EXTRA", options->extra, Command::Need::optional);
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
