#include "sync/coordinator.h"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <deque>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>
#include <zmq.hpp>

#include "core/log.h"
#include "core/mutex.h"
#include "core/wait_listener.h"
#include "sync/control_handler.h"
#include "sync/gate.h"
#include "sync/host_list.h"
#include "sync/host_workers.h"
#include "sync/invitation_token.h"
#include "sync/link_options.h"

namespace vsnap {
namespace {

using std::chrono::milliseconds;

constexpr int kMostAtOnce = 256; // messages, before the rest is looked after
constexpr milliseconds kLongestWait(1000);
constexpr milliseconds kBindEvery(100);
constexpr std::int64_t kLongestInvitation_ns = 366LL * 24 * 3600 * 1'000'000'000;

// What a host that is not this one may ask for: nothing that names files of this machine, or that ends it.
bool may_be_asked_for(const wire::ControlRequest& request) {
  switch (request.operation_case()) {
    case wire::ControlRequest::kStatus:
    case wire::ControlRequest::kList:
    case wire::ControlRequest::kInfo:
    case wire::ControlRequest::kDiskUsage:
    case wire::ControlRequest::kCreateVolume:
    case wire::ControlRequest::kRename:
    case wire::ControlRequest::kResize:
    case wire::ControlRequest::kSnapshot:
    case wire::ControlRequest::kRollback:
    case wire::ControlRequest::kClone:
    case wire::ControlRequest::kPreserve:
    case wire::ControlRequest::kFlatten:
    case wire::ControlRequest::kRemove:
    case wire::ControlRequest::kWaitRemovals:
    case wire::ControlRequest::kSnapshotFull:
    case wire::ControlRequest::kWaitCopy:
    case wire::ControlRequest::kSetCopy:
    case wire::ControlRequest::kSplit:
    case wire::ControlRequest::kRefresh:
    case wire::ControlRequest::kRaiseLevels:
    case wire::ControlRequest::kSetProperties:
    case wire::ControlRequest::kGetProperties:
    case wire::ControlRequest::kHold:
    case wire::ControlRequest::kReleaseHold:
    case wire::ControlRequest::kListHosts:
    case wire::ControlRequest::kListLocks:
      return true;
    default:
      return false;
  }
}

// What may last, or wait for what lasts. Who only looks does not have to wait for it.
HostWorkers::Lane lane_of(const wire::LinkRequest& request) {
  const wire::ControlRequest& command = request.control();
  const bool looks = command.has_status() || command.has_list_hosts() ||
                     (command.has_list() && command.list().without_figures()) ||
                     (command.has_info() && command.info().without_figures());
  const wire::SetAttributesRequest& set = request.set_attributes();
  const bool configures =
      request.has_take_volume() || request.has_create_file() || request.has_rename_file() ||
      request.has_remove_file() ||
      (request.has_set_attributes() &&
       (set.has_size_bytes() || set.has_mode() || set.has_uid() || set.has_gid() || set.has_modified_ns()));
  return (request.has_control() && !looks) || configures ? HostWorkers::Lane::lasting
                                                         : HostWorkers::Lane::quick;
}

// For what goes on by itself: whoever does that takes nobody's place.
bool only_waits(const wire::ControlRequest& request) {
  return request.has_wait_removals() || request.has_wait_copy();
}

class UntilStopped final : public ControlSink {
 public:
  explicit UntilStopped(const std::atomic<bool>& stopping) : stopping_(stopping) {}
  bool progress(std::uint64_t, std::uint64_t) override { return !stopping_.load(); }
  bool diff(std::span<const DiffRange>) override { return false; } // not asked for

 private:
  const std::atomic<bool>& stopping_;
};

class Server final : public Coordinator {
 public:
  Server(Pool& pool, Env& env, Options options)
      : pool_(pool), env_(env), options_(std::move(options)), router_(context_, ZMQ_ROUTER) {}
  ~Server() override { stop(); }

