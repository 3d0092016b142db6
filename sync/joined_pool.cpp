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

constexpr milliseconds kLongestRequest(30'000);
constexpr milliseconds kLongestForward(3'600'000); // of a command
constexpr milliseconds kLookAgain(100);            // at the session, where nobody says that it has changed
constexpr milliseconds kLongestLook(2'000);        // at a volume, for what stat(2) says
constexpr std::uint32_t kMaxRead = 1U << 20;       // bytes at once, through the coordinator

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

// Higher with each session: epochs only grow, and so do the sessions of one.
std::uint64_t number_of(const LinkStatus& status) { return (status.epoch << 32U) + status.session; }

} // namespace

JoinedPool::JoinedPool(Env& env, Options options)
    : env_(env),
      name_(options.link.pool),
      only_(std::move(options.only)),
      host_number_(number_of(options.link.own.public_key)),
      members_(env, options.link.pool_uuid, std::move(options.members), std::move(options.search)),
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
  if (link_) link_->stop();
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
}

void JoinedPool::lease_lasts(std::int64_t until_ns) {
  MutexLock lock(mutex_);
  if (tenure_ != nullptr) tenure_->until_ns.store(until_ns);
}

void JoinedPool::session_lost() {
  MutexLock lock(mutex_);
  lapse_volumes();
  changed_.notify_all();
}

// Those that are being opened for the first time are not open anywhere.
void JoinedPool::lapse_volumes() {
  ++lapses_;
  if (tenure_ != nullptr) {
    tenure_->until_ns.store(0);
    tenure_->number.fetch_add(1);
  }
  for (auto& [view, open] : volumes_) {
    if (open.session == 0 || !open.volume->lapse()) continue;
    log::error(
        "{}/{}: the lease has run out, and another host may have taken it over: programs that had it "
        "open get EIO until they open it again",
        name_, open.volume->name());
  }
}

void JoinedPool::ended(wire::RefusalReason reason) {
  log::error("{}: {}", name_,
             reason == wire::REFUSED_REVOKED ? "this host was revoked; nothing can be read any more"
                                             : "the coordinator has ended the session for good");
  MutexLock lock(mutex_);
  ended_ = true;
  changed_.notify_all();
}

void JoinedPool::told(const wire::Notice& notice) {
  if (!notice.has_generation()) return;
  MutexLock lock(mutex_);
  stale_ = true;
  changed_.notify_all();
}

