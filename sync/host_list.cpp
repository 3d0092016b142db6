#include "sync/host_list.h"

namespace vsnap::host_list {
namespace {

wire::HostState to_wire(HostStatus::State state) {
  switch (state) {
    case HostStatus::State::away:
      return wire::HOST_AWAY;
    case HostStatus::State::live:
      return wire::HOST_LIVE;
    case HostStatus::State::left:
      return wire::HOST_LEFT;
    case HostStatus::State::lost:
      return wire::HOST_LOST;
  }
  return wire::HOST_AWAY;
}

} // namespace

HeldByHosts held_of(Pool& pool) {
  HeldByHosts held;
  for (const DelegationInfo& info : pool.delegations()) {
    Held& of_host = held[info.delegation.host];
    ++(info.state == DelegationState::lost ? of_host.lost : of_host.delegated);
  }
  return held;
}

void add(wire::HostList& list, const HostStatus& host, const HeldByHosts& held) {
  wire::HostEntry& entry = *list.add_hosts();
  entry.set_name(host.host.name);
  entry.set_state(to_wire(host.state));
  entry.set_key(host.host.key.data(), host.host.key.size());
  entry.set_joined_ns(host.host.joined_ns);
  entry.set_address(host.address);
  entry.set_session(host.session);
  entry.set_lease_left_ns(static_cast<std::uint64_t>(host.lease_left_ns));
  entry.set_lag(host.lag);
  if (const auto found = held.find(host.host.id); found != held.end()) {
    entry.set_open(found->second.open);
    entry.set_delegated(found->second.delegated);
    entry.set_lost(found->second.lost);
  }
  entry.set_refused_malformed(host.refused.malformed);
  entry.set_refused_epoch(host.refused.epoch);
  entry.set_refused_session(host.refused.session);
  entry.set_refused_sequence(host.refused.sequence);
  entry.set_refused_other(host.refused.other);
}

void add(wire::HostList& list, std::span<const Invitation> invitations, std::int64_t wall_clock_ns) {
  for (const Invitation& invitation : invitations) {
    if (invitation.expires_ns <= wall_clock_ns) continue;
    wire::HostEntry& entry = *list.add_hosts();
    entry.set_name(invitation.name);
    entry.set_state(wire::HOST_INVITED);
    entry.set_key(invitation.key.data(), invitation.key.size());
    entry.set_joined_ns(invitation.created_ns);
    entry.set_lease_left_ns(static_cast<std::uint64_t>(invitation.expires_ns - wall_clock_ns));
  }
}

Result<Hosts> revoke(Pool& pool, const wire::RevokeHostRequest& request, bool again) {
  auto gone = pool.revoke(request.name(), request.dry_run());
  if (gone || !again || gone.error().kind != ErrorKind::not_found) return gone;
  return Hosts{};
}

wire::HostList of(const Hosts& hosts, const HeldByHosts& held, std::int64_t wall_clock_ns) {
  wire::HostList list;
  for (const HostInfo& host : hosts.hosts) add(list, HostStatus{host}, held);
  add(list, hosts.invitations, wall_clock_ns);
  return list;
}

} // namespace vsnap::host_list
