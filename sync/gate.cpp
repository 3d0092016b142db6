#include "sync/gate.h"

#include <fmt/format.h>
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>
#include <zmq.hpp>

#include "core/log.h"

namespace vsnap {
namespace {

constexpr const char* kEndpoint = "inproc://zeromq.zap.01"; // RFC 27
constexpr const char* kDomain = "vsnap";
// ZMQ_ZAP_ENFORCE_DOMAIN: libzmq 4.3 has it, zmq.h names it only among what may still change.
constexpr int kEnforceDomain = 93;
constexpr const char* kStop = "inproc://vsnap.gate.stop";

using Parts = std::vector<std::string>;

class Handler final : public Gate {
 public:
  Handler(zmq::context_t& context, Admits admits)
      : admits_(std::move(admits)),
        socket_(context, ZMQ_REP),
        stop_(context, ZMQ_PAIR),
        stopped_(context, ZMQ_PAIR) {}
  ~Handler() override {
    if (!thread_.joinable()) return;
    try {
      stop_.send(zmq::message_t(), zmq::send_flags::dontwait);
    } catch (const zmq::error_t& e) {
      log::error("gate: {}", e.what());
    }
    thread_.join();
  }
  Result<> run();

 private:
  void answer_all();
  void answer();
  [[nodiscard]] Parts judge(const Parts& asked) const;

  const Admits admits_;
  zmq::socket_t socket_;         // the thread's, once it runs
  zmq::socket_t stop_, stopped_; // of a pair: the owner's, the thread's
  std::thread thread_;
};

Result<> Handler::run() {
  try {
    for (zmq::socket_t* const socket : {&socket_, &stop_, &stopped_}) socket->set(zmq::sockopt::linger, 0);
    socket_.bind(kEndpoint);
    stopped_.bind(kStop);
    stop_.connect(kStop);
    thread_ = std::thread([this] { answer_all(); });
  } catch (const zmq::error_t& e) {
    return system_failure(e.num(), "gate");
  } catch (const std::system_error& e) {
    return system_failure(e.code().value(), "gate: thread");
  }
  return {};
}

void Handler::answer_all() {
  for (;;) {
    try {
      zmq::pollitem_t items[] = {{stopped_.handle(), 0, ZMQ_POLLIN, 0}, {socket_.handle(), 0, ZMQ_POLLIN, 0}};
      zmq::poll(items, 2, std::chrono::milliseconds(-1));
      if (items[0].revents != 0) break;
      answer();
    } catch (const zmq::error_t& e) {
      if (e.num() == ETERM) return;
      if (e.num() != EINTR) log::error("gate: {}", e.what());
    } catch (const std::exception& e) { // want of memory
      log::error("gate: {}", e.what());
    }
  }
  socket_.close(); // nobody comes in from now on
  stopped_.close();
}

void Handler::answer() {
  Parts asked;
  for (bool more = true; more;) {
    zmq::message_t part;
    if (!socket_.recv(part)) return;
    more = part.more();
    asked.push_back(part.to_string());
  }
  const Parts reply = judge(asked);
  for (std::size_t i = 0; i < reply.size(); ++i)
    socket_.send(zmq::buffer(reply[i]),
                 i + 1 < reply.size() ? zmq::send_flags::sndmore : zmq::send_flags::none);
}

// version, request, domain, address, identity, mechanism, key
Parts Handler::judge(const Parts& asked) const {
  const std::string request = asked.size() > 1 ? asked[1] : std::string();
  HostKey key{};
  const bool is_known_form = asked.size() == 7 && asked[0] == "1.0" && asked[2] == kDomain &&
                             asked[5] == "CURVE" && asked[6].size() == key.size();
  if (is_known_form) std::copy(asked[6].begin(), asked[6].end(), key.begin());
  if (!is_known_form || !admits_(key, asked[3])) return {"1.0", request, "400", "refused", "", ""};
  return {"1.0", request, "200", "OK", key_text(key), ""};
}

} // namespace

Result<std::unique_ptr<Gate>> Gate::start(zmq::context_t& context, Admits admits) {
  std::unique_ptr<Handler> handler;
  try {
    handler = std::make_unique<Handler>(context, std::move(admits));
  } catch (const zmq::error_t& e) {
    return system_failure(e.num(), "gate");
  }
  VSNAP_TRY(handler->run());
  return handler;
}

Result<> Gate::guard(zmq::socket_t& socket, const KeyPair& own) {
  try {
    socket.set(zmq::sockopt::zap_domain, kDomain);
    const int yes = 1;
    if (::zmq_setsockopt(socket.handle(), kEnforceDomain, &yes, sizeof yes) != 0)
      return failure(ErrorKind::failed, ENOTSUP, "gate: this libzmq cannot be told to ask who comes in");
    socket.set(zmq::sockopt::curve_server, 1);
    socket.set(zmq::sockopt::curve_secretkey,
               zmq::const_buffer(own.secret_key.data(), own.secret_key.size()));
  } catch (const zmq::error_t& e) {
    return system_failure(e.num(), "gate: CURVE");
  }
  return {};
}

std::optional<HostKey> Gate::key_of(zmq::message_t& message) {
  const char* const user = ::zmq_msg_gets(message.handle(), "User-Id");
  return user == nullptr ? std::nullopt : key_from(user);
}

} // namespace vsnap
