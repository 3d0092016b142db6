// A rate as a user writes it: a size for each second, or "none". Threads: any; pure functions.
#pragma once

#include <cstdint>
#include <string>

#include "core/error.h"

namespace vsnap::cli {

// Bytes a second; 0: no limit.
[[nodiscard]] Result<std::uint64_t> parse_rate(const std::string& text);

} // namespace vsnap::cli
