#include "sync/link.h"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <cstring>
#include <future>
#include <map>
#include <system_error>
#include <thread>
#include <vector>

#include "core/log.h"
#include "core/mutex.h"
#include "sync/link_socket.h"
#include "sync/wire.h"

namespace vsnap {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLongestWait(1000);
constexpr std::int64_t kKnockEvery_ns = 2'000'000'000; // where the key is not let in
constexpr int kMostAtOnce = 256;

std::uint64_t random_number(Env& env) {
  const Uuid random = env.random_uuid();
  std::uint64_t number = 0;
  std::memcpy(&number, random.data() + random.size() / 2, sizeof number); // the half without the version
  return std::max<std::uint64_t>(number >> 1, 1);
}

class Actor final : public Link {
 public:
  Actor(Env& env, Options options, LinkListener* listener)
      : env_(env),
        options_(std::move(options)),
        listener_(listener),
        machine_(HostSession::Settings{random_number(env), options_.pool_uuid, env.boot_id()}) {}
  ~Actor() override { stop(); }

  Result<> begin();
  void stop() override;
  void abandon() override {
    silent_ = true;
    stop();
  }
  using Link::call;
  void call(wire::LinkRequest request, Answered answered) override;
  void works_by(std::uint64_t generation) override;
  [[nodiscard]] LinkStatus status() override;

 private:
  void run();
  void round();
  void take_wishes();
  void receive();
  void look_at_handshake();
  void knock_again();
  void step(const HostSession::Event& event);
  void act(HostSession::Action& action);
  void note_status();
  [[nodiscard]] milliseconds longest_wait();
  void wake() const;

  struct Call {
    wire::LinkRequest request;
    Answered answered;
  };

  Env& env_;
  const Options options_;
  LinkListener* const listener_;
  zmq::context_t context_{1};
  int wake_fd_ = -1;
  std::thread thread_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> silent_{false};

  // The actor's
  HostSession machine_;
  std::optional<LinkSocket> socket_;
  std::map<std::uint64_t, Answered> waiting_; // by id
  std::optional<std::int64_t> knock_at_ns_;
  bool is_refused_ = false;
  std::int64_t told_until_ns_ = 0;

  Mutex mutex_;
  std::vector<Call> calls_ VSNAP_GUARDED_BY(mutex_);
  std::optional<std::uint64_t> works_by_ VSNAP_GUARDED_BY(mutex_);
  bool is_over_ VSNAP_GUARDED_BY(mutex_) = false; // nobody takes calls any more
  LinkStatus status_ VSNAP_GUARDED_BY(mutex_);
};

Result<> Actor::begin() {
  wake_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd_ < 0) return system_failure(errno, "eventfd");
  VSNAP_TRY_ASSIGN(auto socket,
                   LinkSocket::open(context_, env_, {options_.address, options_.server_key, options_.own}));
  socket_ = std::move(socket);
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error& e) {
    return system_failure(e.code().value(), "link: thread");
  }
  return {};
}

void Actor::stop() {
  stopping_ = true;
  wake();
  if (thread_.joinable()) thread_.join();
  if (wake_fd_ >= 0) ::close(wake_fd_);
  wake_fd_ = -1;
}

void Actor::wake() const {
  const std::uint64_t one = 1;
  if (::write(wake_fd_, &one, sizeof one) < 0) return; // full counter: the actor is about to look anyway
}

void Actor::run() {
  while (!stopping_.load()) {
    try {
      round();
    } catch (const zmq::error_t& e) {
      if (e.num() != EINTR) log::error("{}: link: {}", options_.pool, e.what());
      if (e.num() == ETERM || e.num() == ENOTSOCK) break;
    } catch (const std::exception& e) { // want of memory: the next round may have some
      log::error("{}: link: {}", options_.pool, e.what());
    }
  }
  take_wishes();
  step(HostSession::Close{silent_.load()});
  {
    MutexLock lock(mutex_);
    is_over_ = true;
  }
  take_wishes(); // those that came meanwhile are answered: it has ended
  socket_.reset();
}

void Actor::round() {
  std::vector<zmq::pollitem_t> items = {{nullptr, wake_fd_, ZMQ_POLLIN, 0}};
  if (socket_) items.insert(items.end(), {socket_->socket_item(), socket_->monitor_item()});
  zmq::poll(items, longest_wait());
  std::uint64_t count = 0;
  if (::read(wake_fd_, &count, sizeof count) < 0 && errno != EAGAIN)
    log::error("{}: link: eventfd: {}", options_.pool, errno);
  if (socket_) {
    look_at_handshake();
    receive();
  }
  take_wishes();
  knock_again();
  step(HostSession::Tick{});
  if (machine_.phase() == HostSession::Phase::ended) socket_.reset();
}

milliseconds Actor::longest_wait() {
  const auto deadline_ns = machine_.deadline_ns();
  if (!deadline_ns) return milliseconds(-1);
  const std::chrono::nanoseconds left(std::max<std::int64_t>(*deadline_ns - env_.monotonic_ns(), 0));
  return std::min(std::chrono::ceil<milliseconds>(left), kLongestWait);
}

void Actor::take_wishes() {
  std::vector<Call> calls;
  std::optional<std::uint64_t> generation;
  {
    MutexLock lock(mutex_);
    calls.swap(calls_);
    generation.swap(works_by_);
  }
  if (generation) step(HostSession::WorksBy{*generation});
  for (Call& call : calls) {
    waiting_[machine_.next_request()] = std::move(call.answered);
    step(HostSession::Ask{std::move(call.request)});
  }
}

