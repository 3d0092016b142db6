#include "sync/invitation_token.h"

#include <fmt/format.h>
#include <charconv>
#include <span>

#include "core/names.h"
#include "core/superblock.h"
#include "sync/sharing.pb.h"

namespace vsnap {
namespace invitation_token {
namespace {

constexpr std::string_view kPrefix = "vsnap-join-1.";
constexpr std::size_t kLongest = 4096;
constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

// Base 64 with the alphabet for names of files (RFC 4648, 5), not padded.
std::string encoded(std::string_view bytes) {
  std::string out;
  std::uint32_t bits = 0;
  int count = 0;
  for (const char byte : bytes) {
    bits = bits << 8U | static_cast<unsigned char>(byte);
    for (count += 8; count >= 6; count -= 6) out += kDigits[bits >> (count - 6) & 63U];
  }
  if (count > 0) out += kDigits[bits << (6 - count) & 63U];
  return out;
}

bool decode(std::string_view text, std::string& out) {
  std::uint32_t bits = 0;
  int count = 0;
  for (const char digit : text) {
    const auto value = kDigits.find(digit);
    if (value == std::string_view::npos) return false;
    bits = bits << 6U | static_cast<std::uint32_t>(value);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    out += static_cast<char>(bits >> count & 255U);
  }
  return true;
}

std::string crc_of(std::string_view bytes) {
  return fmt::format("{:08x}", crc32c(std::as_bytes(std::span(bytes))));
}

Failure no_token() {
  return failure(ErrorKind::usage,
                 "host join: that is no token of vsnap host invite, or not the whole of one");
}

template <class Array>
bool take(const std::string& bytes, Array& out) {
  if (bytes.size() != out.size()) return false;
  std::copy(bytes.begin(), bytes.end(), out.begin());
  return true;
}

} // namespace

std::string text_of(const InvitationToken& token) {
  wire::Token message;
  message.set_address(token.address);
  message.set_server_key(token.server_key.data(), token.server_key.size());
  message.set_pool(token.pool);
  message.set_pool_uuid(token.pool_uuid.data(), token.pool_uuid.size());
  message.set_secret_key(token.secret_key.data(), token.secret_key.size());
  message.set_expires_ns(token.expires_ns);
  const std::string bytes = message.SerializeAsString();
  return fmt::format("{}{}", kPrefix, encoded(bytes + crc_of(bytes)));
}

Result<InvitationToken> from_text(std::string_view text) {
  std::string bytes;
  if (text.size() > kLongest || !text.starts_with(kPrefix) || !decode(text.substr(kPrefix.size()), bytes))
    return no_token();
  const std::size_t crc_length = crc_of({}).size();
  if (bytes.size() < crc_length) return no_token();
  const std::string crc = bytes.substr(bytes.size() - crc_length);
  bytes.resize(bytes.size() - crc_length);
  wire::Token message;
  if (crc_of(bytes) != crc || !message.ParseFromString(bytes)) return no_token();
  InvitationToken token;
  token.address = message.address();
  token.pool = message.pool();
  token.expires_ns = message.expires_ns();
  if (!take(message.server_key(), token.server_key) || !take(message.pool_uuid(), token.pool_uuid) ||
      !take(message.secret_key(), token.secret_key) || !valid_name(token.pool))
    return no_token();
  VSNAP_TRY(check_address("host join", token.address));
  return token;
}

} // namespace invitation_token

Result<> check_address(std::string_view what, const std::string& address) {
  const auto refused = [&](std::string_view why) {
    return failure(ErrorKind::usage, fmt::format("{}: {}: {}", what, vsnap::quoted(address), why));
  };
  constexpr std::string_view kScheme = "tcp://";
  const auto colon = address.rfind(':');
  if (!address.starts_with(kScheme) || colon == std::string::npos || colon <= kScheme.size())
    return refused("an address is tcp://ADDRESS:PORT");
  const std::string host = address.substr(kScheme.size(), colon - kScheme.size());
  constexpr std::string_view kAllowed =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_%:[]";
  if (host.find_first_not_of(kAllowed) != std::string::npos || host.size() > 255)
    return refused("that is no address");
  if (host.find(':') != std::string::npos && !(host.front() == '[' && host.back() == ']'))
    return refused("an address of IPv6 stands in brackets, as in tcp://[fd00::1]:7800");
  if (host == "0.0.0.0" || host == "[::]" || host == "[0::0]")
    return refused("the one address that the other hosts connect to is needed");
  std::uint32_t port = 0;
  const char* const end = address.data() + address.size();
  const auto [at, code] = std::from_chars(address.data() + colon + 1, end, port);
  if (code != std::errc() || at != end || port == 0 || port > 65535)
    return refused("a port from 1 to 65535 is needed");
  return {};
}

} // namespace vsnap
