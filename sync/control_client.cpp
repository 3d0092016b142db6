#include "sync/control_client.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <algorithm>
#include <cstring>
#include <zmq.hpp>

namespace vsnap {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kLookEvery(100);
constexpr milliseconds kAskAfter(1500); // whether it still listens: heartbeats come every second
constexpr milliseconds kLastLook(20);   // for what a daemon that is gone said before

// ZeroMQ connects in the background and tries for ever, so whether anybody listens is asked of the socket
// itself.
Result<> somebody_listens(const std::string& path, const std::string& pool) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return failure(ErrorKind::usage, ENAMETOOLONG, path + ": path too long");
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return system_failure(errno, "socket");
  const int failed =
      ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ? errno : 0;
  ::close(fd);
  if (failed == 0 || failed == EAGAIN) return {}; // EAGAIN: its queue of connections is full
  if (failed == ENOENT || failed == ECONNREFUSED) {
    return failure(ErrorKind::not_found, ECONNREFUSED,
                   fmt::format("{}: no daemon listens at {}", pool, path));
  }
  return system_failure(failed, path);
}

class Client final : public ControlClient {
 public:
  explicit Client(Options options) : options_(std::move(options)), dealer_(context_, ZMQ_DEALER) {}

  void open() {
    dealer_.set(zmq::sockopt::linger, 0);
    dealer_.set(zmq::sockopt::rcvhwm,
                0); // a slow terminal must not hold up the daemon: what waits, waits here
    dealer_.set(zmq::sockopt::maxmsgsize, static_cast<std::int64_t>(wire::kMaxMessageBytes));
    dealer_.connect("ipc://" + options_.socket_path);
  }

  Result<wire::ControlReply> call(wire::ControlRequest request, ControlSink& sink) override {
    try {
      return converse(std::move(request), sink);
    } catch (const zmq::error_t& e) {
      return system_failure(e.num(), fmt::format("{}: control socket", options_.pool));
    }
  }

 private:
  Result<wire::ControlReply> converse(wire::ControlRequest request, ControlSink& sink);
  Result<wire::ControlMessage> next_message(Clock::time_point last_heard);
  void send(const wire::ControlRequest& request) {
    dealer_.send(zmq::buffer(request.SerializeAsString()), {});
  }
  [[nodiscard]] bool is_gone(Clock::duration silence) const {
    if (options_.daemon_is_alive && !options_.daemon_is_alive()) return true;
    if (silence < kAskAfter) return false;
    const auto listens = somebody_listens(options_.socket_path, options_.pool);
    return !listens && listens.error().errno_value == ECONNREFUSED;
  }
  [[nodiscard]] Failure no_answer(int errno_value, std::string_view why) const {
    return failure(ErrorKind::no_answer, errno_value,
                   fmt::format("{}: {}: whether it was done is not known (vsnap info and vsnap ls "
                               "tell, once it answers)",
                               options_.pool, why));
  }

  const Options options_;
  zmq::context_t context_{1};
  zmq::socket_t dealer_;
  bool unusable_ = false;
};

Result<wire::ControlMessage> Client::next_message(Clock::time_point last_heard) {
  bool gone = false;
  for (;;) {
    zmq::pollitem_t item{dealer_.handle(), 0, ZMQ_POLLIN, 0};
    try {
      zmq::poll(&item, 1, gone ? kLastLook : std::min(kLookEvery, options_.silence_limit));
    } catch (const zmq::error_t& e) {
      if (e.num() != EINTR) throw;
    }
    zmq::message_t raw;
    if (dealer_.recv(raw, zmq::recv_flags::dontwait)) {
      wire::ControlMessage message;
      if (!raw.more() && message.ParseFromArray(raw.data(), static_cast<int>(raw.size()))) return message;
      return no_answer(ETIMEDOUT, "the daemon's answer makes no sense");
    }
    if (gone) return no_answer(ECONNRESET, "the daemon ended while it was asked");
    const auto silence = Clock::now() - last_heard;
    gone = is_gone(silence);
    if (!gone && silence >= options_.silence_limit) {
      return no_answer(ETIMEDOUT,
                       fmt::format("no answer from the daemon for {} s",
                                   std::chrono::ceil<std::chrono::seconds>(options_.silence_limit).count()));
    }
  }
}

Result<wire::ControlReply> Client::converse(wire::ControlRequest request, ControlSink& sink) {
  if (unusable_) return no_answer(ETIMEDOUT, "no answer to an earlier request");
  unusable_ = true; // until the reply is here
  request.set_version(wire::kProtocolVersion);
  send(request);
  std::uint64_t done = 0;
  std::uint64_t total = 0;
  bool go_on = true;
  bool asked_to_stop = false;
  for (;;) {
    VSNAP_TRY_ASSIGN(const wire::ControlMessage message, next_message(Clock::now()));
    if (message.version() != wire::kProtocolVersion) {
      return failure(
          ErrorKind::failed, EPROTO,
          fmt::format(
              "{}: the daemon speaks control protocol version {}, this command {} (use the command of "
              "the daemon's release, or mount anew)",
              options_.pool, message.version(), wire::kProtocolVersion));
    }
    switch (message.content_case()) {
      case wire::ControlMessage::kReply:
        unusable_ = false;
        return message.reply();
      case wire::ControlMessage::kProgress:
        done = message.progress().done();
        total = message.progress().total();
        go_on = sink.progress(done, total);
        break;
      case wire::ControlMessage::kHeartbeat:
        go_on = sink.progress(done, total);
        break;
      case wire::ControlMessage::kDiff: {
        std::vector<DiffRange> ranges;
        for (const wire::DiffRange& range : message.diff().ranges()) ranges.push_back(wire::from_wire(range));
        go_on = asked_to_stop || sink.diff(ranges);
        break;
      }
      case wire::ControlMessage::CONTENT_NOT_SET:
        break;
    }
    if (!go_on && !asked_to_stop) {
      asked_to_stop = true;
      wire::ControlRequest cancel;
      cancel.set_version(wire::kProtocolVersion);
      cancel.mutable_cancel();
      send(cancel);
    }
  }
}

} // namespace

Result<std::unique_ptr<ControlClient>> ControlClient::connect(Options options) {
  VSNAP_TRY(somebody_listens(options.socket_path, options.pool));
  try {
    auto client = std::make_unique<Client>(std::move(options));
    client->open();
    return client;
  } catch (const zmq::error_t& e) {
    return system_failure(e.num(), "control socket");
  }
}

} // namespace vsnap
