// vsnap resize: makes a volume larger, or with --shrink smaller.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/in_use.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pause.h"
#include "cli/pool_access.h"
#include "core/units.h"

namespace vsnap::cli {
namespace {

struct Options {
  std::string target;
  std::string size;
  std::string size_option; // hidden: as create has it
  bool shrink = false;
};

// "+1G" and "-1G" count from the size now.
Result<std::uint64_t> wanted_size(const std::string& text, std::uint64_t now_bytes) {
  if (!text.starts_with('+') && !text.starts_with('-')) return parse_size(text);
  VSNAP_TRY_ASSIGN(const std::uint64_t by, parse_size(text.substr(1)));
  if (text.starts_with('-') ? by > now_bytes : by > kMaxVolumeBytes - now_bytes) {
    return failure(ErrorKind::usage,
                   fmt::format("{}: out of range, the size is {} now", text, format_size(now_bytes)));
  }
  return text.starts_with('-') ? now_bytes - by : now_bytes + by;
}

wire::ControlRequest make_request(const Spec& spec, const Options& options, std::uint64_t size_bytes,
                                  bool dry_run) {
  wire::ControlRequest request;
  wire::ResizeRequest& resize = *request.mutable_resize();
  resize.set_volume(spec.view->volume);
  resize.set_size_bytes(size_bytes);
  resize.set_allow_shrink(options.shrink);
  resize.set_dry_run(dry_run);
  return request;
}

std::string plan_text(const std::string& name, const wire::ResizeResult& plan) {
  std::string out = fmt::format("would resize {} from {} to {}\n", name, format_size(plan.old_size_bytes()),
                                format_size(plan.new_size_bytes()));
  if (plan.new_size_bytes() < plan.old_size_bytes()) {
    out += fmt::format("would give up {} of data behind the new end (what snapshots share stays with them)\n",
                       format_size(plan.cut_bytes()));
  }
  return out;
}

// A shrink under a file system or VM that is running destroys more than what lies behind the end.
Result<> check_shrink(const CommonOptions& common, const Options& options, const Spec& spec,
                      std::uint64_t size_bytes, std::uint64_t open_handles, PoolAccess& access) {
  if (open_handles > 0 && access.daemon())
    return Failure(in_use_error(spec.pool, *spec.view, access.daemon()->mount_point));
  if (!would_ask(common)) return {};
  VSNAP_TRY_ASSIGN(const auto reply, access.call(make_request(spec, options, size_bytes, true)));
  if (reply.resize().cut_bytes() == 0) return {};
  return confirm(common, "resize", plan_text(spec.pool + "/" + spec.view->text(), reply.resize()));
}

Result<int> run(const CommonOptions& common, const Options& options) {
  VSNAP_TRY_ASSIGN(const Spec spec, resolve_volume(options.target));
  if (!options.size_option.empty() || options.size.empty()) {
    return failure(ErrorKind::usage,
                   options.size_option.empty()
                       ? fmt::format("resize: a size is needed (vsnap resize {} SIZE)", options.target)
                       : fmt::format("resize: the size stands alone (vsnap resize {} {})", options.target,
                                     options.size_option));
  }
  if (options.size.find_first_of("+-") != 0) VSNAP_TRY(parse_size(options.size)); // before any pool is opened
  VSNAP_TRY_ASSIGN(PoolAccess access, PoolAccess::open(spec.pool));
  VSNAP_TRY_ASSIGN(const ViewInfo volume, access.info(*spec.view));
  VSNAP_TRY_ASSIGN(const std::uint64_t size_bytes, wanted_size(options.size, volume.size_bytes));
  if (options.shrink && size_bytes < volume.size_bytes)
    VSNAP_TRY(check_shrink(common, options, spec, size_bytes, volume.open_handles, access));
  VSNAP_TRY_ASSIGN(const auto reply, access.call(make_request(spec, options, size_bytes, common.dry_run)));
  VSNAP_TRY(access.close());
  const wire::ResizeResult& result = reply.resize();
  const std::string name = spec.pool + "/" + spec.view->text();
  if (common.json) {
    Json out{{"dry_run", common.dry_run},
             {"name", name},
             {"old_size", result.old_size_bytes()},
             {"size", size_bytes}};
    if (common.dry_run) out["data_lost"] = result.cut_bytes();
    add_pause(out, reply);
    print_json(std::move(out));
  } else if (common.dry_run) {
    fmt::print("{}", plan_text(name, result));
  } else if (common.verbose) {
    fmt::print("resized {} from {} to {}\n{}", name, format_size(result.old_size_bytes()),
               format_size(size_bytes), pause_text(name, reply));
  }
  return 0;
}

} // namespace

void register_resize(Program& program) {
  Command command = program.add("resize", "POOL/VOL [+|-]SIZE [--shrink]", "Change the size of a volume.",
                                Takes::dry_run | Takes::yes);
  auto options = std::make_shared<Options>();
  command.argument("VOLUME", options->target);
  command.argument("SIZE", options->size, Command::Need::optional);
  command.hidden_option("--size", options->size_option);
  command.flag("--shrink", options->shrink, "allow a smaller size: what lies behind it is lost");
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
