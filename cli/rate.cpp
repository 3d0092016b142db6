#include "cli/rate.h"

#include <fmt/format.h>

#include "core/names.h"

namespace vsnap::cli {

Result<std::uint64_t> parse_rate(const std::string& text) {
  if (text == "none") return std::uint64_t{0};
  std::string size = text;
  if (size.ends_with("/s")) size.resize(size.size() - 2);
  auto rate = parse_size(size);
  if (rate && *rate > 0) return rate;
  return failure(ErrorKind::usage, fmt::format("{}: not a rate (bytes a second, such as 10M; none: no limit)",
                                               vsnap::quoted(text)));
}

} // namespace vsnap::cli
