#include "sync/control_server.h"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>
#include <chrono>
#include <condition_variable>
#include <list>
#include <system_error>
#include <thread>
#include <vector>
#include <zmq.hpp>

#include "core/log.h"
#include "sync/control_job.h"

namespace vsnap {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr milliseconds kHeartbeat(1000);
constexpr milliseconds kProgressEvery(200);
constexpr milliseconds kRetry(10);           // a client's queue is full
constexpr milliseconds kStuckClient(30'000); // takes nothing for so long: as good as gone
constexpr int kLinger_ms = 2000;             // for the last replies
constexpr int kQueuedMessages = 64;          // a client

class Server final : public ControlServer {
 public:
  Server(Pool& pool, Options options)
      : pool_(pool), options_(std::move(options)), router_(context_, ZMQ_ROUTER) {}
  ~Server() override { stop(Stop::for_good); }

  Result<> listen();
  using ControlServer::stop;
  void stop(Stop how) override;

 private:
  struct Active { // the actor's side of a job
    std::shared_ptr<ControlJob> job;
    Clock::time_point last_sent;
    std::optional<Clock::time_point> blocked_since;
  };
  enum class Sent { yes, later, gone };

  void actor();
  void receive();
  void handle(const std::string& peer, const zmq::message_t& body);
  void accept(const std::string& peer, wire::ControlRequest request);
  bool find_worker() VSNAP_REQUIRES(mutex_);
  void answer(const std::string& peer, wire::ControlReply reply);
  void serve_all();
  void serve(Active& active, Clock::time_point now);
  Sent send(const std::string& peer, const std::string& message);
  [[nodiscard]] wire::ControlReply pong() const;
  [[nodiscard]] wire::ControlReply busy(const std::string& why) const;
  [[nodiscard]] wire::ControlReply ending(bool successor) const;
  void worker();
  void wake() const;

  Pool& pool_;
  const Options options_;
  zmq::context_t context_{1};
  zmq::socket_t router_; // the actor's, once it runs
  int wake_fd_ = -1;
  bool retry_soon_ = false;  // the actor's
  std::list<Active> active_; // the actor's
  std::thread actor_;

  Mutex mutex_;
  CondVar work_;
  std::deque<std::shared_ptr<ControlJob>> waiting_ VSNAP_GUARDED_BY(mutex_);
  std::vector<std::thread> workers_ VSNAP_GUARDED_BY(mutex_);
  std::size_t idle_ VSNAP_GUARDED_BY(mutex_) = 0;
  bool stopping_ VSNAP_GUARDED_BY(mutex_) = false;
  bool successor_ VSNAP_GUARDED_BY(mutex_) = false; // is to come
};

Result<> Server::listen() {
  const std::string& path = options_.identity.socket_path;
  wake_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd_ < 0) return system_failure(errno, "eventfd");
  try {
    router_.set(zmq::sockopt::router_mandatory, true);
    router_.set(zmq::sockopt::maxmsgsize, static_cast<std::int64_t>(wire::kMaxRequestBytes));
    router_.set(zmq::sockopt::sndhwm, kQueuedMessages);
    router_.set(zmq::sockopt::rcvhwm, kQueuedMessages);
    router_.set(zmq::sockopt::linger, kLinger_ms);
    router_.bind("ipc://" + path); // removes a stale socket first
  } catch (const zmq::error_t& e) {
    return system_failure(e.num(), path);
  }
  if (::chmod(path.c_str(), 0600) != 0) return system_failure(errno, path);
  try {
    actor_ = std::thread([this] { actor(); });
  } catch (const std::system_error& e) {
    return system_failure(e.code().value(), "control socket: thread");
  }
  return {};
}

void Server::stop(Stop how) {
  std::vector<std::thread> workers;
  {
    MutexLock lock(mutex_);
    if (!stopping_) successor_ = how == Stop::hand_over;
    stopping_ = true;
    workers.swap(workers_);
    work_.notify_all();
  }
  wake();
  if (actor_.joinable()) actor_.join(); // goes on until every job is over
  for (std::thread& thread : workers) thread.join();
  router_.close();
  if (wake_fd_ >= 0) ::close(wake_fd_);
  wake_fd_ = -1;
}

void Server::wake() const {
  const std::uint64_t one = 1;
  if (::write(wake_fd_, &one, sizeof one) < 0) return; // full counter: the actor is about to look anyway
}

void Server::actor() {
  for (;;) {
    bool told_to_stop = false;
    bool successor = false;
    {
      MutexLock lock(mutex_);
      told_to_stop = stopping_;
      successor = successor_;
    }
    if (told_to_stop && active_.empty()) return;
    try {
      zmq::pollitem_t items[] = {{nullptr, wake_fd_, ZMQ_POLLIN, 0}, {router_.handle(), 0, ZMQ_POLLIN, 0}};
      zmq::poll(items, told_to_stop ? 1 : 2,
                active_.empty() ? milliseconds(-1)
                : retry_soon_   ? kRetry
                                : kProgressEvery);
      std::uint64_t count = 0;
      if (::read(wake_fd_, &count, sizeof count) < 0 && errno != EAGAIN)
        log::error("control socket: eventfd: {}", errno);
      if (!told_to_stop) receive();
      if (told_to_stop) {
        for (const Active& active : active_) successor ? active.job->hand_over() : active.job->cancel();
      }
      serve_all();
    } catch (const zmq::error_t& e) {
      if (e.num() != EINTR) log::error("control socket: {}", e.what());
      if (e.num() == ETERM || e.num() == ENOTSOCK) return;
    } catch (const std::exception& e) { // want of memory: the next round may have some
      log::error("control socket: {}", e.what());
    }
  }
}

void Server::serve_all() {
  retry_soon_ = false;
  const auto now = Clock::now();
  for (auto it = active_.begin(); it != active_.end();) {
    serve(*it, now);
    it = it->job->over() ? active_.erase(it) : std::next(it);
  }
}

void Server::receive() {
  for (std::size_t n = 0; n < kMaxJobs; ++n) { // then look after the jobs, however many requests come
    zmq::message_t peer;
    zmq::message_t body;
    if (!router_.recv(peer, zmq::recv_flags::dontwait)) return;
    std::size_t parts = 1;
    for (bool more = peer.more(); more; ++parts) {
      zmq::message_t part;
      if (!router_.recv(part, zmq::recv_flags::none)) return;
      more = part.more();
      if (parts == 1) body = std::move(part);
    }
    if (parts == 2) {
      try {
        handle(peer.to_string(), body);
      } catch (const std::exception& e) {
        log::error("control socket: {}", e.what());
        answer(peer.to_string(), busy("no memory for another command (try again)"));
      }
    } else {
      log::debug("control socket: a message of {} parts was dropped", parts);
    }
  }
  wake();
}

void Server::handle(const std::string& peer, const zmq::message_t& body) {
  wire::ControlRequest request;
  if (body.size() > wire::kMaxRequestBytes ||
      !request.ParseFromArray(body.data(), static_cast<int>(body.size()))) {
    answer(peer, wire::error_reply(ErrorKind::usage, "malformed control request"));
    return;
  }
  const auto running =
      std::find_if(active_.begin(), active_.end(), [&](const Active& a) { return a.job->peer() == peer; });
  if (request.has_cancel()) {
    if (running != active_.end()) running->job->cancel();
    return;
  }
  if (running != active_.end()) { // its reply could not be told from that of the first
    log::debug("control socket: a request was dropped: its sender has one running");
    return;
  }
  if (request.version() == wire::kProtocolVersion && request.has_ping()) {
    answer(peer, pong());
  } else if (request.version() == wire::kProtocolVersion && request.has_shutdown()) {
    wire::ControlReply done;
    done.mutable_done();
    answer(peer, std::move(done));
    if (options_.on_shutdown) options_.on_shutdown();
  } else if (request.has_upgrade()) { // of whatever version
    const Result<> taken = options_.on_upgrade
                               ? options_.on_upgrade(request.upgrade().program())
                               : failure(ErrorKind::failed, EOPNOTSUPP, "this daemon cannot be replaced");
    wire::ControlReply reply;
    if (taken) reply.mutable_done();
    answer(peer, taken ? std::move(reply) : wire::error_reply(taken.error()));
  } else if (active_.size() >= kMaxJobs) {
    answer(peer, busy(fmt::format("{} commands are running already (try again later)", active_.size())));
  } else {
    accept(peer, std::move(request));
  }
}

void Server::accept(const std::string& peer, wire::ControlRequest request) {
  wire::ControlReply refusal;
  {
    MutexLock lock(mutex_);
    if (!stopping_) { // else the workers may be gone already
      auto job = std::make_shared<ControlJob>(peer, std::move(request), [this] { wake(); });
      waiting_.push_back(job);
      if (find_worker()) {
        active_.push_back({std::move(job), Clock::now(), std::nullopt});
        work_.notify_one();
        return;
      }
      waiting_.pop_back();
      refusal = busy("no thread for another command (try again)");
    } else {
      refusal = ending(successor_);
    }
  }
  answer(peer, std::move(refusal));
}

// Somebody will take the newest job: one who waits, a new one, or later one who is at work.
bool Server::find_worker() {
  if (idle_ >= waiting_.size() || workers_.size() >= kMaxWorkers) return true;
  try {
    workers_.emplace_back([this] { worker(); });
  } catch (const std::exception& e) { // the system's limit of threads, or of memory
    log::warning("control socket: {}", e.what());
  }
  return !workers_.empty();
}

wire::ControlReply Server::busy(const std::string& why) const {
  return wire::error_reply(ErrorKind::busy, fmt::format("{}: {}", options_.identity.pool, why));
}

wire::ControlReply Server::ending(bool successor) const {
  if (!successor) return busy("being unmounted (try again)");
  return wire::error_reply(handed_over(options_.identity.pool));
}

void Server::answer(const std::string& peer, wire::ControlReply reply) {
  wire::ControlMessage message;
  message.set_version(wire::kProtocolVersion);
  *message.mutable_reply() = std::move(reply);
  if (send(peer, message.SerializeAsString()) != Sent::yes) log::debug("control socket: a client went away");
}

wire::ControlReply Server::pong() const {
  wire::ControlReply reply;
  wire::Pong& pong = *reply.mutable_pong();
  pong.set_pid(options_.identity.pid);
  pong.set_pool(options_.identity.pool);
  pong.set_pool_uuid(options_.identity.pool_uuid);
  pong.set_mount_point(options_.identity.mount_point);
  pong.set_program_version(VSNAP_VERSION);
  return reply;
}

// Sends what the job has queued, or a sign of life when it is time for one.
void Server::serve(Active& active, Clock::time_point now) {
  ControlJob& job = *active.job;
  Sent sent = Sent::yes;
  while (const auto message = job.front()) {
    sent = send(job.peer(), *message);
    if (sent != Sent::yes) break;
    active.last_sent = now;
    active.blocked_since.reset();
    job.pop();
  }
  if (sent == Sent::yes && !job.over() && now - active.last_sent >= kProgressEvery) {
    bool is_progress = false;
    const std::string message = job.sign_of_life(is_progress);
    if (is_progress || now - active.last_sent >= kHeartbeat) {
      sent = send(job.peer(), message);
      if (sent == Sent::yes) active.last_sent = now;
      if (sent == Sent::later) sent = Sent::yes; // a client with a full queue has enough to hear
    }
  }
  if (sent == Sent::later) {
    retry_soon_ = true;
    if (!active.blocked_since) active.blocked_since = now;
    if (now - *active.blocked_since > kStuckClient) sent = Sent::gone;
  }
  if (sent == Sent::gone) job.abandon();
}

Server::Sent Server::send(const std::string& peer, const std::string& message) {
  try {
    const auto flags = zmq::send_flags::dontwait;
    if (!router_.send(zmq::buffer(peer), flags | zmq::send_flags::sndmore)) return Sent::later;
    return router_.send(zmq::buffer(message), flags) ? Sent::yes : Sent::gone;
  } catch (const zmq::error_t& e) {
    if (e.num() != EHOSTUNREACH) log::error("control socket: {}", e.what());
    return Sent::gone;
  }
}

void Server::worker() {
  for (;;) {
    std::shared_ptr<ControlJob> job;
    {
      MutexLock lock(mutex_);
      ++idle_;
      while (waiting_.empty() && !stopping_) work_.wait(mutex_);
      --idle_;
      if (waiting_.empty()) return; // stopping; what was accepted before is still done
      job = std::move(waiting_.front());
      waiting_.pop_front();
    }
    job->run(pool_, options_.before_pool);
  }
}

} // namespace

Result<std::unique_ptr<ControlServer>> ControlServer::start(Pool& pool, Options options) {
  std::unique_ptr<Server> server;
  try {
    server = std::make_unique<Server>(pool, std::move(options));
  } catch (const zmq::error_t& e) {
    return system_failure(e.num(), "control socket");
  }
  VSNAP_TRY(server->listen());
  return server;
}

} // namespace vsnap
