// A length of time as a user writes it. Threads: any; pure functions.
#pragma once

#include <cstdint>
#include <string>

#include "core/error.h"

namespace vsnap::cli {

// "500ms", "90s", "10m", "1.5h", "2d"; a number alone is seconds. Nanoseconds, more than 0; kind usage.
[[nodiscard]] Result<std::int64_t> parse_duration(const std::string& text);
// "0.3s", "9.8s", "42s", "59m", "23h", "6d": what is left, rounded down.
[[nodiscard]] std::string format_duration(std::int64_t ns);

} // namespace vsnap::cli
