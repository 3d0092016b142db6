// vsnap set: sets properties of a volume.
#include <fmt/format.h>

#include "cli/command.h"
#include "cli/mount_table.h"
#include "cli/output.h"
#include "cli/pool_access.h"

namespace vsnap::cli {
namespace {

struct Options {
  std::string target;
  std::vector<std::string> settings;
};

Result<int> run(const CommonOptions& common, const Options& options) {
  wire::ControlRequest request;
  for (const std::string& setting : options.settings) {
    const std::size_t equals = setting.find('=');
    if (equals == std::string::npos) {
      return failure(ErrorKind::usage, fmt::format("{}: set to what? (write PROPERTY=VALUE, as in "
                                                   "snapshot-limit=20%)",
                                                   vsnap::quoted(setting)));
    }
    wire::Setting& one = *request.mutable_set_properties()->add_settings();
    one.set_name(setting.substr(0, equals));
    VSNAP_TRY_ASSIGN(const std::string value, checked_property(one.name(), setting.substr(equals + 1)));
    one.set_value(value);
  }
  VSNAP_TRY_ASSIGN(const Spec spec, resolve_volume(options.target));
  request.mutable_set_properties()->set_volume(spec.view->volume);
  const wire::SetPropertiesRequest set = request.set_properties();
  VSNAP_TRY(ask_pool(spec.pool, std::move(request)));
  const std::string name = spec.pool + "/" + spec.view->volume;
  Json properties = Json::array();
  for (const wire::Setting& one : set.settings()) {
    properties.push_back(
        {{"name", name}, {"property", one.name()}, {"value", one.value()}, {"source", "local"}});
    if (common.verbose && !common.json) fmt::print("{}: {}={}\n", name, one.name(), one.value());
  }
  if (common.json) print_json({{"properties", properties}});
  return 0;
}

} // namespace

void register_set(Program& program) {
  Command command = program.add("set", "POOL/VOL PROPERTY=VALUE...",
                                "Set properties of a volume: snapshot-limit=SIZE|PERCENT%|none, "
                                "on-full=error|pause|drop-oldest.");
  auto options = std::make_shared<Options>();
  command.argument("VOLUME", options->target);
  command.argument("SETTING", options->settings);
  program.on(command, [options](const CommonOptions& common) { return run(common, *options); });
}

} // namespace vsnap::cli