  Result<> begin();
  void stop() override;
  [[nodiscard]] std::uint64_t epoch() const override { return epoch_; }
  [[nodiscard]] std::string address() override {
    MutexLock lock(mutex_);
    return bound_.empty() ? options_.address : bound_;
  }
  std::optional<wire::ControlReply> answer(const wire::ControlRequest& request) override;
  void tell(std::uint64_t host, wire::Notice notice) override;
  void evict(std::uint64_t host) override;

 private:
  struct JoinAsked {
    LinkPeer peer;
    std::uint64_t sequence = 0;
    wire::Join join;
  };

  // The actor
  void actor();
  void round();
  Result<> bind();
  void receive();
  void handle(std::vector<zmq::message_t>& parts);
  void send_all();
  void tell_listener();
  void take_returns();
  void note_generation();
  [[nodiscard]] milliseconds longest_wait();
  void wake() const;

  void step(const Membership::Event& event) VSNAP_REQUIRES(mutex_);
  void give_work(JoinAsked asked) VSNAP_REQUIRES(mutex_);
  void give_work(Membership::Execute asked) VSNAP_REQUIRES(mutex_);
  void answer(std::uint64_t host, std::uint64_t incarnation, wire::LinkReply reply) VSNAP_REQUIRES(mutex_);
  [[nodiscard]] bool admits(const HostKey& key);
  [[nodiscard]] Invitation* invitation_of(const HostKey& key) VSNAP_REQUIRES(mutex_);

  // Workers
  void do_work(const JoinAsked& asked);
  void do_work(const Membership::Execute& asked);
  Result<HostInfo> join(const JoinAsked& asked);
  wire::LinkReply serve(const Membership::Execute& asked);
  wire::ControlReply control(wire::ControlRequest request, bool again);
  Result<wire::ControlReply> invite(const wire::InviteHostRequest& request);
  Result<wire::ControlReply> revoke(const wire::RevokeHostRequest& request, bool again);
  wire::ControlReply list();

  Pool& pool_;
  Env& env_;
  const Options options_;
  zmq::context_t context_{1};
  std::unique_ptr<Gate> gate_;
  zmq::socket_t router_;              // the actor's, once it runs
  bool is_bound_ = false;             // the actor's
  std::uint64_t told_generation_ = 0; // the actor's
  std::uint64_t epoch_ = 0;
  int wake_fd_ = -1;
  std::thread actor_;
  std::atomic<bool> stopping_{false}; // no more work is begun
  std::atomic<bool> ended_{false};    // the actor has nothing more to do
  std::atomic<std::uint64_t> refused_at_gate_{0};

