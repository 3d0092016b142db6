// Names and sizes as people write them.
//
// A name is 1 to 63 of A-Za-z0-9._- and starts with neither '.' nor '-'. Everything that reaches a path, a
// log or the catalog as a name went through valid_name() first. Pure functions; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace vsnap {

inline constexpr std::size_t kMaxNameLength = 63;

[[nodiscard]] bool valid_name(std::string_view name);
// As valid_name(), as an error that says what is wrong; ENAMETOOLONG or EINVAL.
[[nodiscard]] Result<> check_name(std::string_view what, std::string_view name);
// Safe to print: control characters and bytes outside ASCII escaped, at most 80 characters, in single quotes.
[[nodiscard]] std::string quoted(std::string_view text);

// VOLUME or VOLUME@SNAPSHOT within one pool; also the name of its file under the mount.
struct ViewName {
  std::string volume;
  std::string snapshot; // empty: the volume itself
  [[nodiscard]] bool is_snapshot() const { return !snapshot.empty(); }
  [[nodiscard]] std::string text() const { return is_snapshot() ? volume + "@" + snapshot : volume; }
  bool operator==(const ViewName&) const = default;
};
[[nodiscard]] Result<ViewName> parse_view_name(std::string_view text);

// POOL, POOL/VOLUME or POOL/VOLUME@SNAPSHOT.
struct Spec {
  std::string pool;
  std::optional<ViewName> view;
};
[[nodiscard]] Result<Spec> parse_spec(std::string_view text);

// "4096", "64K", "20G", "1.5T", "100B", "64KiB": powers of two, at most 8 EiB - 1. No sign, no blanks.
[[nodiscard]] Result<std::uint64_t> parse_size(std::string_view text);
// "1.5G", "64K", "100B": at most four characters of number, exact where it is a whole number of units.
[[nodiscard]] std::string format_size(std::uint64_t size_bytes);

// The candidate nearest to `wrong` (edit distance at most a third of its length, at least one), for "did you
// mean".
[[nodiscard]] std::optional<std::string> nearest(std::string_view wrong,
                                                 const std::vector<std::string>& candidates);

} // namespace vsnap
