#include "core/owner_record.h"

#include <array>
#include <charconv>
#include <cstring>
#include <sstream>
#include <vector>

#include "core/format.h"

namespace vsnap {
namespace {
constexpr std::string_view kHeading = "vsnap-owner-1\n"; // then lines: pid, host, boot id, role
}

Result<> write_owner(File& member, const OwnerRecord& owner) {
  std::ostringstream text;
  text << kHeading << owner.pid << '\n' << owner.host << '\n' << owner.boot_id << '\n' << owner.role << '\n';
  const std::string line = text.str().substr(0, format::kOwnerRecordBytes - 1);
  std::vector<std::byte> raw(format::kOwnerRecordBytes);
  std::memcpy(raw.data(), line.data(), line.size());
  return member.write_at(format::kOwnerRecordOffset, raw);
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
  const auto [end, code] = std::from_chars(pid.data(), pid.data() + pid.size(), owner.pid);
  if (code != std::errc() || end != pid.data() + pid.size() || owner.pid <= 0) return std::nullopt;
  return owner;
}

} // namespace vsnap
