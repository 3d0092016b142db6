#include "sync/joined_pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <future>
#include <system_error>
#include <utility>

#include "core/log.h"
#include "sync/wire.h"

namespace vsnap {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLongestLook(2'000); // at a volume, for what stat(2) says

std::uint64_t random_number(Env& env) {
  const Uuid random = env.random_uuid();
  std::uint64_t number = 0;
  std::memcpy(&number, random.data(), sizeof number);
  return number >> 1U | 1U;
}

std::uint64_t number_of(const HostKey& key) {
  std::uint64_t number = 0;
  std::memcpy(&number, key.data(), sizeof number);
  return number;
}

// Hosts may share a machine.
std::string memory_name(const Link::Options& link, bool writes) {
  if (!writes) return {};
  return fmt::format("vsnap-granted-{}-{:016x}", to_string(link.pool_uuid), number_of(link.own.public_key));
}

} // namespace

JoinedPool::JoinedPool(Env& env, Options options)
    : env_(env),
      name_(options.link.pool),
      only_(std::move(options.only)),
      host_number_(number_of(options.link.own.public_key)),
      members_(env, options.link.pool_uuid, std::move(options.members), std::move(options.search)),
      direct_(env, members_, *this, memory_name(options.link, only_.empty())),
      opened_(random_number(env)) {}

JoinedPool::~JoinedPool() { static_cast<void>(close()); }

Result<std::unique_ptr<JoinedPool>> JoinedPool::open(Env& env, Options options) {
  Link::Options link = options.link;
  std::unique_ptr<JoinedPool> pool(new JoinedPool(env, std::move(options)));
  VSNAP_TRY(pool->start(std::move(link)));
  return pool;
}

Result<> JoinedPool::start(Link::Options options) {
  const std::string address = options.address;
  VSNAP_TRY_ASSIGN(link_, Link::start(env_, std::move(options), this));
  const std::int64_t until_ns = env_.monotonic_ns() + std::chrono::nanoseconds(kLongestStart).count();
  for (LinkStatus status = link_->status(); status.session == 0; status = link_->status()) {
    if (status.is_refused || status.phase == HostSession::Phase::ended) {
      return failure(
          ErrorKind::failed, EACCES,
          fmt::format("{0}: {1} does not let this host in (there: vsnap host invite {0}; here: vsnap "
                      "host join)",
                      name_, address));
    }
    if (env_.monotonic_ns() >= until_ns && status.is_elsewhere) {
      return failure(
          ErrorKind::busy,
          fmt::format("{}: another machine has a session under this host's key (a copy of it: vsnap-host(1), "
                      "FILES; this one, before it was started anew: try again when its lease is over)",
                      name_));
    }
    if (env_.monotonic_ns() >= until_ns) {
      return failure(
          ErrorKind::no_answer,
          fmt::format("{0}: no answer from its coordinator at {1} (is it mounted there, with --listen?)",
                      name_, address));
    }
    MutexLock lock(mutex_);
    changed_.wait_for(mutex_, kLookAgain);
  }
  const PoolStatus known = status();
  if (known.members.empty()) return failure(ErrorKind::no_answer, fmt::format("{}: {}", name_, known.health));
  VSNAP_TRY_ASSIGN(const std::uint64_t session, this->session());
  if (auto here = members_.require(session, *this); !here)
    return failure(here.error().kind, fmt::format("{}: {}", name_, here.error().message));
  // With the members there: what a process before this one wrote to them is flushed first.
  VSNAP_TRY(direct_.start([this](wire::LinkRequest request, Link::Answered answered) {
    link_->call(std::move(request), std::move(answered));
  }));
  if (!direct_.await_left(kLongestStart))
    return failure(ErrorKind::no_answer,
                   fmt::format("{}: its coordinator has not taken yet what the daemon before wrote", name_));
  VSNAP_TRY(refresh_list());
  try {
    follower_ = std::thread([this] { follow(); });
  } catch (const std::system_error& e) {
    return system_failure(e.code().value(), "joined pool: thread");
  }
  return {};
}

Result<> JoinedPool::close() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
    changed_.notify_all();
    turn_.notify_all();
  }
  if (follower_.joinable()) follower_.join();
  const bool is_handed_over = direct_.close();
  if (link_ && is_handed_over) link_->stop();
  if (link_ && !is_handed_over) link_->abandon();
  return {};
}

// ---- the link ----

