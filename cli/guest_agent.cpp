#include "cli/guest_agent.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <thread>

#include "core/names.h"

namespace vsnap::cli {
namespace {

using std::chrono::milliseconds;

constexpr char kDelimiter = '\xff';              // stands before the answer to guest-sync-delimited
constexpr std::size_t kMostReceived = 64 * 1024; // its answers have some 100 bytes
constexpr milliseconds kPause(50);               // before the next try
constexpr milliseconds kOneTry(3000);            // to thaw

int milliseconds_until(GuestAgent::Clock::time_point deadline) {
  const auto left = std::chrono::ceil<milliseconds>(deadline - GuestAgent::Clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 1'000'000));
}

// false: the time has passed.
bool wait_for(int fd, short events, GuestAgent::Clock::time_point deadline) {
  for (;;) {
    pollfd waiting{fd, events, 0};
    const int ready = ::poll(&waiting, 1, milliseconds_until(deadline));
    if (ready > 0) return true;
    if (ready == 0 || errno != EINTR) return false;
  }
}

} // namespace

Failure GuestAgent::no_answer() const {
  return failure(
      ErrorKind::failed, ETIMEDOUT,
      fmt::format("{}: no answer from a guest agent (is the VM running, and qemu-ga in it?)", socket_));
}

Failure GuestAgent::lost(int errno_value) const {
  return failure(ErrorKind::failed, errno_value,
                 fmt::format("{}: the guest agent: {} (is the VM running, and nobody else connected?)",
                             socket_, std::strerror(errno_value)));
}

Result<std::unique_ptr<GuestAgent>> GuestAgent::connect(const std::string& socket,
                                                        Clock::time_point deadline) {
  std::unique_ptr<GuestAgent> agent(new GuestAgent(socket));
  VSNAP_TRY(agent->open_connection(deadline));
  return agent;
}

Result<> GuestAgent::open_connection(Clock::time_point deadline) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket_.empty() || socket_.size() >= sizeof address.sun_path)
    return failure(ErrorKind::usage, fmt::format("{}: no path of a socket (--qga SOCKET)", socket_));
  socket_.copy(address.sun_path, socket_.size());
  received_.clear();
  connection_.reset(); // QEMU takes one connection at a time
  connection_ = Descriptor(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (connection_.get() < 0) return lost(errno);
  while (::connect(connection_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    if (errno != EAGAIN && errno != EINTR) return lost(errno); // EAGAIN: others wait to be accepted
    if (Clock::now() >= deadline) return no_answer();
    std::this_thread::sleep_for(kPause);
  }
  return synchronise(deadline);
}

pid_t GuestAgent::peer() const {
  ucred credentials{};
  socklen_t size = sizeof credentials;
  if (::getsockopt(connection_.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) return 0;
  return credentials.pid;
}

Result<> GuestAgent::send(std::string text, Clock::time_point deadline) {
  while (!text.empty()) {
    const ssize_t sent = ::send(connection_.get(), text.data(), text.size(), MSG_NOSIGNAL);
    if (sent >= 0) {
      text.erase(0, static_cast<std::size_t>(sent));
    } else if (errno == EAGAIN) {
      if (!wait_for(connection_.get(), POLLOUT, deadline)) return no_answer();
    } else if (errno != EINTR) {
      return lost(errno);
    }
  }
  return {};
}

// What came before `end`; without it.
Result<std::string> GuestAgent::receive_until(char end, Clock::time_point deadline) {
  for (;;) {
    if (const auto at = received_.find(end); at != std::string::npos) {
      std::string text = received_.substr(0, at);
      received_.erase(0, at + 1);
      return text;
    }
    if (received_.size() > kMostReceived) return lost(EPROTO);
    if (!wait_for(connection_.get(), POLLIN, deadline)) return no_answer();
    std::array<char, 4096> buffer{};
    const ssize_t got = ::recv(connection_.get(), buffer.data(), buffer.size(), 0);
    if (got == 0) return lost(ECONNRESET);
    if (got < 0 && errno != EAGAIN && errno != EINTR) return lost(errno);
    if (got > 0) received_.append(buffer.data(), static_cast<std::size_t>(got));
    if (Clock::now() >= deadline) return no_answer(); // also of one that never stops sending
  }
}

// What it had begun to read is dropped at its end, and what it had to say at ours.
Result<> GuestAgent::synchronise(Clock::time_point deadline) {
  const std::uint64_t id =
      static_cast<std::uint64_t>(Clock::now().time_since_epoch().count()) % 1'000'000'000 * 1000 + ++syncs_;
  const Json command = {{"execute", "guest-sync-delimited"}, {"arguments", {{"id", id}}}};
  VSNAP_TRY(send(kDelimiter + command.dump() + "\n", deadline));
  for (;;) {
    VSNAP_TRY(receive_until(kDelimiter, deadline));
    VSNAP_TRY_ASSIGN(const std::string line, receive_until('\n', deadline));
    const Json answer = Json::parse(line, nullptr, false);
    if (answer.is_object() && answer.contains("return") && answer["return"] == id) return {};
  }
}

Result<GuestAgent::Json> GuestAgent::ask(const std::string& command, Clock::time_point deadline) {
  const Json question = {{"execute", command}};
  VSNAP_TRY(send(question.dump() + "\n", deadline));
  VSNAP_TRY_ASSIGN(const std::string line, receive_until('\n', deadline));
  const Json answer = Json::parse(line, nullptr, false);
  if (answer.is_object() && answer.contains("return")) return answer["return"];
  if (answer.is_object() && answer.contains("error")) {
    const Json& error = answer["error"];
    const bool told = error.is_object() && error.contains("desc") && error["desc"].is_string();
    return failure(ErrorKind::failed, EIO,
                   fmt::format("{}: the guest agent refuses {}: {}", socket_, command,
                               vsnap::quoted(told ? error["desc"].get<std::string>() : "no reason given")));
  }
  return failure(ErrorKind::failed, EPROTO,
                 fmt::format("{}: what answers there is no guest agent (--qga takes the socket of the "
                             "channel org.qemu.guest_agent.0)",
                             socket_));
}

Result<std::uint64_t> GuestAgent::freeze(Clock::time_point deadline) {
  VSNAP_TRY_ASSIGN(const Json frozen, ask("guest-fsfreeze-freeze", deadline));
  return frozen.is_number_unsigned() ? frozen.get<std::uint64_t>() : 0;
}

Result<bool> GuestAgent::is_frozen(Clock::time_point deadline) {
  VSNAP_TRY_ASSIGN(const Json status, ask("guest-fsfreeze-status", deadline));
  return status == "frozen";
}

Result<> GuestAgent::thaw(Clock::time_point deadline) {
  for (bool fresh = connection_.get() < 0;; fresh = true) {
    const Clock::time_point until = std::min(deadline, Clock::now() + kOneTry);
    Result<> thawed = fresh ? open_connection(until) : synchronise(until);
    if (thawed) {
      const auto answer = ask("guest-fsfreeze-thaw", until);
      if (answer) return {};
      thawed = Failure(answer.error());
    }
    if (Clock::now() + kPause >= deadline) return thawed;
    std::this_thread::sleep_for(kPause);
  }
}

} // namespace vsnap::cli
