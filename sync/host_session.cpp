#include "sync/host_session.h"

#include <algorithm>
#include <utility>

namespace vsnap {

std::string_view to_string(HostSession::Phase phase) {
  switch (phase) {
    case HostSession::Phase::away:
      return "away";
    case HostSession::Phase::normal:
      return "normal";
    case HostSession::Phase::no_new_io:
      return "no-new-io";
    case HostSession::Phase::draining:
      return "draining";
    case HostSession::Phase::ended:
      return "ended";
  }
  return "away";
}

HostSession::Actions HostSession::step(const Event& event, std::int64_t now_ns) {
  now_ns_ = stepped_ ? std::max(now_ns, now_ns_) : now_ns;
  stepped_ = true;
  actions_.clear();
  look_at_lease(); // an answer that comes too late finds no lease to go on with
  std::visit([this](const auto& one) { on(one); }, event);
  if (phase_ != Phase::ended) do_what_is_due();
  return std::exchange(actions_, {});
}

std::optional<std::int64_t> HostSession::deadline_ns() const {
  if (phase_ == Phase::ended) return std::nullopt;
  std::int64_t first = session_ ? session_->renew_at_ns : hello_at_ns_;
  if (lease_) {
    for (const int percent : {kNoNewIo, kDrain, 100}) {
      const std::int64_t at = lease_->from_ns + lease_->length_ns / 100 * percent;
      if (at > now_ns_) first = std::min(first, at);
    }
  }
  if (session_) {
    for (const auto& [id, open] : open_) first = std::min(first, open.ask_at_ns);
  }
  return first;
}

std::int64_t HostSession::lease_left_ns(std::int64_t now_ns) const {
  if (!lease_) return 0;
  return std::max<std::int64_t>(lease_->from_ns + lease_->length_ns - std::max(now_ns, now_ns_), 0);
}

// ---- what is due ----

void HostSession::do_what_is_due() {
  if (!session_) {
    if (now_ns_ >= hello_at_ns_) say_hello();
    return;
  }
  if (now_ns_ >= session_->renew_at_ns) renew();
  for (auto& [id, open] : open_) {
    if (now_ns_ >= open.ask_at_ns) ask(open);
  }
}

void HostSession::say_hello() {
  hello_at_ns_ = now_ns_ + hello_pause_ns_;
  hello_pause_ns_ = std::min(hello_pause_ns_ * 2, kLongestHelloPause_ns);
  hello_sent_ns_[++hellos_] = now_ns_;
  if (hello_sent_ns_.size() > kMaxUnanswered) hello_sent_ns_.erase(hello_sent_ns_.begin());
  wire::Hello hello;
  hello.set_incarnation(settings_.incarnation);
  hello.set_greeting(greeting_);
  hello.set_version(VSNAP_VERSION);
  hello.set_boot_id(settings_.boot_id);
  actions_.emplace_back(Send{LinkMessage{LinkType::hello, 0, 0, 0, hellos_, hello.SerializeAsString()}});
}

void HostSession::renew() {
  session_->renew_at_ns = now_ns_ + lease_length_ns_ / 3;
  wire::Renew message;
  message.set_generation(works_by_.value_or(told_generation_));
  message.set_taken(session_->taken);
  message.set_settled(settled());
  Renewal renewal{now_ns_, {}};
  for (const std::uint64_t id : answered_) {
    if (renewal.answered.size() == kMostTold) break;
    renewal.answered.push_back(id);
    message.add_answered(id);
  }
  send(LinkType::renew, message.SerializeAsString());
  session_->renewals[session_->sent] = std::move(renewal);
  if (session_->renewals.size() > kMaxUnanswered) session_->renewals.erase(session_->renewals.begin());
}

void HostSession::ask(Open& open) {
  open.ask_at_ns = now_ns_ + retry_ns();
  open.request.set_settled(settled());
  open.request.clear_answered(); // the last ones: earlier ones have been told, or are in the next renewal
  for (auto id = answered_.rbegin(); id != answered_.rend(); ++id) {
    if (static_cast<std::size_t>(open.request.answered_size()) == kTold) break;
    open.request.add_answered(*id);
  }
  send(LinkType::request, open.request.SerializeAsString());
  open.request.set_again(true);
}

std::int64_t HostSession::retry_ns() const { return lease_length_ns_ / 3; }

void HostSession::look_at_lease() {
  if (!lease_) return;
  const std::int64_t used = now_ns_ - lease_->from_ns;
  const std::int64_t hundredth = lease_->length_ns / 100;
  if (used >= lease_->length_ns) {
    lease_.reset();
    actions_.emplace_back(Lost{});
    leave_session();
    return set_phase(Phase::away);
  }
  set_phase(used >= hundredth * kDrain     ? Phase::draining
            : used >= hundredth * kNoNewIo ? Phase::no_new_io
                                           : Phase::normal);
}

void HostSession::set_phase(Phase phase) {
  if (phase_ == phase || phase_ == Phase::ended) return;
  phase_ = phase;
  actions_.emplace_back(PhaseIs{phase});
}

void HostSession::extend_lease(std::int64_t sent_ns) {
  if (lease_ && lease_->from_ns > sent_ns) return; // of a renewal that was answered before a later one
  lease_ = Lease{sent_ns, lease_length_ns_};
  look_at_lease();
}

// It looks for another one at once; what the lease covers goes on until that ends.
void HostSession::leave_session() {
  if (session_) {
    session_.reset();
    ++greeting_;
    hellos_ = 0;
    hello_sent_ns_.clear();
    hello_at_ns_ = now_ns_;
    hello_pause_ns_ = kFirstHelloPause_ns;
  }
}

void HostSession::end(wire::RefusalReason reason) {
  const bool had_lease = lease_.has_value();
  session_.reset();
  lease_.reset();
  if (had_lease) actions_.emplace_back(Lost{});
  set_phase(Phase::ended);
  actions_.emplace_back(Ended{reason});
  for (const auto& [id, open] : open_) {
    wire::LinkReply reply;
    reply.set_id(id);
    reply.mutable_error()->set_kind(wire::ERROR_NO_ANSWER);
    reply.mutable_error()->set_errno_value(ECONNRESET);
    reply.mutable_error()->set_message(
        "the link to the coordinator has ended: what became of this is not known");
    actions_.emplace_back(Answer{std::move(reply)});
  }
  open_.clear();
}

// ---- what comes ----

void HostSession::on(const Connected&) {
  hello_at_ns_ = now_ns_;
  hello_pause_ns_ = kFirstHelloPause_ns;
  if (session_) session_->renew_at_ns = now_ns_; // says at once whether there is still that session
  for (auto& [id, open] : open_) open.ask_at_ns = now_ns_;
}

void HostSession::on(const Received& event) {
  if (phase_ == Phase::ended) return;
  const LinkMessage& message = event.message;
  if (message.epoch < epoch_) { // of a coordinator that has been replaced
    ++refused_.epoch;
    return;
  }
  if (message.type == LinkType::welcome) return on_welcome(message);
  if (message.type == LinkType::refused) return on_refused(message);
  on_session_message(message);
}

void HostSession::on_welcome(const LinkMessage& message) {
  wire::Welcome welcome;
  if (!welcome.ParseFromString(message.payload) || welcome.lease_ns() == 0 ||
      welcome.lease_ns() > static_cast<std::uint64_t>(INT64_MAX) / 200 ||
      welcome.pool_uuid() != std::string(settings_.pool_uuid.begin(), settings_.pool_uuid.end())) {
    ++refused_.malformed;
    return;
  }
  const auto sent = hello_sent_ns_.find(welcome.hello());
  if (welcome.incarnation() != settings_.incarnation || welcome.greeting() != greeting_ ||
      sent == hello_sent_ns_.end()) {
    ++refused_.session;
    return;
  }
  if (session_ && (message.epoch != epoch_ || message.session != session_->number)) {
    // A late Hello has reached the next coordinator. What is sent in the session under way must never look as
    // if it were of that one's; the next renewal hears that this one is over.
    ++refused_.session;
    return;
  }
  if (session_ && message.sequence <= session_->received) {
    ++refused_.sequence;
    return;
  }
  epoch_ = message.epoch;
  lease_length_ns_ = static_cast<std::int64_t>(welcome.lease_ns());
  told_generation_ = welcome.generation();
  const std::int64_t sent_ns = sent->second;
  if (session_) { // once more, to a Hello that was sent again
    session_->received = message.sequence;
    return extend_lease(sent_ns);
  }
  if (now_ns_ - sent_ns >= lease_length_ns_) return; // over before it began; the next Hello asks again
  is_elsewhere_ = false;
  session_ = Session{};
  session_->number = message.session;
  session_->received = message.sequence;
  session_->renew_at_ns = sent_ns + lease_length_ns_ / 3;
  actions_.emplace_back(Began{epoch_, session_->number, told_generation_, lease_.has_value()});
  lease_.reset();
  extend_lease(sent_ns);
  for (auto& [id, open] : open_) open.ask_at_ns = now_ns_;
}

void HostSession::on_refused(const LinkMessage& message) {
  wire::Refused refused;
  if (!refused.ParseFromString(message.payload)) {
    ++refused_.malformed;
    return;
  }
  const bool of_hello =
      !session_ && refused.incarnation() == settings_.incarnation && refused.greeting() == greeting_;
  // What is told late may be of a session of the reign before, whose number this one may have, too.
  const bool of_reign = refused.epoch() == 0 || refused.epoch() == epoch_;
  const bool of_session = session_ && message.session == session_->number && of_reign;
  if (!of_hello && !of_session) {
    ++refused_.session;
    return;
  }
  switch (refused.reason()) {
    case wire::REFUSED_REVOKED:
    case wire::REFUSED_SUPERSEDED:
      return end(refused.reason());
    case wire::REFUSED_NO_SESSION:
      return session_gone(message.epoch);
    case wire::REFUSED_ELSEWHERE:
      is_elsewhere_ = true;
      return;
    default: // it stops, and is going to be back; until then the lease counts
      return;
  }
}

// The coordinator of the same reign has given away what the session held. One of a new reign gives it back to
// whoever still has a lease.
void HostSession::session_gone(std::uint64_t epoch) {
  if (epoch == epoch_ && lease_) {
    lease_.reset();
    actions_.emplace_back(Lost{});
    set_phase(Phase::away);
  }
  epoch_ = epoch;
  leave_session();
}

void HostSession::on_session_message(const LinkMessage& message) {
  if (!session_ || message.session != session_->number || message.epoch != epoch_) {
    ++refused_.session;
    return;
  }
  if (message.sequence <= session_->received) {
    ++refused_.sequence;
    return;
  }
  session_->received = message.sequence;
  switch (message.type) {
    case LinkType::renewed:
      return on_renewed(message);
    case LinkType::reply:
      return on_reply(message);
    case LinkType::notice:
      return on_notice(message);
    default:
      ++refused_.other;
  }
}

void HostSession::on_renewed(const LinkMessage& message) {
  wire::Renewed renewed;
  if (!renewed.ParseFromString(message.payload)) {
    ++refused_.malformed;
    return;
  }
  const auto sent = session_->renewals.find(renewed.renew());
  if (sent == session_->renewals.end()) return; // long ago
  told_generation_ = std::max(told_generation_, renewed.generation());
  const std::int64_t sent_ns = sent->second.sent_ns;
  for (const std::uint64_t id : sent->second.answered) answered_.erase(id);
  session_->renewals.erase(session_->renewals.begin(), std::next(sent));
  extend_lease(sent_ns);
}

void HostSession::on_reply(const LinkMessage& message) {
  wire::LinkReply reply;
  if (!reply.ParseFromString(message.payload)) {
    ++refused_.malformed;
    return;
  }
  const auto open = open_.find(reply.id());
  if (open == open_.end()) return; // answered before, to one that was asked again
  open_.erase(open);
  answered_.insert(reply.id());
  answered_.erase(answered_.begin(), answered_.lower_bound(settled()));
  actions_.emplace_back(Answer{std::move(reply)});
}

void HostSession::on_notice(const LinkMessage& message) {
  wire::Notice notice;
  if (!notice.ParseFromString(message.payload)) {
    ++refused_.malformed;
    return;
  }
  if (notice.number() == session_->taken + 1) {
    ++session_->taken;
    if (notice.has_generation()) told_generation_ = std::max(told_generation_, notice.generation());
    actions_.emplace_back(Told{std::move(notice)});
  }
  wire::Taken taken; // also of one that was there before, or came too early
  taken.set_number(session_->taken);
  send(LinkType::taken, taken.SerializeAsString());
}

// ---- what this host wants ----

void HostSession::on(const Ask& event) {
  const std::uint64_t id = next_request_++;
  if (phase_ == Phase::ended || open_.size() >= kMaxOpen) {
    wire::LinkReply reply;
    reply.set_id(id);
    reply.mutable_error()->set_kind(phase_ == Phase::ended ? wire::ERROR_FAILED : wire::ERROR_BUSY);
    reply.mutable_error()->set_errno_value(phase_ == Phase::ended ? ENOTCONN : EAGAIN);
    reply.mutable_error()->set_message(phase_ == Phase::ended
                                           ? "the link to the coordinator has ended"
                                           : "too many requests to the coordinator at once");
    actions_.emplace_back(Answer{std::move(reply)});
    return;
  }
  Open& open = open_[id];
  open.request = event.request;
  open.request.set_id(id);
  open.ask_at_ns = now_ns_;
}

void HostSession::on(const Close& event) {
  if (phase_ == Phase::ended) return;
  if (session_ && !event.silent) send(LinkType::goodbye, wire::Goodbye().SerializeAsString());
  end(wire::REFUSED_OTHER);
}

void HostSession::send(LinkType type, std::string payload) {
  actions_.emplace_back(
      Send{LinkMessage{type, 0, epoch_, session_->number, ++session_->sent, std::move(payload)}});
}

} // namespace vsnap
