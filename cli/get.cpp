// vsnap get: lists properties of volumes.
#include <fmt/format.h>
#include <algorithm>

#include "cli/command.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pool_access.h"

namespace vsnap::cli {
namespace {

struct Options {
  std::string target;
  std::vector<std::string> names;
};

Table make_table() { return Table({{"name"}, {"property"}, {"value"}, {"source"}}); }

// A size is shown as sizes are; exact, it is bytes.
Cell value_cell(const std::string& value) {
  if (!std::all_of(value.begin(), value.end(), [](char c) { return c >= '0' && c <= '9'; }))
    return Cell::text(value);
  const auto size = parse_size(value);
  return size ? Cell{format_size(*size), value, value} : Cell::text(value);
}

Result<int> run(const CommonOptions& common, const Options& options) {
  Table table = make_table();
  VSNAP_TRY(table.check(common));
  wire::ControlRequest request;
  request.mutable_get_properties();
  for (const std::string& name : options.names) {
    VSNAP_TRY(check_property_name(name));
    request.mutable_get_properties()->add_names(name);
  }
  VSNAP_TRY_ASSIGN(const Spec spec, resolve_target(options.target));
  if (spec.view && spec.view->is_snapshot()) {
    return failure(ErrorKind::usage, fmt::format("{0}/{1}: only volumes have properties (vsnap get {0}/{2})",
                                                 spec.pool, spec.view->text(), spec.view->volume));
  }
  if (spec.view) request.mutable_get_properties()->set_volume(spec.view->volume);
  VSNAP_TRY_ASSIGN(const auto reply, ask_pool(spec.pool, std::move(request)));
  for (const wire::PropertyInfo& property : reply.properties().properties()) {
    table.add({Cell::text(spec.pool + "/" + property.volume()), Cell::text(property.name()),
               value_cell(property.value()), Cell::text(property.is_set() ? "local" : "default")});
  }
  VSNAP_TRY(table.print(common, "properties"));
  return 0;
}

} // namespace

void register_get(Program& program) {
  Command command =
      program.add("get", "POOL | POOL/VOL [PROPERTY...]", "List properties of volumes.", Takes::list);
  auto options = std::make_shared<Options>();
  command.columns(make_table().names());
  command.argument("TARGET", options->target);
  command.argument("PROPERTY", options->names, Command::Need::optional);
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
