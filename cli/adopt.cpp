// vsnap adopt: makes a volume of an existing image or partition, in place.
#include <fmt/format.h>
#include <filesystem>

#include "cli/command.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pool_access.h"

namespace vsnap::cli {
namespace {

struct Options {
  std::string image;
  std::string target;
  std::string changed;
  bool force = false;
};

// What drop-snapshots loses, by name.
Result<std::vector<std::string>> dropped_by(const Spec& spec) {
  wire::ControlRequest request;
  request.mutable_list()->set_without_figures(true);
  VSNAP_TRY_ASSIGN(const auto reply, ask_pool(spec.pool, std::move(request)));
  std::vector<std::string> names;
  for (const auto& wired : reply.views().views()) {
    const ViewInfo view = wire::from_wire(wired);
    if (view.kind == ViewKind::snapshot && view.name.volume == spec.view->volume)
      names.push_back(spec.pool + "/" + view.name.text());
  }
  return names;
}

// Nothing else that the command does loses anything.
Result<bool> goes_on_without(const CommonOptions& common, const Spec& spec) {
  VSNAP_TRY_ASSIGN(const std::vector<std::string> names, dropped_by(spec));
  std::string text;
  for (const std::string& name : names) text += fmt::format("would remove {}\n", name);
  if (!common.dry_run) {
    VSNAP_TRY(confirm(common, "adopt", text));
    return true;
  }
  if (common.json)
    print_json({{"dry_run", true}, {"removed", names}});
  else
    fmt::print("{}", text);
  return false;
}

Result<int> run(const CommonOptions& common, const Options& options) {
  VSNAP_TRY_ASSIGN(const Spec spec, resolve_volume(options.target, Naming::fresh));
  std::error_code error;
  const std::string path = std::filesystem::absolute(options.image, error).lexically_normal().string();
  if (error) return system_failure(error.value(), options.image);
  wire::ControlRequest request;
  wire::AdoptRequest& adopt = *request.mutable_adopt();
  adopt.set_path(path);
  adopt.set_volume(spec.view->volume);
  adopt.set_force(options.force);
  if (options.changed == "keep") adopt.set_changed(wire::CHANGED_KEEP);
  if (options.changed == "drop-snapshots") {
    adopt.set_changed(wire::CHANGED_DROP_SNAPSHOTS);
    if (common.dry_run || would_ask(common)) {
      VSNAP_TRY_ASSIGN(const bool goes_on, goes_on_without(common, spec));
      if (!goes_on) return 0;
    }
  } else if (common.dry_run) {
    return failure(ErrorKind::usage, "-n: only with --changed=drop-snapshots, as nothing else is lost");
  }
  VSNAP_TRY_ASSIGN(const auto reply, ask_pool(spec.pool, std::move(request)));
  const ViewInfo view = wire::from_wire(reply.view());
  if (common.json) print_json({{"view", view_json(spec.pool, view)}});
  if (common.verbose && !common.json)
    fmt::print("adopted {} as {}/{}\n", view.base, spec.pool, view.name.text());
  return 0;
}

} // namespace

void register_adopt(Program& program) {
  Command command =
      program.add("adopt", "FILE|DEVICE POOL/VOL [--changed=keep|drop-snapshots] [--force]",
                  "Make a volume of an existing raw image or partition, in place. Nothing is copied, and it "
                  "stays a raw image.",
                  Takes::dry_run | Takes::yes);
  auto options = std::make_shared<Options>();
  command.argument("IMAGE", options->image);
  command.argument("VOLUME", options->target);
  command.choice(
      "--changed", options->changed,
      "of a volume adopted before, whose image was changed without vsnap: its snapshots stay, or go", "WHAT",
      {"keep", "drop-snapshots"});
  command.flag("--force", options->force,
               "also a device without a name that lasts, or a file of another format");
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
