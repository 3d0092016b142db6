#include "cli/new_volume_argument.h"

#include <fmt/format.h>

#include "cli/mount_table.h"

namespace vsnap::cli {

Result<NewVolume> resolve_new_volume(const NewVolumeArguments& arguments, const std::string& command) {
  if (arguments.from.find('@') == std::string::npos && arguments.to.find('@') != std::string::npos) {
    return failure(ErrorKind::usage, fmt::format("{0}: the snapshot comes first (vsnap {0} {1} {2})", command,
                                                 arguments.to, arguments.from));
  }
  VSNAP_TRY_ASSIGN(const Spec from, resolve_view(arguments.from));
  std::string name = arguments.to;
  if (name.find('/') != std::string::npos) {
    VSNAP_TRY_ASSIGN(const Spec to, resolve_volume(name, Naming::fresh));
    if (to.pool != from.pool) {
      return failure(
          ErrorKind::usage,
          fmt::format("{}: the volume stays in the pool of its snapshot, {}", name, from.pool));
    }
    name = to.view->volume;
  }
  VSNAP_TRY(check_name("volume", name));
  return NewVolume{from.pool, *from.view, std::move(name)};
}

} // namespace vsnap::cli