Result<std::uint64_t> JoinedPool::session_unless(const std::function<bool()>& given_up) {
  const std::int64_t until_ns = env_.monotonic_ns() + std::chrono::nanoseconds(kLongestWait).count();
  for (;;) {
    const LinkStatus status = link_->status();
    // By the clock as well: this process may have stood still, and the link's thread not have run since.
    const bool valid = status.phase == HostSession::Phase::normal && status.session != 0 &&
                       env_.monotonic_ns() < status.lease_until_ns;
    if (valid) return number_of(status);
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

// ---- views ----

Result<> JoinedPool::ensure_open(ObjectId view) {
  VSNAP_TRY_ASSIGN(const std::uint64_t now, session());
  wire::LinkRequest request;
  {
    MutexLock lock(mutex_);
    const auto found = open_.find(view.value());
    if (found == open_.end()) return failure(ErrorKind::failed, EBADF, "the snapshot is being closed");
    if (found->second.session == now) return {};
    request.mutable_open_view()->set_view(view.value());
    request.mutable_open_view()->set_number(found->second.number);
  }
  const std::uint64_t number = request.open_view().number();
  const auto reply = ask(std::move(request), kLongestRequest);
  if (!reply && reply.error().kind == ErrorKind::not_found) {
    return failure(ErrorKind::failed, ESTALE,
                   fmt::format("{}: a snapshot was removed while this host had no session", name_));
  }
  VSNAP_TRY(reply);
  MutexLock lock(mutex_);
  const auto found = open_.find(view.value());
  if (found != open_.end() && found->second.number == number) found->second.session = now;
  return {};
}

Result<ViewHandle> JoinedPool::open_view(ObjectId id) {
  VSNAP_TRY_ASSIGN(const ViewInfo info, known_info(id));
  if (info.kind == ViewKind::volume) return open_volume(info);
  std::shared_ptr<FetchedView> view;
  {
    MutexLock lock(mutex_);
    Open& open = open_[id.value()];
    if (open.number == 0) open.number = ++opened_;
    if (!open.view)
      open.view = std::make_shared<FetchedView>(info, static_cast<MapSource&>(*this), members_, maps_);
    ++open.handles;
    view = open.view;
  }
  ViewHandle handle(this, view);
  VSNAP_TRY(ensure_open(id));
  return handle;
}

void JoinedPool::handle_closed(View& view) noexcept {
  std::shared_ptr<View> last;
  std::uint64_t number = 0;
  {
    MutexLock lock(mutex_);
    if (auto volume = volumes_.extract(&view)) {
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

// ---- volumes ----

Failure JoinedPool::lapsed(const RemoteVolume& volume) const {
  return failure(ErrorKind::failed, EIO,
                 fmt::format("{}/{}: its lease has run out (open it again)", name_, volume.name()));
}

Result<ViewHandle> JoinedPool::open_volume(const ViewInfo& info, std::optional<std::uint64_t> losses) {
  std::shared_ptr<RemoteVolume> volume;
  {
    MutexLock lock(mutex_);
    std::shared_ptr<UnsyncedChanges> unsynced;
    for (const auto& [view, open] : volumes_) {
      if (open.volume->id() == info.id) unsynced = open.volume->unsynced();
    }
    if (!unsynced) unsynced = std::make_shared<UnsyncedChanges>();
    if (losses) { // by the process before
      unsynced->begin();
      unsynced->end();
    }
    volume = std::make_shared<RemoteVolume>(info, ++opened_, static_cast<RemoteIo&>(*this), unsynced);
    volumes_[volume.get()] = {volume, 0, losses.value_or(0), losses.has_value()};
  }
  ViewHandle handle(this, volume);
  VSNAP_TRY(ensure_volume_open(*volume));
  return handle;
}

Result<std::uint64_t> JoinedPool::ensure_volume_open(RemoteVolume& volume) {
  const auto now = session_unless([&volume] { return volume.has_lapsed(); });
  if (volume.has_lapsed()) return lapsed(volume);
  VSNAP_TRY(now);
  {
    MutexLock lock(mutex_);
    const auto found = volumes_.find(&volume);
    if (found == volumes_.end()) return failure(ErrorKind::failed, EBADF, "the volume is being closed");
    if (found->second.session == *now) return *now;
  }
  VSNAP_TRY(open_there(volume, *now));
  return *now;
}

Result<> JoinedPool::open_there(RemoteVolume& volume, std::uint64_t session) {
  wire::LinkRequest request;
  wire::OpenViewRequest& open = *request.mutable_open_view();
  bool is_first = false;
  {
    MutexLock lock(mutex_);
    const auto found = volumes_.find(&volume);
    if (found == volumes_.end()) return failure(ErrorKind::failed, EBADF, "the volume is being closed");
    is_first = found->second.session == 0;
    if (found->second.goes_on || (!is_first && volume.unsynced()->any()))
      open.set_losses(found->second.losses);
  }
  open.set_view(volume.id().value());
  open.set_number(volume.number());
  const auto reply = ask_until(std::move(request), false, [&volume] { return volume.has_lapsed(); });
  const bool is_answered = reply || reply.error().kind != ErrorKind::no_answer;
  if (!reply && is_answered && !is_first && !volume.has_lapsed()) {
    log::error("{}/{}: cannot be gone on with: {}", name_, volume.name(), reply.error().message);
    MutexLock lock(mutex_);
    for (auto& [view, other] : volumes_) {
      if (other.volume->id() == volume.id() && other.session != 0 && other.session != session)
        other.volume->lapse();
    }
    volume.lapse();
  }
  if (!is_first && volume.has_lapsed()) return lapsed(volume);
  VSNAP_TRY(reply);
  volume.set_size(reply->opened().view().size_bytes());
  MutexLock lock(mutex_);
  const auto found = volumes_.find(&volume);
  if (found == volumes_.end()) return {};
  found->second.session = session;
  found->second.losses = reply->opened().losses();
  found->second.goes_on = false;
  note_losses();
  return {};
}

// The least: what it is higher than may have been lost of one of them.
void JoinedPool::note_losses() {
  if (tenure_ == nullptr) return;
  std::optional<std::uint64_t> least;
  for (const auto& [view, open] : volumes_) {
    if (open.session != 0 && !open.volume->has_lapsed())
      least = std::min(least.value_or(open.losses), open.losses);
  }
  if (least) tenure_->losses.store(*least);
}

Result<wire::LinkReply> JoinedPool::carry_out(RemoteVolume& volume, const Make& make) {
  for (;;) {
    VSNAP_TRY_ASSIGN(const std::uint64_t session, ensure_volume_open(volume));
    wire::LinkRequest request;
    make(request);
    auto reply = ask_until(std::move(request), false, [&volume] { return volume.has_lapsed(); });
    if (volume.has_lapsed()) return lapsed(volume);
    // A coordinator that has taken over has it not open yet; or another thread has seen to that since.
    if (reply || reply.error().errno_value != ESTALE) return reply;
    MutexLock lock(mutex_);
    const auto found = volumes_.find(&volume);
    if (found == volumes_.end()) return reply;
    // By another thread, or in another session, it is being opened anew.
    if (found->second.session != session || session != number_of(link_->status())) continue;
    if (volume.lapse())
      log::error("{}/{}: was taken from this host (vsnap lock break)", name_, volume.name());
    return lapsed(volume);
  }
}

// Whoever was the host's process before has, or had, a session that ended where the one of this began. What
// it had open is still this host's where that was before its lease was over.
void JoinedPool::keep_tenure(Tenure* tenure) {
  const LinkStatus status = link_->status();
  MutexLock lock(mutex_);
  tenure_ = tenure;
  if (tenure == nullptr) return;
  tenure_before_ = kNoTenure;
  if (tenure->until_ns.load() > env_.monotonic_ns())
    tenure_before_ = tenure->number.load();
  else
    tenure->number.fetch_add(1);
  losses_before_ = tenure->losses.load();
  tenure->until_ns.store(status.session != 0 ? status.lease_until_ns : 0);
}

Result<ViewHandle> JoinedPool::go_on_with(ObjectId id, std::uint64_t tenure) {
  VSNAP_TRY_ASSIGN(const ViewInfo info, known_info(id));
  if (info.kind == ViewKind::snapshot) return open_view(id);
  std::uint64_t losses = 0;
  {
    MutexLock lock(mutex_);
    losses = losses_before_;
    if (tenure_ == nullptr || tenure != tenure_before_ || tenure != tenure_->number.load()) {
      return failure(ErrorKind::failed, EIO,
                     fmt::format("{}/{}: its lease ran out while no daemon renewed it, and another host may "
                                 "have taken it over",
                                 name_, info.name.text()));
    }
  }
  return open_volume(info, losses);
}

// ---- MapSource ----

Result<PoolStatus> JoinedPool::fetch_members() {
  wire::ControlRequest request;
  request.mutable_status()->set_mark_members(true);
  VSNAP_TRY_ASSIGN(const wire::ControlReply reply, control(std::move(request)));
  return wire::from_wire(reply.status());
}

Result<std::optional<RegionMap>> JoinedPool::fetch_map(ObjectId view, RegionIndex region) {
  VSNAP_TRY(ensure_open(view));
  wire::LinkRequest request;
  request.mutable_map()->set_view(view.value());
  request.mutable_map()->set_region(region.value());
  VSNAP_TRY_ASSIGN(const wire::LinkReply reply, ask(std::move(request), kLongestRequest));
  const wire::MapReply& got = reply.map();
  if (got.may_move()) return std::nullopt;
  const auto broken = [this] {
    return failure(ErrorKind::failed, EPROTO, fmt::format("{}: a map that says nothing came", name_));
  };
  if (got.starts_size() != got.counts_size() || got.starts_size() != got.places_size()) return broken();
  RegionMap map;
  std::uint64_t end = 0;
  for (int i = 0; i < got.starts_size(); ++i) {
    if (got.starts(i) < end || got.counts(i) == 0 ||
        std::uint64_t{got.starts(i)} + got.counts(i) > kRegionBlocks)
      return broken();
    end = std::uint64_t{got.starts(i)} + got.counts(i);
    map.push_back({first_block(region) + BlockCount(got.starts(i)), BlockCount(got.counts(i)),
                   BlockKind::data, Place::unpack(got.places(i))});
  }
  return map;
}

Result<std::size_t> JoinedPool::read(ObjectId view, std::uint64_t offset, std::span<std::byte> out) {
  VSNAP_TRY(ensure_open(view));
  std::size_t done = 0;
  while (done < out.size()) {
    wire::LinkRequest request;
    wire::ReadRequest& read = *request.mutable_read();
    read.set_view(view.value());
    read.set_offset(offset + done);
    read.set_length(static_cast<std::uint32_t>(std::min<std::size_t>(out.size() - done, kMaxRead)));
    const std::uint32_t wanted = read.length();
    VSNAP_TRY_ASSIGN(const wire::LinkReply reply, ask(std::move(request), kLongestRequest));
    const std::string& data = reply.read().data();
    if (data.size() > wanted) return failure(ErrorKind::failed, EPROTO, "more came than was asked for");
    std::memcpy(out.data() + done, data.data(), data.size());
    done += data.size();
    if (data.size() < wanted) break;
  }
  return done;
}

Result<std::optional<std::uint64_t>> JoinedPool::seek(ObjectId view, std::uint64_t offset, bool hole) {
  VSNAP_TRY(ensure_open(view));
  wire::LinkRequest request;
  request.mutable_seek()->set_view(view.value());
  request.mutable_seek()->set_offset(offset);
  request.mutable_seek()->set_hole(hole);
  VSNAP_TRY_ASSIGN(const wire::LinkReply reply, ask(std::move(request), kLongestRequest));
  return reply.seek().has_offset() ? std::optional(reply.seek().offset()) : std::nullopt;
}

// ---- the directory of the mount ----

Result<wire::LinkReply> JoinedPool::change_names(wire::LinkRequest request) {
  if (is_read_only()) return read_only();
  auto reply = ask(std::move(request), kLongestForward);
  if (const auto read = refresh_list(); !read) log::debug("{}: {}", name_, read.error().message);
  return reply;
}

// The kernels of two hosts may count alike.
std::uint64_t JoinedPool::number_for_all(std::uint64_t request) const {
  return std::max<std::uint64_t>((request ^ host_number_) >> 1U, 1);
}

std::uint64_t JoinedPool::asked_by() const {
  const auto request = AskedBy::current();
  return request ? number_for_all(request->number) : 0;
}

Result<std::optional<ObjectId>> JoinedPool::carried_out(RequestId request) {
  wire::LinkRequest asked;
  asked.mutable_carried_out()->set_asked_by(number_for_all(request.number));
  VSNAP_TRY_ASSIGN(const wire::LinkReply reply, ask(std::move(asked), kLongestRequest));
  const wire::CarriedOut& found = reply.carried_out();
  return found.has_object() ? std::optional(ObjectId(found.object())) : std::nullopt;
}

Result<ViewInfo> JoinedPool::create_volume(const std::string& name, std::uint64_t size_bytes) {
  wire::LinkRequest request;
  request.mutable_create_file()->set_name(name);
  request.mutable_create_file()->set_asked_by(asked_by());
  VSNAP_TRY_ASSIGN(const wire::LinkReply reply, change_names(std::move(request)));
  ViewInfo made = wire::from_wire(reply.view());
  made.changes_elsewhere = true;
  if (size_bytes != 0) VSNAP_TRY(resize(made.id, size_bytes, true));
  return made;
}

Result<> JoinedPool::rename(const ViewName& from, const std::string& new_name, bool replace) {
  wire::LinkRequest request;
  wire::RenameFileRequest& rename = *request.mutable_rename_file();
  *rename.mutable_from() = wire::to_wire(from);
  rename.set_new_name(new_name);
  rename.set_replace(replace);
  rename.set_asked_by(asked_by());
  VSNAP_TRY(change_names(std::move(request)));
  return {};
}

Result<RemovalPlan> JoinedPool::remove(std::span<const ViewName> names, RemoveOptions options) {
  if (names.size() != 1 || !options.even_if_open || options.dry_run) return read_only(); // as unlink(2) only
  wire::LinkRequest request;
  *request.mutable_remove_file()->mutable_name() = wire::to_wire(names.front());
  request.mutable_remove_file()->set_asked_by(asked_by());
  VSNAP_TRY(change_names(std::move(request)));
  RemovalPlan plan;
  plan.removed.push_back(names.front());
  return plan;
}

Result<ViewInfo> JoinedPool::set_of_volume(wire::SetAttributesRequest request) {
  if (is_read_only()) return read_only();
  wire::LinkRequest asked;
  *asked.mutable_set_attributes() = std::move(request);
  VSNAP_TRY_ASSIGN(const wire::LinkReply reply, ask(std::move(asked), kLongestForward));
  return wire::from_wire(reply.view());
}

std::pair<std::shared_ptr<RemoteVolume>, std::uint64_t> JoinedPool::open_volume_of(ObjectId id) {
  MutexLock lock(mutex_);
  for (const auto& [view, open] : volumes_) {
    if (open.volume->id() == id && open.session != 0 && !open.volume->has_lapsed())
      return {open.volume, lapses_};
  }
  return {nullptr, lapses_};
}

Result<wire::LinkReply> JoinedPool::set_size(RemoteVolume& volume, std::uint64_t size_bytes) {
  return carry_out(volume, [&](wire::LinkRequest& request) {
    wire::SetAttributesRequest& set = *request.mutable_set_attributes();
    set.set_view(volume.id().value());
    set.set_size_bytes(size_bytes);
    set.set_number(volume.number());
  });
}

// As every change of data: of an opening, so that it is not carried out after the lease. One that there is,
// as what was removed is not opened any more; unless that is closed meanwhile.
Result<> JoinedPool::resize(ObjectId id, std::uint64_t size_bytes, bool) {
  if (is_read_only()) return read_only();
  VSNAP_TRY_ASSIGN(const ViewInfo known, known_info(id));
  if (known.kind != ViewKind::volume) return read_only();
  const auto [open, lapses] = open_volume_of(id);
  Result<wire::LinkReply> reply = failure(ErrorKind::failed, ESTALE, {});
  if (open) reply = set_size(*open, size_bytes);
  if (!reply && (reply.error().errno_value == ESTALE || reply.error().errno_value == EBADF)) {
    VSNAP_TRY_ASSIGN(const ViewHandle handle, open_volume(known));
    auto& own = static_cast<RemoteVolume&>(*handle);
    if (open_volume_of(id).second != lapses) return lapsed(own); // and so has what was asked
    reply = set_size(own, size_bytes);
  }
  VSNAP_TRY(reply);
  MutexLock lock(mutex_);
  for (auto& [view, volume] : volumes_) {
    if (volume.volume->id() == id) volume.volume->set_size(reply->view().size_bytes());
  }
  return {};
}

Result<> JoinedPool::set_attributes(ObjectId id, std::optional<std::uint32_t> mode,
                                    std::optional<std::uint32_t> uid, std::optional<std::uint32_t> gid,
                                    std::optional<std::int64_t> modified_ns) {
  wire::SetAttributesRequest request;
  request.set_view(id.value());
  if (mode) request.set_mode(*mode);
  if (uid) request.set_uid(*uid);
  if (gid) request.set_gid(*gid);
  if (modified_ns) request.set_modified_ns(*modified_ns);
  VSNAP_TRY(set_of_volume(std::move(request)));
  return {};
}

// ---- what this host does not do by itself ----

Failure JoinedPool::read_only() const {
  return failure(ErrorKind::failed, EROFS,
                 fmt::format("{}: not asked for through a file of the mount", name_));
}

Result<DiskUsage> JoinedPool::disk_usage() { return read_only(); }
Result<> JoinedPool::add_member(const MemberSpec&, bool) { return read_only(); }
Result<> JoinedPool::snapshot(std::span<const ViewName>) { return read_only(); }
Result<RollbackResult> JoinedPool::rollback(const ViewName&, bool, bool, const Progress&) {
  return read_only();
}
Result<ViewInfo> JoinedPool::clone(const ViewName&, const std::string&) { return read_only(); }
Result<> JoinedPool::share_into(ObjectId, ObjectId) { return read_only(); }
Result<ViewInfo> JoinedPool::preserve(const ViewName&) { return read_only(); }
Result<> JoinedPool::flatten(const std::string&, const Progress&) { return read_only(); }
Result<> JoinedPool::snapshot_full(const ViewName&, const FullSnapshotOptions&) { return read_only(); }
Result<> JoinedPool::wait_for_copy(const ViewName&, const Progress&) { return read_only(); }
Result<> JoinedPool::set_copy(const ViewName&, const CopySettings&) { return read_only(); }
Result<ViewInfo> JoinedPool::split(const ViewName&, const std::string&) { return read_only(); }
Result<ViewInfo> JoinedPool::refresh(const ViewName&) { return read_only(); }
Result<> JoinedPool::wait_for_removals(const Progress&) { return read_only(); }
Result<> JoinedPool::diff(const ViewName&, const ViewName&, const std::function<bool(const DiffRange&)>&) {
  return read_only();
}
Result<CheckReport> JoinedPool::check(bool, const Progress&) { return read_only(); }
Result<> JoinedPool::dump_catalog(const std::string&, const Progress&) { return read_only(); }

} // namespace vsnap
