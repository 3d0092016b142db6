#include "core/owner_record.h"

#include <array>
#include <charconv>
#include <cstring>
#include <sstream>
#include <vector>

#include "core/format.h"

namespace vsnap {
namespace {
// Then lines: pid, host, boot id, role, and, once there is a mark, its reign and number.
constexpr std::string_view kHeading = "vsnap-owner-1\n";

template <class Number>
bool read_number(const std::string& text, Number& number) {
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
  return code == std::errc() && end == text.data() + text.size();
}

} // namespace

std::vector<std::byte> encode(const OwnerRecord& owner) {
  std::ostringstream text;
  text << kHeading << owner.pid << '\n' << owner.host << '\n' << owner.boot_id << '\n' << owner.role << '\n';
  if (owner.mark.number > 0) text << owner.mark.reign << '\n' << owner.mark.number << '\n';
  const std::string line = text.str().substr(0, format::kOwnerRecordBytes - 1);
  std::vector<std::byte> raw(format::kOwnerRecordBytes);
  std::memcpy(raw.data(), line.data(), line.size());
  return raw;
}

Result<> write_owner(File& member, const OwnerRecord& owner) {
  return member.write_at(format::kOwnerRecordOffset, encode(owner));
}

std::optional<OwnerRecord> read_owner(File& member) {
  std::vector<std::byte> raw(format::kOwnerRecordBytes);
  if (!member.read_at(format::kOwnerRecordOffset, raw)) return std::nullopt;
  std::string text(reinterpret_cast<const char*>(raw.data()), raw.size() - 1);
  if (!text.starts_with(kHeading)) return std::nullopt;
  std::istringstream in(text.substr(kHeading.size()));
  OwnerRecord owner;
  std::string pid;
  if (!std::getline(in, pid) || !std::getline(in, owner.host) || !std::getline(in, owner.boot_id) ||
      !std::getline(in, owner.role)) {
    return std::nullopt;
  }
  if (!read_number(pid, owner.pid) || owner.pid <= 0) return std::nullopt;
  std::string reign, number;
  if (!std::getline(in, reign) || !std::getline(in, number)) return owner;
  MemberMark mark;
  if (read_number(reign, mark.reign) && read_number(number, mark.number)) owner.mark = mark;
  return owner;
}

} // namespace vsnap
