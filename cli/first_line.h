// The small files of sysfs: one value each, on the first line.
#pragma once

#include <filesystem>
#include <string>

namespace vsnap::cli {

[[nodiscard]] std::string first_line(const std::filesystem::path& path); // empty where it cannot be read

} // namespace vsnap::cli