void Actor::receive() {
  for (int n = 0; n < kMostAtOnce; ++n) {
    LinkMessage message;
    const LinkSocket::Heard heard = socket_->receive(message);
    if (heard == LinkSocket::Heard::nothing) return;
    if (heard == LinkSocket::Heard::malformed)
      step(HostSession::Malformed{});
    else
      step(HostSession::Received{std::move(message)});
  }
  wake();
}

void Actor::look_at_handshake() {
  const LinkSocket::Shake shake = socket_->handshake();
  if (shake == LinkSocket::Shake::succeeded) {
    is_refused_ = false;
    step(HostSession::Connected{});
  }
  if (shake != LinkSocket::Shake::refused) return;
  if (!is_refused_)
    log::warning("{}: {} does not let this host in (vsnap host invite, vsnap host join)", options_.pool,
                 options_.address);
  is_refused_ = true;
  knock_at_ns_ = env_.monotonic_ns() + kKnockEvery_ns;
}

// After a refusal libzmq does not connect again by itself.
void Actor::knock_again() {
  if (!knock_at_ns_ || env_.monotonic_ns() < *knock_at_ns_) return;
  knock_at_ns_.reset();
  socket_.reset();
  auto socket = LinkSocket::open(context_, env_, {options_.address, options_.server_key, options_.own});
  if (socket)
    socket_ = std::move(*socket);
  else
    knock_at_ns_ = env_.monotonic_ns() + kKnockEvery_ns;
}

void Actor::step(const HostSession::Event& event) {
  auto actions = machine_.step(event, env_.monotonic_ns());
  note_status();
  for (HostSession::Action& action : actions) act(action);
  const std::int64_t until_ns = machine_.lease_until_ns();
  if (listener_ != nullptr && until_ns != 0 && until_ns != told_until_ns_)
    listener_->lease_lasts(machine_.young_until_ns(), until_ns);
  told_until_ns_ = until_ns;
}

void Actor::act(HostSession::Action& action) {
  if (const auto* send = std::get_if<HostSession::Send>(&action)) {
    if (socket_) static_cast<void>(socket_->send(send->message)); // what was not sent is sent again in time
  } else if (auto* answer = std::get_if<HostSession::Answer>(&action)) {
    const auto found = waiting_.find(answer->reply.id());
    if (found == waiting_.end()) return;
    const Answered answered = std::move(found->second);
    waiting_.erase(found);
    if (answered) answered(std::move(answer->reply));
  } else if (listener_ == nullptr) {
    return;
  } else if (const auto* phase = std::get_if<HostSession::PhaseIs>(&action)) {
    listener_->phase_is(phase->phase);
  } else if (const auto* began = std::get_if<HostSession::Began>(&action)) {
    listener_->session_began(*began);
  } else if (std::holds_alternative<HostSession::Lost>(action)) {
    listener_->session_lost();
  } else if (const auto* ended = std::get_if<HostSession::Ended>(&action)) {
    listener_->ended(ended->reason);
  } else if (const auto* told = std::get_if<HostSession::Told>(&action)) {
    listener_->told(told->notice);
  }
}

void Actor::note_status() {
  MutexLock lock(mutex_);
  status_.phase = machine_.phase();
  status_.epoch = machine_.epoch();
  status_.session = machine_.session();
  status_.generation = machine_.generation();
  const std::int64_t now_ns = env_.monotonic_ns();
  status_.lease_left_ns = machine_.lease_left_ns(now_ns);
  status_.lease_until_ns = now_ns + status_.lease_left_ns;
  status_.is_refused = is_refused_;
  status_.is_elsewhere = machine_.is_elsewhere();
  status_.refused = machine_.refused();
}

LinkStatus Actor::status() {
  MutexLock lock(mutex_);
  return status_;
}

void Actor::works_by(std::uint64_t generation) {
  {
    MutexLock lock(mutex_);
    works_by_ = generation;
  }
  wake();
}

void Actor::call(wire::LinkRequest request, Answered answered) {
  {
    MutexLock lock(mutex_);
    if (!is_over_) {
      calls_.push_back({std::move(request), std::move(answered)});
      return wake();
    }
  }
  wire::LinkReply reply;
  *reply.mutable_error() =
      wire::error_reply(ErrorKind::failed, options_.pool + ": the link to the coordinator has ended").error();
  if (answered) answered(std::move(reply));
}

} // namespace

Result<wire::LinkReply> Link::call(wire::LinkRequest request, milliseconds longest) {
  // Shared with the actor, which may answer after this one has given up.
  auto promise = std::make_shared<std::promise<wire::LinkReply>>();
  std::future<wire::LinkReply> reply = promise->get_future();
  call(std::move(request), [promise](wire::LinkReply answer) { promise->set_value(std::move(answer)); });
  if (reply.wait_for(longest) == std::future_status::ready) return reply.get();
  return failure(ErrorKind::no_answer,
                 fmt::format("no answer from the coordinator within {} ms: what became of it is not known",
                             longest.count()));
}

Result<wire::ControlReply> Link::control(wire::ControlRequest request, milliseconds longest) {
  request.set_version(wire::kProtocolVersion);
  if (request.id() == 0) request.set_id(random_number(Env::real()));
  wire::LinkRequest asked;
  *asked.mutable_control() = std::move(request);
  VSNAP_TRY_ASSIGN(wire::LinkReply reply, call(std::move(asked), longest));
  if (reply.has_error()) return Failure(wire::from_wire(reply.error()));
  return std::move(*reply.mutable_control());
}

Result<std::unique_ptr<Link>> Link::start(Env& env, Options options, LinkListener* listener) {
  auto actor = std::make_unique<Actor>(env, std::move(options), listener);
  VSNAP_TRY(actor->begin());
  return actor;
}

} // namespace vsnap
