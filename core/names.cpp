#include "core/names.h"

#include <fmt/format.h>
#include <algorithm>
#include <charconv>

#include "core/units.h"

namespace vsnap {
namespace {

bool name_character(char c) {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
         c == '-';
}

constexpr std::string_view kUnitLetters = "BKMGTPE"; // unit i is 1024^i bytes

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t above = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[b.size()];
}

} // namespace

bool valid_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxNameLength && name[0] != '.' && name[0] != '-' &&
         std::all_of(name.begin(), name.end(), name_character);
}

Result<> check_name(std::string_view what, std::string_view name) {
  if (valid_name(name)) return {};
  if (name.size() > kMaxNameLength) {
    return failure(
        ErrorKind::usage, ENAMETOOLONG,
        fmt::format("{}: {} name is too long (at most {} characters)", quoted(name), what, kMaxNameLength));
  }
  return failure(ErrorKind::usage,
                 fmt::format("{}: bad {} name (use A-Z a-z 0-9 . _ - and do not start with . or -)",
                             quoted(name), what));
}

std::string quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    if (out.size() > 80) return out + "...'";
    if (c >= ' ' && c <= '~' && c != '\'' && c != '\\') {
      out += c;
    } else {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    }
  }
  return out + "'";
}

Result<ViewName> parse_view_name(std::string_view text) {
  const auto at = text.find('@');
  ViewName name{std::string(text.substr(0, at)), {}};
  VSNAP_TRY(check_name("volume", name.volume));
  if (at != std::string_view::npos) {
    name.snapshot = std::string(text.substr(at + 1));
    VSNAP_TRY(check_name("snapshot", name.snapshot));
  }
  return name;
}

Result<Spec> parse_spec(std::string_view text) {
  const auto slash = text.find('/');
  Spec spec{std::string(text.substr(0, slash)), std::nullopt};
  VSNAP_TRY(check_name("pool", spec.pool));
  if (slash != std::string_view::npos) {
    VSNAP_TRY_ASSIGN(spec.view, parse_view_name(text.substr(slash + 1)));
  }
  return spec;
}

Result<std::uint64_t> parse_size(std::string_view text) {
  const auto bad = [&](std::string_view why) {
    return failure(ErrorKind::usage, fmt::format("{}: bad size{}{} (4096, 64K, 20G, 1T; powers of two)",
                                                 quoted(text), why.empty() ? "" : ": ", why));
  };
  std::string_view number = text;
  unsigned shift = 0;
  if (number.ends_with("iB")) { // 20GiB is 20G
    number.remove_suffix(2);
    if (number.empty() || std::string_view("KMGTPE").find(number.back()) == std::string_view::npos)
      return bad("");
  }
  if (!number.empty()) {
    const char letter = static_cast<char>(number.back() >= 'a' ? number.back() - 32 : number.back());
    if (const auto unit = kUnitLetters.find(letter); unit != std::string_view::npos) {
      shift = static_cast<unsigned>(unit) * 10;
      number.remove_suffix(1);
    }
  }
  const auto dot = number.find('.');
  const std::string_view whole_text = number.substr(0, dot);
  std::uint64_t whole = 0;
  const auto [end, code] = std::from_chars(whole_text.data(), whole_text.data() + whole_text.size(), whole);
  if (code == std::errc::result_out_of_range) return bad("too large, at most 8E - 1");
  if (code != std::errc() || end != whole_text.data() + whole_text.size()) return bad("");
  if (whole > (kMaxVolumeBytes >> shift)) return bad("too large, at most 8E - 1");
  std::uint64_t size = whole << shift;
  if (dot != std::string_view::npos) {
    const std::string_view digits = number.substr(dot + 1);
    if (digits.empty() || digits.size() > 9 || shift == 0) return bad("not a whole number of bytes");
    std::uint64_t fraction = 0;
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), fraction);
    if (parsed.ec != std::errc() || parsed.ptr != digits.data() + digits.size()) return bad("");
    // fraction / 10^digits * 2^shift, which is fraction / 5^digits * 2^(shift - digits), has to be whole.
    for (std::size_t i = 0; i < digits.size(); ++i) {
      if (fraction % 5 != 0) return bad("not a whole number of bytes");
      fraction /= 5;
    }
    const auto digit_count = static_cast<unsigned>(digits.size());
    if (digit_count > shift) return bad("not a whole number of bytes"); // shift is 10 or more
    size += fraction << (shift - digit_count);                          // fraction is below 2^digits
    if (size > kMaxVolumeBytes) return bad("too large, at most 8E - 1");
  }
  return size;
}

std::string format_size(std::uint64_t size_bytes) {
  unsigned unit = 0;
  while (unit + 1 < kUnitLetters.size() && size_bytes >= (1ULL << (10 * (unit + 1)))) ++unit;
  if (unit == 0) return fmt::format("{}B", size_bytes);
  const std::uint64_t one = 1ULL << (10 * unit);
  if (size_bytes % one == 0) return fmt::format("{}{}", size_bytes / one, kUnitLetters[unit]);
  const double value = static_cast<double>(size_bytes) / static_cast<double>(one);
  if (value < 9.995) return fmt::format("{:.2f}{}", value, kUnitLetters[unit]);
  if (value < 99.95) return fmt::format("{:.1f}{}", value, kUnitLetters[unit]);
  return fmt::format("{:.0f}{}", value, kUnitLetters[unit]);
}

std::optional<std::string> nearest(std::string_view wrong, const std::vector<std::string>& candidates) {
  std::optional<std::string> best;
  std::size_t best_distance = std::max<std::size_t>(1, wrong.size() / 3) + 1;
  for (const std::string& candidate : candidates) {
    const std::size_t distance = edit_distance(wrong, candidate);
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

} // namespace vsnap
