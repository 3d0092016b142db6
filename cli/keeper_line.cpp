#include "cli/keeper_line.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <nlohmann/json.hpp>
#include <span>

#include "core/names.h"

namespace vsnap::cli {
namespace {

constexpr std::size_t kLongest = 1U << 16;    // of a message
constexpr std::size_t kMostDescriptors = 100; // in a message; the kernel takes 253

// The words of a message: the word, then the text.
bool send_message(int socket, Word word, const std::string& text, std::span<const int> descriptors) {
  std::string content(1, static_cast<char>(word));
  content += text.substr(0, kLongest - 1);
  iovec part{content.data(), content.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMostDescriptors * sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!descriptors.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(header), descriptors.data(), descriptors.size_bytes());
  }
  ssize_t sent = 0;
  do sent = ::sendmsg(socket, &message, MSG_NOSIGNAL);
  while (sent < 0 && errno == EINTR);
  return sent == static_cast<ssize_t>(content.size());
}

} // namespace

KeeperLine::~KeeperLine() {
  if (socket_ >= 0) ::close(socket_);
}

Result<KeeperLine::Ends> KeeperLine::make() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
    return system_failure(errno, "socketpair");
  return Ends{KeeperLine(ends[0]), KeeperLine(ends[1])};
}

bool KeeperLine::send(Word word, const std::string& text) const {
  return send_message(socket_, word, text, {});
}

bool KeeperLine::send_descriptors(Word word, const std::vector<int>& descriptors) const {
  for (std::size_t at = 0; at < descriptors.size(); at += kMostDescriptors) {
    const auto some = std::span(descriptors).subspan(at, std::min(kMostDescriptors, descriptors.size() - at));
    if (!send_message(socket_, word, {}, some)) return false;
  }
  return true;
}

void KeeperLine::wait(std::chrono::milliseconds longest) const {
  pollfd answer{.fd = socket_, .events = POLLIN, .revents = 0};
  if (::poll(&answer, 1, static_cast<int>(longest.count())) == 1) static_cast<void>(receive());
}

std::optional<KeeperMessage> KeeperLine::receive() const {
  std::string content(kLongest, '\0');
  iovec part{content.data(), content.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMostDescriptors * sizeof(int))> control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  ssize_t length = 0;
  do length = ::recvmsg(socket_, &message, MSG_CMSG_CLOEXEC);
  while (length < 0 && errno == EINTR);
  if (length <= 0) return std::nullopt;
  KeeperMessage out{
      static_cast<Word>(content.front()), content.substr(1, static_cast<std::size_t>(length) - 1), {}};
  for (cmsghdr* at = CMSG_FIRSTHDR(&message); at != nullptr; at = CMSG_NXTHDR(&message, at)) {
    if (at->cmsg_level != SOL_SOCKET || at->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (at->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    const std::size_t before = out.descriptors.size();
    out.descriptors.resize(before + count);
    std::memcpy(out.descriptors.data() + before, CMSG_DATA(at), count * sizeof(int));
  }
  if ((message.msg_flags & MSG_CTRUNC) == 0) return out;
  for (const int fd : out.descriptors) ::close(fd); // not all came: this process may have no more
  return std::nullopt;
}

Result<std::string> text_of(const DaemonOptions& options) {
  const auto json = nlohmann::json{{"pool", options.pool},
                                   {"members", options.members},
                                   {"uuid", options.uuid},
                                   {"mount_point", options.mount_point},
                                   {"allow_other", options.allow_other},
                                   {"debug", options.debug},
                                   {"io_uring", options.io_uring},
                                   {"direct", options.direct},
                                   {"degraded", options.degraded},
                                   {"restart", options.restart},
                                   {"background", options.background},
                                   {"threads", options.threads},
                                   {"cache_bytes", options.cache_bytes},
                                   {"joined", options.joined},
                                   {"only", options.only},
                                   {"listen", options.listen},
                                   {"lease_ns", options.lease_ns},
                                   {"fence", options.fence},
                                   {"descriptors", options.descriptors},
                                   {"held_members", options.held_members},
                                   {"keeper_pid", options.keeper_pid}};
  try {
    return json.dump();
  } catch (const nlohmann::json::exception&) {
    return failure(ErrorKind::usage, fmt::format("{}: a path, or the fence command, is not UTF-8",
                                                 vsnap::quoted(options.mount_point)));
  }
}

Result<DaemonOptions> options_of(const std::string& text) {
  const auto json = nlohmann::json::parse(text, nullptr, false);
  try {
    DaemonOptions options;
    options.pool = json.at("pool").get<std::string>();
    options.members = json.at("members").get<std::vector<std::string>>();
    options.uuid = json.at("uuid").get<std::string>();
    options.mount_point = json.at("mount_point").get<std::string>();
    options.allow_other = json.value("allow_other", false);
    options.debug = json.value("debug", false);
    options.io_uring = json.value("io_uring", false);
    options.direct = json.value("direct", false);
    options.degraded = json.value("degraded", false);
    options.restart = json.value("restart", true);
    options.background = json.value("background", false);
    options.threads = json.value("threads", 0U);
    options.cache_bytes = json.value("cache_bytes", std::uint64_t{0});
    options.joined = json.value("joined", false);
    options.only = json.value("only", std::vector<std::string>{});
    options.listen = json.value("listen", "");
    options.lease_ns = json.value("lease_ns", std::int64_t{0});
    options.fence = json.value("fence", "");
    options.descriptors = json.value("descriptors", std::size_t{0});
    options.held_members = json.value("held_members", std::size_t{0});
    options.keeper_pid = json.value("keeper_pid", std::int64_t{0});
    return options;
  } catch (const nlohmann::json::exception& e) {
    return failure(ErrorKind::failed, EPROTO, fmt::format("serve: what the keeper says: {}", e.what()));
  }
}

std::string text_of(const Error& error) {
  return fmt::format("{} {}", static_cast<int>(error.kind), error.message);
}

Error error_of(const std::string& text) {
  const auto blank = text.find(' ');
  int kind = static_cast<int>(ErrorKind::failed);
  std::from_chars(text.data(), text.data() + text.size(), kind);
  return {static_cast<ErrorKind>(kind), 0, blank == std::string::npos ? text : text.substr(blank + 1)};
}

} // namespace vsnap::cli
