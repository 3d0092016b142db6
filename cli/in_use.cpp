#include "cli/in_use.h"

#include <fmt/format.h>

#include "cli/holders.h"

namespace vsnap::cli {

Error in_use_error(const std::string& pool, const ViewName& view, const std::string& mount_point) {
  std::string who;
  for (const std::string& holder : holders_of_file(mount_point + "/" + view.text()))
    who += (who.empty() ? "" : ", ") + holder;
  return {ErrorKind::busy, EBUSY,
          fmt::format("{}/{}: in use{} (unmount its file systems, vsnap unmap it, stop its VM)", pool,
                      view.text(), who.empty() ? "" : " by " + who)};
}

Error with_holders(Error error, const std::string& pool, const std::string& mount_point) {
  const auto colon = error.message.find(": in use, ");
  if (error.kind != ErrorKind::busy || colon == std::string::npos) return error;
  const auto spec = parse_spec(error.message.substr(0, colon));
  if (!spec || spec->pool != pool || !spec->view) return error;
  return in_use_error(pool, *spec->view, mount_point);
}

} // namespace vsnap::cli
