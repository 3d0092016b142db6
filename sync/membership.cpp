#include "sync/membership.h"

#include <algorithm>
#include <utility>

namespace vsnap {

std::string_view to_string(HostStatus::State state) {
  switch (state) {
    case HostStatus::State::away:
      return "away";
    case HostStatus::State::live:
      return "live";
    case HostStatus::State::left:
      return "left";
    case HostStatus::State::lost:
      return "lost";
  }
  return "away";
}

// Where this was not called for so long that renewals may have waited to be read, what came meanwhile cannot
// be known: the time does not count. Leases end later here, which is the safe side.
Membership::Actions Membership::step(const Event& event, std::int64_t now_ns) {
  if (now_ns_) {
    now_ns = std::max(now_ns, *now_ns_);
    const std::int64_t gap = now_ns - *now_ns_;
    if (gap > settings_.lease_ns / kStillFraction) {
      for (auto& [id, host] : hosts_) {
        if (host.session) host.session->expires_ns += gap;
      }
    }
  }
  now_ns_ = now_ns;
  actions_.clear();
  std::visit([this](const auto& one) { on(one); }, event);
  return std::exchange(actions_, {});
}

std::optional<std::int64_t> Membership::deadline_ns() const {
  std::optional<std::int64_t> first;
  for (const auto& [id, host] : hosts_) {
    if (host.session) first = std::min(first.value_or(host.session->expires_ns), host.session->expires_ns);
  }
  return first;
}

std::vector<HostStatus> Membership::status(std::int64_t now_ns) const {
  std::vector<HostStatus> found;
  for (const auto& [id, host] : hosts_) {
    HostStatus status{host.info, host.state};
    status.address = host.address;
    status.refused = host.refused;
    if (host.session) {
      status.session = host.session->number;
      status.lease_left_ns = std::max<std::int64_t>(host.session->expires_ns - now_ns, 0);
      status.lag = generation_ - std::min(generation_, host.session->generation);
    }
    found.push_back(std::move(status));
  }
  std::ranges::sort(found, {}, [](const HostStatus& status) { return status.host.name; });
  return found;
}

const HostInfo* Membership::host_of(const HostKey& key) const {
  const auto found =
      std::ranges::find_if(hosts_, [&](const auto& host) { return host.second.info.key == key; });
  return found == hosts_.end() ? nullptr : &found->second.info;
}

bool Membership::is_current(const HostKey& key, std::uint64_t incarnation) const {
  const auto found =
      std::ranges::find_if(hosts_, [&](const auto& host) { return host.second.info.key == key; });
  return found != hosts_.end() && found->second.incarnation == incarnation;
}

Membership::Host* Membership::find(const HostKey& key) {
  const auto found =
      std::ranges::find_if(hosts_, [&](const auto& host) { return host.second.info.key == key; });
  return found == hosts_.end() ? nullptr : &found->second;
}

// ---- who belongs to the pool ----

void Membership::on(const HostAdded& event) {
  auto& host = hosts_[event.host.id];
  host.info = event.host;
}

void Membership::on(const HostRevoked& event) {
  Host* const host = find(event.key);
  if (host == nullptr) return;
  if (host->session) {
    tell_end(*host->session, wire::REFUSED_REVOKED);
    end(*host, End::revoked, HostStatus::State::away);
  }
  hosts_.erase(host->info.id);
}

// ---- sessions ----

void Membership::on(const Received& event) {
  Host* const host = find(event.peer.key);
  if (host == nullptr) {
    ++refused_strangers_;
    return refuse(stranger_told_ns_, event.peer.route, event.message, wire::REFUSED_REVOKED);
  }
  if (host->session && host->session->expires_ns <= *now_ns_) end(*host, End::lost, HostStatus::State::lost);
  if (event.message.type == LinkType::hello) return on_hello(*host, event.peer, event.message);
  on_message(*host, event.peer, event.message);
}

void Membership::on(const Malformed& event) {
  if (Host* const host = find(event.key))
    ++host->refused.malformed;
  else
    ++refused_strangers_;
}

// Of a machine that has been copied, key and all, both may be at work. On one machine only one daemon is.
bool Membership::is_elsewhere(const Host& host, const wire::Hello& hello) {
  return host.session && hello.incarnation() != host.incarnation && !host.boot_id.empty() &&
         !hello.boot_id().empty() && hello.boot_id() != host.boot_id;
}

void Membership::on_hello(Host& host, const LinkPeer& peer, const LinkMessage& message) {
  wire::Hello hello;
  if (!hello.ParseFromString(message.payload) || hello.incarnation() == 0 ||
      hello.boot_id().size() > kMaxBootId) {
    ++host.refused.malformed;
    return;
  }
  if (std::ranges::find(host.gone, hello.incarnation()) != host.gone.end())
    return refuse(host, &RefusalCounts::session, peer, message, wire::REFUSED_SUPERSEDED);
  if (is_elsewhere(host, hello))
    return refuse(host, &RefusalCounts::session, peer, message, wire::REFUSED_ELSEWHERE);
  if (hello.incarnation() == host.incarnation) {
    if (hello.greeting() < host.greeting) { // overtaken by a later one of the same process
      ++host.refused.session;
      return;
    }
    if (host.session && hello.greeting() == host.session->greeting) { // its answer was lost
      take_route(host, peer);
      host.session->expires_ns = *now_ns_ + margin_lease_ns();
      return welcome(host, hello, message.sequence);
    }
    if (host.session) end(host, End::anew, HostStatus::State::live);
  } else if (host.incarnation != 0) {
    host.gone.push_back(host.incarnation);
    if (host.gone.size() > kMaxGone) host.gone.pop_front();
    if (host.session) {
      tell_end(*host.session, wire::REFUSED_SUPERSEDED);
      end(host, End::superseded, HostStatus::State::live);
    }
  }
  begin(host, peer, hello);
  welcome(host, hello, message.sequence);
}

void Membership::begin(Host& host, const LinkPeer& peer, const wire::Hello& hello) {
  if (hello.incarnation() != host.incarnation) {
    host.records.clear();
    host.settled = 0;
  }
  host.incarnation = hello.incarnation();
  host.greeting = hello.greeting();
  host.boot_id = hello.boot_id();
  host.session = Session{};
  host.session->number = ++last_session_;
  host.session->greeting = hello.greeting();
  host.session->expires_ns = *now_ns_ + margin_lease_ns();
  host.session->generation = generation_;
  host.state = HostStatus::State::live;
  take_route(host, peer);
  actions_.emplace_back(SessionBegan{host.info.id, host.session->number});
}

void Membership::end(Host& host, End why, HostStatus::State state) {
  actions_.emplace_back(SessionOver{host.info.id, host.session->number, why});
  host.session.reset();
  host.state = state;
}

// A route is that of whoever was heard there last: nothing for another host may go there.
void Membership::take_route(Host& host, const LinkPeer& peer) {
  host.address = peer.address;
  if (host.session->route == peer.route) return;
  for (auto& [id, other] : hosts_) {
    if (&other != &host && other.session && other.session->route == peer.route) other.session->route.clear();
  }
  host.session->route = peer.route;
}

void Membership::welcome(Host& host, const wire::Hello& hello, std::uint64_t sequence) {
  wire::Welcome message;
  message.set_incarnation(hello.incarnation());
  message.set_greeting(hello.greeting());
  message.set_hello(sequence);
  message.set_generation(generation_);
  message.set_lease_ns(static_cast<std::uint64_t>(settings_.lease_ns));
  message.set_pool(settings_.pool);
  message.set_pool_uuid(settings_.pool_uuid.data(), settings_.pool_uuid.size());
  send(*host.session, LinkType::welcome, message.SerializeAsString());
}

void Membership::on_message(Host& host, const LinkPeer& peer, const LinkMessage& message) {
  if (message.epoch != settings_.epoch)
    return refuse(host, &RefusalCounts::epoch, peer, message, wire::REFUSED_NO_SESSION);
  if (!host.session || message.session != host.session->number)
    return refuse(host, &RefusalCounts::session, peer, message, wire::REFUSED_NO_SESSION);
  if (message.sequence <= host.session->received) {
    ++host.refused.sequence;
    return;
  }
  host.session->received = message.sequence;
  take_route(host, peer);
  switch (message.type) {
    case LinkType::renew:
      return on_renew(host, message);
    case LinkType::request:
      return on_request(host, message);
    case LinkType::taken:
      return on_taken(host, message);
    case LinkType::goodbye:
      return end(host, End::left, HostStatus::State::left);
    default:
      ++host.refused.other; // perhaps of a later release, which does without
  }
}

void Membership::on_renew(Host& host, const LinkMessage& message) {
  wire::Renew renew;
  if (!renew.ParseFromString(message.payload)) {
    ++host.refused.malformed;
    return;
  }
  Session& session = *host.session;
  session.expires_ns = *now_ns_ + margin_lease_ns();
  session.generation = renew.generation();
  forget_answered(host, renew);
  wire::Renewed renewed;
  renewed.set_renew(message.sequence);
  renewed.set_generation(generation_);
  send(session, LinkType::renewed, renewed.SerializeAsString());
  drop_taken(session, renew.taken());
  for (Untaken& one : session.untaken) {
    if (*now_ns_ - one.sent_ns < settings_.lease_ns / 4) continue;
    one.sent_ns = *now_ns_;
    send(session, LinkType::notice, one.notice.SerializeAsString());
  }
}

void Membership::on(const Tick&) {
  for (auto& [id, host] : hosts_) {
    if (host.session && host.session->expires_ns <= *now_ns_) end(host, End::lost, HostStatus::State::lost);
  }
}

// The sessions stay: the coordinator may be back before anybody has lost anything.
void Membership::on(const Ending&) {
  for (auto& [id, host] : hosts_) {
    if (host.session) tell_end(*host.session, wire::REFUSED_ENDING);
  }
}

// ---- requests ----

// No later message of the host can be about one that it has the answer of: those sent before are not taken
// any more. What is running stays, whatever the host says of it, so that it is carried out once, and counts.
template <class Message>
void Membership::forget_answered(Host& host, const Message& message) {
  host.settled = std::max(host.settled, message.settled());
  for (auto record = host.records.begin(); record != host.records.lower_bound(host.settled);)
    record = record->second.running ? std::next(record) : host.records.erase(record);
  for (const std::uint64_t id : message.answered()) {
    const auto record = host.records.find(id);
    if (record != host.records.end() && !record->second.running) host.records.erase(record);
  }
}

void Membership::on_request(Host& host, const LinkMessage& message) {
  wire::LinkRequest request;
  if (!request.ParseFromString(message.payload) || request.id() == 0) {
    ++host.refused.malformed;
    return;
  }
  forget_answered(host, request);
  if (request.id() < host.settled) {
    ++host.refused.other; // it has said itself that it has the answer
    return;
  }
  if (const auto known = host.records.find(request.id()); known != host.records.end()) {
    if (known->second.running) return;
    if (known->second.reply) return reply(host, *known->second.reply);
    known->second.running = true;
    request.set_again(true);
  } else {
    const auto running =
        std::ranges::count_if(host.records, [](const auto& record) { return record.second.running; });
    if (host.records.size() >= kMaxRecords) { // it asks again, and says by then which answers it has
      ++host.refused.other;
      return;
    }
    // What is returned, or handed over before that, is waited for, perhaps by all that is running.
    const std::size_t most = kMaxRunning + (request.has_commit_blocks() ? kMaxHandovers : 0);
    if (static_cast<std::size_t>(running) >= most && !request.has_return_volumes()) {
      wire::LinkReply busy;
      busy.set_id(request.id());
      busy.mutable_error()->set_kind(wire::ERROR_BUSY);
      busy.mutable_error()->set_errno_value(EAGAIN); // as what is asked again
      busy.mutable_error()->set_message(settings_.pool + ": this host has too many requests running already");
      host.records[request.id()] = {false, busy};
      return reply(host, busy);
    }
    host.records[request.id()];
  }
  actions_.emplace_back(Execute{host.info, host.incarnation, std::move(request)});
}

void Membership::on(const Answered& event) {
  const auto found = hosts_.find(event.host);
  if (found == hosts_.end() || found->second.incarnation != event.incarnation) return;
  Host& host = found->second;
  const auto record = host.records.find(event.reply.id());
  if (record == host.records.end()) return;
  record->second.running = false;
  if (record->first < host.settled) { // it said that it had the answer before there was one
    host.records.erase(record);
    return;
  }
  if (event.reply.ByteSizeLong() <= kMaxKeptReply) record->second.reply = event.reply;
  reply(host, event.reply);
}

// Without a session the host is going to ask again.
void Membership::reply(Host& host, const wire::LinkReply& message) {
  if (host.session) send(*host.session, LinkType::reply, message.SerializeAsString());
}

// ---- notices ----

void Membership::on(const Tell& event) {
  for (auto& [id, host] : hosts_) {
    if (host.session && (event.host == 0 || event.host == id)) tell(host, event.notice);
  }
}

void Membership::on(const Evict& event) {
  const auto found = hosts_.find(event.host);
  if (found != hosts_.end() && found->second.session) evict(found->second);
}

void Membership::evict(Host& host) {
  tell_end(*host.session, wire::REFUSED_NO_SESSION);
  end(host, End::evicted, HostStatus::State::live);
}

void Membership::tell(Host& host, const wire::Notice& notice) {
  Session& session = *host.session;
  if (session.untaken.size() >= kMaxUntaken) return evict(host); // it begins anew, and then knows all again
  session.untaken.push_back({notice, *now_ns_});
  session.untaken.back().notice.set_number(++session.notices);
  send(session, LinkType::notice, session.untaken.back().notice.SerializeAsString());
}

void Membership::on_taken(Host& host, const LinkMessage& message) {
  wire::Taken taken;
  if (!taken.ParseFromString(message.payload) || taken.number() > host.session->notices) {
    ++host.refused.malformed;
    return;
  }
  drop_taken(*host.session, taken.number());
}

void Membership::drop_taken(Session& session, std::uint64_t number) {
  while (!session.untaken.empty() && session.untaken.front().notice.number() <= number)
    session.untaken.pop_front();
}

// ---- sending ----

void Membership::send(Session& session, LinkType type, std::string payload) {
  LinkMessage message{type, 0, settings_.epoch, session.number, ++session.sent, std::move(payload)};
  if (!session.route.empty()) actions_.emplace_back(Send{session.route, std::move(message)});
}

// Of no session's sequence: it may be about none that there is.
void Membership::refuse(std::optional<std::int64_t>& told_ns, const std::string& route,
                        const LinkMessage& message, wire::RefusalReason reason) {
  if (told_ns && *now_ns_ - *told_ns < kRefusalPause_ns) return;
  told_ns = now_ns_;
  wire::Refused refused;
  refused.set_reason(reason);
  refused.set_sequence(message.sequence);
  refused.set_epoch(message.epoch);
  wire::Hello hello;
  if (message.type == LinkType::hello && hello.ParseFromString(message.payload)) {
    refused.set_incarnation(hello.incarnation());
    refused.set_greeting(hello.greeting());
  }
  actions_.emplace_back(Send{route, LinkMessage{LinkType::refused, 0, settings_.epoch, message.session, 0,
                                                refused.SerializeAsString()}});
}

void Membership::refuse(Host& host, std::uint64_t RefusalCounts::*kind, const LinkPeer& peer,
                        const LinkMessage& message, wire::RefusalReason reason) {
  ++(host.refused.*kind);
  refuse(host.refusal_told_ns, peer.route, message, reason);
}

void Membership::tell_end(const Session& session, wire::RefusalReason reason) {
  if (session.route.empty()) return;
  wire::Refused refused;
  refused.set_reason(reason);
  actions_.emplace_back(Send{session.route, LinkMessage{LinkType::refused, 0, settings_.epoch, session.number,
                                                        0, refused.SerializeAsString()}});
}

} // namespace vsnap