  // Held while the catalog's hosts are changed and what is known of them here follows; before mutex_, and
  // across I/O.
  Mutex roster_mutex_;
  Mutex mutex_; // never held across anything that waits
  std::string bound_ VSNAP_GUARDED_BY(mutex_);
  std::unique_ptr<Membership> machine_ VSNAP_GUARDED_BY(mutex_);
  std::vector<Invitation> invitations_ VSNAP_GUARDED_BY(mutex_);
  std::deque<Membership::Send> outbox_ VSNAP_GUARDED_BY(mutex_);
  std::deque<Membership::Action> sessions_ VSNAP_GUARDED_BY(mutex_); // to be told to the listener
  std::deque<Membership::Execute> returns_ VSNAP_GUARDED_BY(mutex_); // of volumes
  HostWorkers workers_;                                              // its lock is below mutex_
  HostWorkers handovers_; // of blocks: by nobody who may wait for a host, as that may wait for this
};

// ---- begin and end ----

Result<> Server::begin() {
  VSNAP_TRY_ASSIGN(epoch_, pool_.begin_reign());
  VSNAP_TRY_ASSIGN(const Hosts hosts, pool_.hosts());
  {
    MutexLock lock(mutex_);
    machine_ = std::make_unique<Membership>(
        Membership::Settings{epoch_, options_.lease_ns, pool_.name(), pool_.status().uuid});
    for (const HostInfo& host : hosts.hosts) step(Membership::HostAdded{host});
    invitations_ = hosts.invitations;
  }
  wake_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd_ < 0) return system_failure(errno, "eventfd");
  VSNAP_TRY_ASSIGN(
      gate_, Gate::start(context_, [this](const HostKey& key, const std::string&) { return admits(key); }));
  VSNAP_TRY(Gate::guard(router_, options_.key));
  VSNAP_TRY(bind());
  if (!is_bound_)
    log::warning("{}: cannot listen at {} yet, and tries again", pool_.name(), options_.address);
  try {
    actor_ = std::thread([this] { actor(); });
  } catch (const std::system_error& e) {
    return system_failure(e.code().value(), "coordinator: thread");
  }
  return {};
}

Result<> Server::bind() {
  try {
    router_.set(zmq::sockopt::router_mandatory, true);
    router_.set(zmq::sockopt::router_handover, true);
    link_options::set(router_, static_cast<std::int64_t>(link_message::kMaxToCoordinator));
    router_.set(zmq::sockopt::ipv6, options_.address.find('[') != std::string::npos);
    router_.bind(options_.address);
    MutexLock lock(mutex_);
    bound_ = router_.get(zmq::sockopt::last_endpoint);
    is_bound_ = true;
  } catch (const zmq::error_t& e) {
    if (options_.keep_trying) return {};
    return failure(ErrorKind::failed, e.num(),
                   fmt::format("{}: cannot listen at {}: {}", pool_.name(), options_.address, e.what()));
  }
  return {};
}

void Server::stop() {
  {
    MutexLock lock(mutex_);
    if (stopping_.exchange(true)) return;
  }
  workers_.stop(); // the answers to what was begun still go out
  handovers_.stop();
  if (actor_.joinable()) {
    {
      MutexLock lock(mutex_);
      step(Membership::Ending{});
    }
    ended_ = true;
    wake();
    actor_.join();
  }
  router_.close();
  gate_.reset();
  if (wake_fd_ >= 0) ::close(wake_fd_);
  wake_fd_ = -1;
}

// ---- the actor ----

void Server::wake() const {
  const std::uint64_t one = 1;
  if (::write(wake_fd_, &one, sizeof one) < 0) return; // full counter: the actor is about to look anyway
}

void Server::actor() {
  while (!ended_.load()) {
    try {
      round();
    } catch (const zmq::error_t& e) {
      if (e.num() == ETERM || e.num() == ENOTSOCK) return;
      if (e.num() != EINTR) log::error("coordinator: {}", e.what());
    } catch (const std::exception& e) { // want of memory: the next round may have some
      log::error("coordinator: {}", e.what());
    }
  }
  send_all();
}

void Server::round() {
  if (!is_bound_) {
    static_cast<void>(bind());
    if (is_bound_) log::info("{}: listens at {} now", pool_.name(), address());
  }
  zmq::pollitem_t items[] = {{nullptr, wake_fd_, ZMQ_POLLIN, 0}, {router_.handle(), 0, ZMQ_POLLIN, 0}};
  zmq::poll(items, 2, longest_wait());
  std::uint64_t count = 0;
  if (::read(wake_fd_, &count, sizeof count) < 0 && errno != EAGAIN)
    log::error("coordinator: eventfd: {}", errno);
  note_generation();
  receive();
  {
    MutexLock lock(mutex_);
    step(Membership::Tick{}); // after what has come: what waited to be read still counts
  }
  send_all();
  tell_listener();
  take_returns();
}

milliseconds Server::longest_wait() {
  // More often than the machine takes for a coordinator that stood still.
  const auto pause = std::chrono::floor<milliseconds>(
      std::chrono::nanoseconds(options_.lease_ns / Membership::kStillFraction / 2));
  const milliseconds longest = std::min(is_bound_ ? kLongestWait : kBindEvery, pause);
  MutexLock lock(mutex_);
  const auto deadline_ns = machine_->deadline_ns();
  if (!deadline_ns) return longest;
  const std::chrono::nanoseconds left(std::max<std::int64_t>(*deadline_ns - env_.monotonic_ns(), 0));
  return std::min(std::chrono::ceil<milliseconds>(left), longest);
}

void Server::note_generation() {
  const std::uint64_t generation = pool_.generation();
  if (generation == told_generation_) return;
  told_generation_ = generation;
  wire::Notice notice;
  notice.set_generation(generation);
  MutexLock lock(mutex_);
  step(Membership::GenerationIs{generation});
  step(Membership::Tell{0, std::move(notice)});
}

void Server::receive() {
  for (int n = 0; n < kMostAtOnce; ++n) {
    std::vector<zmq::message_t> parts;
    for (bool more = true; more;) {
      zmq::message_t part;
      const auto flags = parts.empty() ? zmq::recv_flags::dontwait : zmq::recv_flags::none;
      if (!router_.recv(part, flags)) return;
      more = part.more();
      if (parts.size() <= link_message::kMaxFrames + 2) parts.push_back(std::move(part));
    }
    handle(parts);
  }
  wake();
}

// The routing id, the message, its raw frames.
void Server::handle(std::vector<zmq::message_t>& parts) {
  const auto key = parts.size() < 2 ? std::nullopt : Gate::key_of(parts[1]);
  if (!key) {
    log::error("coordinator: a message without a key was dropped");
    return;
  }
  const char* const address = ::zmq_msg_gets(parts[1].handle(), "Peer-Address");
  LinkPeer peer{*key, parts[0].to_string(), address == nullptr ? "" : address};
  std::vector<std::string_view> views;
  for (std::size_t i = 1; i < parts.size(); ++i) views.push_back(parts[i].to_string_view());
  auto message = link_message::decode(views);
  MutexLock lock(mutex_);
  if (!message) return step(Membership::Malformed{*key});
  if (message->type != LinkType::join ||
      (invitation_of(*key) == nullptr && machine_->host_of(*key) == nullptr))
    return step(Membership::Received{std::move(peer), std::move(*message)});
  JoinAsked asked{std::move(peer), message->sequence, {}};
  if (!asked.join.ParseFromString(message->payload)) return step(Membership::Malformed{*key});
  give_work(std::move(asked));
}

void Server::send_all() {
  std::deque<Membership::Send> outbox;
  {
    MutexLock lock(mutex_);
    outbox.swap(outbox_);
  }
  for (const auto& [route, message] : outbox) {
    try {
      // What cannot be sent is lost: who waits for it asks again.
      const auto flags = zmq::send_flags::dontwait;
      if (!router_.send(zmq::buffer(route), flags | zmq::send_flags::sndmore)) continue;
      const std::string first = link_message::encode(message);
      const auto more = [&](bool is_last) { return is_last ? flags : flags | zmq::send_flags::sndmore; };
      router_.send(zmq::buffer(first), more(message.frames.empty()));
      for (std::size_t i = 0; i < message.frames.size(); ++i)
        router_.send(zmq::buffer(message.frames[i]), more(i + 1 == message.frames.size()));
    } catch (const zmq::error_t& e) {
      if (e.num() != EHOSTUNREACH) log::error("coordinator: {}", e.what());
    }
  }
}

void Server::tell_listener() {
  std::deque<Membership::Action> sessions;
  {
    MutexLock lock(mutex_);
    sessions.swap(sessions_);
  }
  for (const Membership::Action& action : sessions) {
    if (const auto* began = std::get_if<Membership::SessionBegan>(&action)) {
      log::debug("host {}: session {} has begun", began->host, began->session);
      if (options_.listener != nullptr) options_.listener->session_began(began->host, began->session);
    } else if (const auto* over = std::get_if<Membership::SessionOver>(&action)) {
      log::debug("host {}: session {} is over", over->host, over->session);
      if (options_.listener != nullptr) options_.listener->session_over(over->host, over->session, over->why);
    }
  }
}

// By no worker: one may wait for that, and hold what the others wait for.
void Server::take_returns() {
  std::deque<Membership::Execute> returns;
  {
    MutexLock lock(mutex_);
    returns.swap(returns_);
  }
  for (const Membership::Execute& asked : returns) {
    wire::LinkReply reply = options_.serve(asked.host, asked.request);
    reply.set_id(asked.request.id());
    MutexLock lock(mutex_);
    answer(asked.host.id, asked.incarnation, std::move(reply));
  }
  if (!returns.empty()) send_all();
}

// ---- what is known, under the lock ----

void Server::step(const Membership::Event& event) {
  for (Membership::Action& action : machine_->step(event, env_.monotonic_ns())) {
    if (auto* const send = std::get_if<Membership::Send>(&action))
      outbox_.push_back(std::move(*send));
    else if (auto* const asked = std::get_if<Membership::Execute>(&action))
      give_work(std::move(*asked));
    else
      sessions_.push_back(std::move(action));
  }
}

// Who comes in has no number yet: all of them take turns as one, whose number, 0, is no host's.
void Server::give_work(JoinAsked asked) {
  if (stopping_.load()) return; // the next coordinator is asked
  const std::size_t bytes = asked.join.ByteSizeLong();
  auto work = [this, asked = std::move(asked)] {
    do_work(asked);
    wake();
  };
  // Asked once more, where it is too much.
  if (!workers_.put(HostWorkers::Lane::lasting, 0, bytes, std::move(work)))
    log::debug("{}: an invited host has to ask again", pool_.name());
}

// Membership bounds what a host may have running; what is beyond the limit of all together is refused.
void Server::give_work(Membership::Execute asked) {
  if (stopping_.load()) return;
  if (asked.request.has_return_volumes()) return returns_.push_back(std::move(asked));
  wire::LinkReply busy;
  busy.set_id(asked.request.id());
  const std::uint64_t host = asked.host.id;
  const std::uint64_t incarnation = asked.incarnation;
  const HostWorkers::Lane lane = lane_of(asked.request);
  HostWorkers& workers = asked.request.has_commit_blocks() ? handovers_ : workers_;
  const std::size_t bytes = asked.request.ByteSizeLong();
  auto work = [this, asked = std::move(asked)] {
    do_work(asked);
    wake();
  };
  if (workers.put(lane, host, bytes, std::move(work))) return;
  *busy.mutable_error() =
      wire::error_reply(ErrorKind::busy, pool_.name() + ": too much is asked for at once").error();
  busy.mutable_error()->set_errno_value(EAGAIN); // as what is asked again
  answer(host, incarnation, std::move(busy));
}

void Server::answer(std::uint64_t host, std::uint64_t incarnation, wire::LinkReply reply) {
  for (auto& action :
       machine_->step(Membership::Answered{host, incarnation, std::move(reply)}, env_.monotonic_ns())) {
    if (auto* const send = std::get_if<Membership::Send>(&action)) outbox_.push_back(std::move(*send));
  }
}

Invitation* Server::invitation_of(const HostKey& key) {
  const std::int64_t now_ns = env_.wall_clock_ns();
  for (Invitation& invitation : invitations_) {
    if (invitation.key == key && invitation.expires_ns > now_ns) return &invitation;
  }
  return nullptr;
}

bool Server::admits(const HostKey& key) {
  MutexLock lock(mutex_);
  if (machine_->host_of(key) != nullptr || invitation_of(key) != nullptr) return true;
  ++refused_at_gate_;
  return false;
}

void Server::tell(std::uint64_t host, wire::Notice notice) {
  {
    MutexLock lock(mutex_);
    step(Membership::Tell{host, std::move(notice)});
  }
  wake();
}

void Server::evict(std::uint64_t host) {
  {
    MutexLock lock(mutex_);
    step(Membership::Evict{host});
  }
  wake();
}

// ---- workers ----

Result<HostInfo> Server::join(const JoinAsked& asked) {
  HostKey key{};
  if (asked.join.key().size() != key.size()) return failure(ErrorKind::usage, "host join: no key was given");
  std::copy(asked.join.key().begin(), asked.join.key().end(), key.begin());
  if (key == options_.key.public_key) {
    return failure(ErrorKind::usage,
                   fmt::format("{0}: this host coordinates it, and needs no invitation", pool_.name()));
  }
  const MutexLock roster(roster_mutex_);
  {
    MutexLock lock(mutex_);
    const HostInfo* const known = machine_->host_of(asked.peer.key);
    if (known != nullptr && known->key == key) return *known; // the answer was lost
    if (known != nullptr) return failure(ErrorKind::usage, "host join: a host can bring in itself only");
  }
  VSNAP_TRY_ASSIGN(HostInfo host, pool_.join(asked.peer.key, asked.join.name(), key));
  log::info("{}: host {} at {} shares it from now on", pool_.name(), host.name, asked.peer.address);
  MutexLock lock(mutex_);
  std::erase_if(invitations_, [&](const Invitation& one) { return one.key == asked.peer.key; });
  step(Membership::HostAdded{host});
  return host;
}

void Server::do_work(const JoinAsked& asked) {
  const auto host = join(asked);
  wire::Joined joined;
  if (host)
    joined.set_name(host->name);
  else
    *joined.mutable_error() = wire::to_wire(host.error());
  MutexLock lock(mutex_);
  const Membership::Settings& settings = machine_->settings();
  joined.set_pool(settings.pool);
  joined.set_pool_uuid(settings.pool_uuid.data(), settings.pool_uuid.size());
  outbox_.push_back({asked.peer.route, LinkMessage{LinkType::joined, 0, epoch_, 0, asked.sequence,
                                                   joined.SerializeAsString()}});
}

void Server::do_work(const Membership::Execute& asked) {
  {
    MutexLock lock(mutex_);
    // Of a host that was revoked while it waited, or of a process of it that another has replaced.
    if (!machine_->is_current(asked.host.key, asked.incarnation)) return;
  }
  wire::LinkReply reply;
  try {
    reply = serve(asked);
  } catch (const std::exception& e) { // nothing below should throw; a stray must not end the daemon
    log::error("a request of host {} failed: {}", asked.host.name, e.what());
    *reply.mutable_error() =
        wire::error_reply(ErrorKind::failed, std::string("internal error: ") + e.what()).error();
  }
  reply.set_id(asked.request.id());
  // Given up for a successor, which is going to be asked again.
  if (stopping_.load() && reply.control().error().errno_value() == ECANCELED) return;
  if (pool_.waits_no_more() && reply.error().kind() == wire::ERROR_NO_SPACE) return; // it waited for room
  if (reply.ByteSizeLong() > link_message::kMaxToHost) {
    reply.clear_body();
    *reply.mutable_error() =
        wire::error_reply(ErrorKind::failed, pool_.name() + ": the answer is too large for a link").error();
  }
  MutexLock lock(mutex_);
  step(Membership::Answered{asked.host.id, asked.incarnation, std::move(reply)});
}

wire::LinkReply Server::serve(const Membership::Execute& asked) {
  if (!asked.request.has_control() && options_.serve) return options_.serve(asked.host, asked.request);
  wire::LinkReply reply;
  if (asked.request.has_control()) {
    *reply.mutable_control() = control(asked.request.control(), asked.request.again());
  } else {
    *reply.mutable_error() =
        wire::error_reply(ErrorKind::usage, "unknown request (the hosts have vsnap of different versions)")
            .error();
  }
  return reply;
}

wire::ControlReply Server::control(wire::ControlRequest request, bool again) {
  if (!may_be_asked_for(request)) {
    return wire::error_reply(
        ErrorKind::usage,
        fmt::format("{}: that can be asked for only on the host that coordinates it", pool_.name()));
  }
  if (auto reply = answer(request)) return std::move(*reply);
  request.set_again(request.again() || again);
  UntilStopped sink(stopping_);
  std::optional<Waits> waits;
  if (only_waits(request)) waits.emplace();
  return execute(pool_, request, sink);
}

// ---- requests that concern hosts ----

std::optional<wire::ControlReply> Server::answer(const wire::ControlRequest& request) {
  const auto reply_of = [](Result<wire::ControlReply> reply) {
    return reply ? std::move(*reply) : wire::error_reply(reply.error());
  };
  if (request.version() != wire::kProtocolVersion) return std::nullopt;
  if (options_.answer_first) {
    if (auto reply = options_.answer_first(request)) return reply;
  }
  if (request.has_invite_host()) return reply_of(invite(request.invite_host()));
  if (request.has_revoke_host()) return reply_of(revoke(request.revoke_host(), request.again()));
  if (request.has_list_hosts()) return list();
  return std::nullopt;
}

Result<wire::ControlReply> Server::invite(const wire::InviteHostRequest& request) {
  if (request.valid_ns() <= 0 || request.valid_ns() > kLongestInvitation_ns)
    return failure(ErrorKind::usage, "host invite: an invitation is valid for a second to a year");
  const KeyPair once = new_key_pair();
  const MutexLock roster(roster_mutex_);
  VSNAP_TRY_ASSIGN(Invitation invitation, pool_.invite(once.public_key, request.name(), request.valid_ns()));
  InvitationToken token{options_.address, options_.key.public_key, pool_.name(), {},
                        once.secret_key,  invitation.expires_ns};
  MutexLock lock(mutex_);
  if (token.address.ends_with(":0")) token.address = bound_;
  token.pool_uuid = machine_->settings().pool_uuid;
  std::erase_if(invitations_,
                [now_ns = env_.wall_clock_ns()](const Invitation& one) { return one.expires_ns <= now_ns; });
  invitations_.push_back(std::move(invitation));
  wire::ControlReply reply;
  reply.mutable_invitation()->set_token(invitation_token::text_of(token));
  reply.mutable_invitation()->set_expires_ns(token.expires_ns);
  return reply;
}

Result<wire::ControlReply> Server::revoke(const wire::RevokeHostRequest& request, bool again) {
  wire::ControlReply reply;
  {
    const MutexLock roster(roster_mutex_);
    VSNAP_TRY_ASSIGN(const Hosts gone, host_list::revoke(pool_, request, again));
    *reply.mutable_hosts() = host_list::of(gone, {}, env_.wall_clock_ns());
    if (request.dry_run()) return reply;
    MutexLock lock(mutex_);
    for (const HostInfo& host : gone.hosts) step(Membership::HostRevoked{host.key});
    for (const Invitation& invitation : gone.invitations)
      std::erase_if(invitations_, [&](const Invitation& one) { return one.key == invitation.key; });
  }
  log::info("{}: host {} is revoked", pool_.name(), request.name());
  wake();
  return reply;
}

wire::ControlReply Server::list() {
  wire::ControlReply reply;
  wire::HostList& hosts = *reply.mutable_hosts();
  host_list::HeldByHosts held = host_list::held_of(pool_);
  if (options_.count_open) {
    for (const auto& [host, count] : options_.count_open()) held[host].open = count;
  }
  MutexLock lock(mutex_);
  for (const HostStatus& host : machine_->status(env_.monotonic_ns())) host_list::add(hosts, host, held);
  host_list::add(hosts, invitations_, env_.wall_clock_ns());
  hosts.set_epoch(epoch_);
  hosts.set_address(bound_.empty() ? options_.address : bound_);
  hosts.set_lease_ns(static_cast<std::uint64_t>(options_.lease_ns));
  hosts.set_refused_at_gate(refused_at_gate_.load());
  hosts.set_refused_strangers(machine_->refused_strangers());
  return reply;
}

} // namespace

Result<std::unique_ptr<Coordinator>> Coordinator::start(Pool& pool, Env& env, Options options) {
  std::unique_ptr<Server> server;
  try {
    server = std::make_unique<Server>(pool, env, std::move(options));
  } catch (const zmq::error_t& e) {
    return system_failure(e.num(), "coordinator");
  }
  VSNAP_TRY(server->begin());
  return server;
}

} // namespace vsnap
