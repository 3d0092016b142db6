// vsnap rename: gives a volume or a snapshot a new name.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pool_access.h"

namespace vsnap::cli {
namespace {

struct Options {
  std::string from;
  std::string to;
};

// The new name alone, or written out in full, or as a path below the mount; then only the last part may
// differ.
Result<std::string> new_name(const Spec& from, const std::string& text) {
  const auto refused = [&](const char* why) {
    return failure(ErrorKind::usage, fmt::format("{}: {}", vsnap::quoted(text), why));
  };
  const bool is_snapshot = from.view->is_snapshot();
  std::string name = text;
  if (text.find('/') != std::string::npos) {
    VSNAP_TRY_ASSIGN(const Spec to, resolve_view(text, Naming::fresh));
    if (to.pool != from.pool) return refused("a new name is in the same pool");
    if (is_snapshot && !to.view->is_snapshot())
      return refused("a snapshot stays one (write its new name alone)");
    name = to.view->text();
  }
  const auto at = name.find('@');
  if (is_snapshot && at != std::string::npos) {
    if (at != 0 && name.substr(0, at) != from.view->volume)
      return refused("a snapshot stays with its volume");
    name = name.substr(at + 1);
  }
  VSNAP_TRY(check_name(is_snapshot ? "snapshot" : "volume", name));
  return name;
}

Result<int> run(const CommonOptions& common, const Options& options) {
  VSNAP_TRY_ASSIGN(const Spec from, resolve_view(options.from));
  VSNAP_TRY_ASSIGN(const std::string to, new_name(from, options.to));
  wire::ControlRequest request;
  *request.mutable_rename()->mutable_from() = wire::to_wire(*from.view);
  request.mutable_rename()->set_new_name(to);
  VSNAP_TRY(ask_pool(from.pool, std::move(request)));
  const ViewName name = from.view->is_snapshot() ? ViewName{from.view->volume, to} : ViewName{to, {}};
  if (common.json) {
    print_json({{"from", from.pool + "/" + from.view->text()}, {"to", from.pool + "/" + name.text()}});
  } else if (common.verbose) {
    fmt::print("renamed {0}/{1} to {0}/{2}\n", from.pool, from.view->text(), name.text());
  }
  return 0;
}

} // namespace

void register_rename(Program& program) {
  Command command = program.add("rename", "POOL/VOL[@SNAP] NEWNAME", "Rename a volume or a snapshot.");
  auto options = std::make_shared<Options>();
  command.argument("SPEC", options->from);
  command.argument("NEWNAME", options->to);
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
