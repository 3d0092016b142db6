#include "cli/duration.h"

#include <fmt/format.h>
#include <charconv>
#include <cmath>

#include "core/names.h"

namespace vsnap::cli {
namespace {

constexpr double kSecond = 1e9;
constexpr double kLongest = 100.0 * 365 * 86'400 * kSecond;

double unit_of(std::string_view text) {
  if (text == "ms") return kSecond / 1000;
  if (text.empty() || text == "s") return kSecond;
  if (text == "m") return 60 * kSecond;
  if (text == "h") return 3600 * kSecond;
  if (text == "d") return 86'400 * kSecond;
  return 0;
}

} // namespace

Result<std::int64_t> parse_duration(const std::string& text) {
  double number = 0;
  const char* const end = text.data() + text.size();
  const auto [at, code] = std::from_chars(text.data(), end, number, std::chars_format::fixed);
  const double ns = number * unit_of({at, static_cast<std::size_t>(end - at)});
  if (code != std::errc() || !std::isfinite(ns) || ns < 1 || ns > kLongest) {
    return failure(
        ErrorKind::usage,
        fmt::format("{}: a length of time is needed, as 500ms, 90s, 10m, 1h or 2d", vsnap::quoted(text)));
  }
  return static_cast<std::int64_t>(std::llround(ns));
}

std::string format_duration(std::int64_t ns) {
  const std::int64_t seconds = ns / 1'000'000'000;
  if (seconds < 10) return fmt::format("{}.{}s", seconds, ns / 100'000'000 % 10);
  if (seconds < 100) return fmt::format("{}s", seconds);
  if (seconds < 100 * 60) return fmt::format("{}m", seconds / 60);
  if (seconds < 48 * 3600) return fmt::format("{}h", seconds / 3600);
  return fmt::format("{}d", seconds / 86'400);
}

} // namespace vsnap::cli
