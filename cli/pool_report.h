// What `vsnap pool status` and `vsnap info POOL` print.
#pragma once

#include <string>

#include "cli/command.h"

namespace vsnap::cli {

Result<int> report_pool(const CommonOptions& common, const std::string& pool);

} // namespace vsnap::cli
