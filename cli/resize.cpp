// vsnap resize: makes a volume larger, or with --shrink smaller.
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
  bool shrink = false;
};

Result<int> run(const CommonOptions& common, const Options& options) {
  VSNAP_TRY_ASSIGN(const Spec spec, resolve_volume(options.target));
  VSNAP_TRY_ASSIGN(const std::uint64_t size_bytes, parse_size(options.size));
  wire::ControlRequest request;
  wire::ResizeRequest& resize = *request.mutable_resize();
  resize.set_volume(spec.view->volume);
  resize.set_size_bytes(size_bytes);
  resize.set_allow_shrink(options.shrink);
  resize.set_dry_run(common.dry_run);
  VSNAP_TRY_ASSIGN(const auto reply, ask_pool(spec.pool, std::move(request)));
  const wire::ResizeResult& result = reply.resize();
  const std::string name = spec.pool + "/" + spec.view->text();
  if (common.json) {
    Json out{{"dry_run", common.dry_run},
             {"name", name},
             {"old_size", result.old_size_bytes()},
             {"size", size_bytes}};
    if (common.dry_run) out["data_lost"] = result.cut_bytes();
    print_json(std::move(out));
  } else if (common.dry_run) {
    fmt::print("would resize {} from {} to {}\n", name, format_size(result.old_size_bytes()),
               format_size(size_bytes));
    if (size_bytes < result.old_size_bytes()) {
      fmt::print("would give up {} of data behind the new end (what snapshots share stays with them)\n",
                 format_size(result.cut_bytes()));
    }
  } else if (common.verbose) {
    fmt::print("resized {} from {} to {}\n", name, format_size(result.old_size_bytes()),
               format_size(size_bytes));
  }
  return 0;
}

} // namespace

void register_resize(Program& program) {
  Command command =
      program.add("resize", "POOL/VOL SIZE [--shrink]", "Change the size of a volume.", Takes::dry_run);
  auto options = std::make_shared<Options>();
  command.argument("VOLUME", options->target);
  command.argument("SIZE", options->size);
  command.flag("--shrink", options->shrink, "allow a smaller size: what lies behind it is lost");
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
