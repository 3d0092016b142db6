#include "cli/in_use.h"

#include <fmt/format.h>

#include "cli/holders.h"

namespace vsnap::cli {

Error in_use_error(const std::string& pool, const ViewName& view, const std::string& mount_point) {
  const auto who = holders_of_file(mount_point + "/" + view.text());
  return {ErrorKind::busy, EBUSY,
          fmt::format("{}/{}: in use{}{} (unmount its file systems, vsnap unmap it, stop its VM)", pool,
                      view.text(), who.empty() ? "" : " by ", fmt::join(who, ", "))};
}

Error with_holders(Error error, const std::string& pool, const std::string& mount_point) {
  const auto colon = error.message.find(": in use, ");
  if (error.kind != ErrorKind::busy || colon == std::string::npos) return error;
  const auto spec = parse_spec(error.message.substr(0, colon));
  if (!spec || spec->pool != pool || !spec->view) return error;
  return in_use_error(pool, *spec->view, mount_point);
}

} // namespace vsnap::cli