class JoinedPool::Turn {
 public:
  Turn(JoinedPool& pool, bool forwarded, bool changes)
      : pool_(pool), forwarded_(forwarded), changes_(changes) {
    MutexLock lock(pool_.mutex_);
    while (is_full() && !pool_.gives_up()) pool_.turn_.wait(pool_.mutex_);
    ++count();
    if (changes_) ++pool_.changing_;
  }
  ~Turn() {
    MutexLock lock(pool_.mutex_);
    --count();
    if (changes_) --pool_.changing_;
    pool_.turn_.notify_all();
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  std::size_t& count() VSNAP_REQUIRES(pool_.mutex_) { return forwarded_ ? pool_.forwarded_ : pool_.asked_; }
  bool is_full() VSNAP_REQUIRES(pool_.mutex_) {
    return count() >= (forwarded_ ? kMostForwarded : kMostAsked) ||
           (changes_ && pool_.changing_ >= kMostChanging);
  }
  JoinedPool& pool_;
  const bool forwarded_;
  const bool changes_;
};

// Given up when the pool is closed.
Result<wire::LinkReply> JoinedPool::ask(wire::LinkRequest request, milliseconds longest) {
  const bool forwarded = longest == kLongestForward;
  const std::int64_t until_ns = env_.monotonic_ns() + std::chrono::nanoseconds(longest).count();
  return ask_until(std::move(request), forwarded, [&] { return env_.monotonic_ns() >= until_ns; });
}

Result<wire::LinkReply> JoinedPool::ask_until(wire::LinkRequest request, bool forwarded,
                                              const std::function<bool()>& given_up) {
  const bool changes = request.has_write() || request.has_discard() || request.has_reserve();
  const Turn turn(*this, forwarded, changes); // the coordinator takes only Membership::kMaxRunning at once
  const auto is_enough = [&] {
    const bool enough = given_up();
    MutexLock lock(mutex_);
    return gives_up() || enough || (forwards_end_ && forwarded);
  };
  for (;;) {
    // Shared with the link, which may answer after this has given up.
    auto promise = std::make_shared<std::promise<wire::LinkReply>>();
    std::future<wire::LinkReply> answer = promise->get_future();
    link_->call(request, [promise](wire::LinkReply reply) { promise->set_value(std::move(reply)); });
    while (answer.wait_for(kLookAgain) != std::future_status::ready) {
      if (is_enough())
        return failure(ErrorKind::no_answer, EIO, fmt::format("{}: no answer from its coordinator", name_));
    }
    wire::LinkReply reply = answer.get();
    if (!reply.has_error()) return reply;
    Error error = wire::from_wire(reply.error());
    // Too much at once, there or on the link: it was not begun, and no program is to hear of that.
    const bool again = error.kind == ErrorKind::busy && error.errno_value == EAGAIN;
    if (!again || is_enough()) return Failure(std::move(error));
    MutexLock lock(mutex_);
    changed_.wait_for(mutex_, kLookAgain);
  }
}

Result<wire::ControlReply> JoinedPool::control(wire::ControlRequest request) {
  request.set_version(wire::kProtocolVersion);
  wire::LinkRequest asked;
  *asked.mutable_control() = std::move(request);
  VSNAP_TRY_ASSIGN(wire::LinkReply answer, ask(std::move(asked), kLongestRequest));
  wire::ControlReply& reply = *answer.mutable_control();
  if (reply.has_error()) return Failure(wire::from_wire(reply.error()));
  return std::move(reply);
}

wire::ControlReply JoinedPool::forward(wire::ControlRequest request) {
  wire::LinkRequest asked;
  *asked.mutable_control() = std::move(request);
  auto answer = ask(std::move(asked), kLongestForward);
  return answer ? std::move(*answer->mutable_control()) : wire::error_reply(answer.error());
}

void JoinedPool::end_forwards() {
  MutexLock lock(mutex_);
  forwards_end_ = true;
}

void JoinedPool::stop_waiting() {
  MutexLock lock(mutex_);
  waits_no_more_ = true;
  changed_.notify_all();
  turn_.notify_all();
}

void JoinedPool::phase_is(HostSession::Phase phase) {
  if (phase == HostSession::Phase::away)
    log::warning("{}: no session with its coordinator any more; reads wait for one", name_);
  MutexLock lock(mutex_);
  changed_.notify_all();
}

void JoinedPool::session_began(const HostSession::Began& session) {
  log::info("{}: session {} of epoch {} with its coordinator", name_, session.session, session.epoch);
  MutexLock lock(mutex_);
  if (!session.reclaim) lapse_volumes();
  stale_ = true; // while there was none nobody told anything
  changed_.notify_all();
  direct_.session_began();
}

void JoinedPool::lease_lasts(std::int64_t young_until_ns, std::int64_t until_ns) {
  direct_.lease_lasts(young_until_ns, until_ns);
  MutexLock lock(mutex_);
  if (tenure_ != nullptr) tenure_->until_ns.store(until_ns);
}

void JoinedPool::session_lost() {
  direct_.lease_lost();
  MutexLock lock(mutex_);
  lapse_volumes();
  changed_.notify_all();
}

// Also when this end has closed it.
void JoinedPool::ended(wire::RefusalReason reason) {
  if (reason == wire::REFUSED_REVOKED)
    log::error("{}: this host was revoked; nothing can be read any more", name_);
  else if (reason == wire::REFUSED_SUPERSEDED)
    log::error("{}: another process of this host has taken its place; nothing can be read any more", name_);
  MutexLock lock(mutex_);
  ended_ = true;
  changed_.notify_all();
}

void JoinedPool::told(const wire::Notice& notice) {
  if (notice.has_recall()) direct_.recalled(notice.recall().number());
  if (!notice.has_generation()) return;
  MutexLock lock(mutex_);
  stale_ = true;
  changed_.notify_all();
}

// Epochs only grow, and so do the sessions of one.
std::uint64_t JoinedPool::session_number(const LinkStatus& status) {
  return (status.epoch << 32U) + status.session;
}

Result<std::uint64_t> JoinedPool::session_unless(const std::function<bool()>& given_up) {
  const std::int64_t until_ns = env_.monotonic_ns() + std::chrono::nanoseconds(kLongestWait).count();
  for (;;) {
    const LinkStatus status = link_->status();
    // By the clock as well: this process may have stood still, and the link's thread not have run since.
    const bool valid = status.phase == HostSession::Phase::normal && status.session != 0 &&
                       env_.monotonic_ns() < status.lease_until_ns;
    if (valid) return session_number(status);
    const bool enough = given_up && given_up();
    MutexLock lock(mutex_);
    if (ended_ || gives_up() || enough || env_.monotonic_ns() >= until_ns) {
      return failure(
          waits_no_more_ && !ended_ ? ErrorKind::no_answer : ErrorKind::failed, EIO,
          fmt::format("{}: {}", name_,
                      ended_ ? "this host has no part in it any more" : "no session with its coordinator"));
    }
    changed_.wait_for(mutex_, kLookAgain);
  }
}

// ---- what there is ----

bool JoinedPool::is_shown(const ViewInfo& view) const {
  if (view.draining || (view.kind == ViewKind::volume && !only_.empty())) return false;
  return only_.empty() || std::any_of(only_.begin(), only_.end(), [&](const std::string& name) {
           return name == view.name.text() || name == view.name.volume;
         });
}

Result<> JoinedPool::refresh_list() {
  MutexLock turn(list_mutex_);
  wire::ControlRequest request;
  request.mutable_list()->set_without_figures(true);
  const std::uint64_t generation = link_->status().generation; // what is told from here on may be missing
  {
    MutexLock lock(mutex_);
    stale_ = false;
  }
  auto reply = control(std::move(request));
  if (!reply) {
    MutexLock lock(mutex_);
    stale_ = true;
    return Failure(reply.error());
  }
  std::map<std::uint64_t, ViewInfo> views;
  for (const wire::ViewInfo& wired : reply->views().views()) {
    ViewInfo view = wire::from_wire(wired);
    view.changes_elsewhere = view.kind == ViewKind::volume;
    if (is_shown(view)) views.emplace(view.id.value(), std::move(view));
  }
  std::set<std::string> changed;
  {
    MutexLock lock(mutex_);
    const auto differs = [](const auto& from, const auto& to, std::set<std::string>& names) {
      for (const auto& [id, view] : from) {
        const auto found = to.find(id);
        if (found == to.end() || found->second.name != view.name) names.insert(view.name.text());
      }
    };
    differs(views, views_, changed);
    differs(views_, views, changed);
    views_ = std::move(views);
  }
  link_->works_by(generation);
  MutexLock lock(observer_mutex_);
  if (observer_ == nullptr) return {};
  for (const std::string& name : changed) observer_->entry_changed(name);
  return {};
}

void JoinedPool::follow() {
  for (;;) {
    bool space_wanted = false;
    std::optional<std::uint64_t> closed;
    {
      MutexLock lock(mutex_);
      while (!stop_ && !stale_ && !space_wanted_ && closed_.empty()) changed_.wait(mutex_);
      if (stop_) return;
      if (!closed_.empty()) {
        closed = closed_.front();
        closed_.pop_front();
      } else {
        space_wanted = std::exchange(space_wanted_, false);
      }
    }
    if (closed) {
      close_there(*closed);
      continue;
    }
    if (space_wanted) {
      static_cast<void>(status());
      continue;
    }
    if (const auto read = refresh_list(); read) continue;
    MutexLock lock(mutex_);
    if (!stop_) changed_.wait_for(mutex_, kLookAgain);
  }
}

void JoinedPool::set_observer(PoolObserver* observer) {
  MutexLock lock(observer_mutex_);
  observer_ = observer;
}

// Who only wants to know how it is does not wait for a coordinator.
PoolStatus JoinedPool::status() {
  std::string problem = "no session with its coordinator";
  if (link_->status().session != 0) {
    wire::ControlRequest request;
    request.mutable_status();
    auto reply = control(std::move(request));
    if (reply) {
      MutexLock lock(mutex_);
      known_ = wire::from_wire(reply->status());
      known_at_ns_ = env_.monotonic_ns();
      return known_;
    }
    problem = reply.error().message;
  }
  MutexLock lock(mutex_);
  PoolStatus status = known_;
  status.name = name_;
  status.health = std::move(problem);
  return status;
}

SpaceInfo JoinedPool::space() {
  constexpr std::int64_t kFresh_ns = 1'000'000'000;
  MutexLock lock(mutex_);
  if (env_.monotonic_ns() - known_at_ns_ >= kFresh_ns) {
    space_wanted_ = true;
    changed_.notify_all();
  }
  return known_.space;
}

std::vector<ViewInfo> JoinedPool::list() {
  std::vector<ViewInfo> views;
  MutexLock lock(mutex_);
  for (const auto& [id, view] : views_) views.push_back(view);
  std::sort(views.begin(), views.end(),
            [](const ViewInfo& a, const ViewInfo& b) { return a.name.text() < b.name.text(); });
  return views;
}

Result<ViewInfo> JoinedPool::find(const ViewName& name) {
  for (const bool again : {false, true}) {
    if (again && link_->status().session == 0) break; // nobody to ask
    if (again) VSNAP_TRY(refresh_list());
    std::optional<ViewInfo> known;
    {
      MutexLock lock(mutex_);
      for (const auto& [id, view] : views_) {
        if (view.name == name) known = view;
      }
    }
    if (!known) continue;
    if (known->kind == ViewKind::snapshot) return *known;
    auto now = info_of_volume(*known);
    if (now && now->name == name) return now;
    if (!now && now.error().kind != ErrorKind::not_found) return now;
  }
  return failure(ErrorKind::not_found, fmt::format("{}/{}: no such volume or snapshot", name_, name.text()));
}

Result<ViewInfo> JoinedPool::known_info(ObjectId id) {
  MutexLock lock(mutex_);
  if (const auto found = views_.find(id.value()); found != views_.end()) return found->second;
  for (const auto& [view, open] : volumes_) { // it may have been removed
    if (open.volume->id() != id) continue;
    ViewInfo info;
    info.id = id;
    info.size_bytes = open.volume->size_bytes();
    info.changes_elsewhere = true;
    return info;
  }
  return failure(ErrorKind::not_found, "no such volume or snapshot");
}

Result<ViewInfo> JoinedPool::info(ObjectId id) {
  VSNAP_TRY_ASSIGN(ViewInfo known, known_info(id));
  return known.kind == ViewKind::snapshot ? std::move(known) : info_of_volume(known);
}

Result<ViewInfo> JoinedPool::info_of_volume(const ViewInfo& known) {
  if (link_->status().session == 0) return known;
  wire::LinkRequest request;
  request.mutable_set_attributes()->set_view(known.id.value()); // nothing of it
  const auto reply = ask(std::move(request), kLongestLook);
  if (!reply && reply.error().kind == ErrorKind::no_answer) return known;
  VSNAP_TRY(reply);
  ViewInfo info = wire::from_wire(reply->view());
  info.changes_elsewhere = true;
  return info;
}

// ---- what is closed ----

void JoinedPool::handle_closed(View& view) noexcept {
  std::shared_ptr<View> last;
  std::uint64_t number = 0;
  {
    MutexLock lock(mutex_);
    if (auto volume = volumes_.extract(&view)) {
      direct_.closed(view.id());
      number = volume.mapped().volume->number();
      last = std::move(volume.mapped().volume);
    } else {
      const auto found = open_.find(view.id().value());
      if (found == open_.end() || --found->second.handles > 0) return;
      number = found->second.number;
      last = std::move(found->second.view);
      open_.erase(found);
    }
  }
  try {
    MutexLock lock(mutex_);
    closed_.push_back(number);
    changed_.notify_all();
  } catch (const std::exception& e) {
    log::error("{}: closing a view: {}", name_, e.what());
  }
}

// Asked until it is answered: a coordinator that is busy, or away, would have the snapshot in use.
void JoinedPool::close_there(std::uint64_t number) {
  wire::LinkRequest request;
  request.mutable_close_view()->set_number(number);
  if (ask(std::move(request), kLongestRequest)) return;
  MutexLock lock(mutex_);
  if (ended_) return; // and so has everything there
  closed_.push_back(number);
  if (!stop_) changed_.wait_for(mutex_, kLookAgain);
}

} // namespace vsnap
