// A member as a user names it: a path, and --size for files that do not exist yet.
#pragma once

#include <string>

#include "core/pool.h"

namespace vsnap::cli {

// `size`: as written, empty for none. Refuses a missing file without a size, and what is neither file nor
// block device.
[[nodiscard]] Result<MemberSpec> member_argument(const std::string& path, const std::string& size);

} // namespace vsnap::cli
