// Hosts that share the pool: who may come in, and who is in. Nothing of it touches volumes or their I/O.
#include <fmt/format.h>

#include "core/host_rows.h"
#include "core/pool_impl.h"

namespace vsnap {
namespace {

const HostInfo* named(const Hosts& all, const std::string& name) {
  const auto found =
      std::find_if(all.hosts.begin(), all.hosts.end(), [&](const HostInfo& h) { return h.name == name; });
  return found == all.hosts.end() ? nullptr : &*found;
}

const HostInfo* with_key(const Hosts& all, const HostKey& key) {
  const auto found =
      std::find_if(all.hosts.begin(), all.hosts.end(), [&](const HostInfo& h) { return h.key == key; });
  return found == all.hosts.end() ? nullptr : &*found;
}

} // namespace

Result<Hosts> PoolImpl::hosts() {
  Hosts found;
  VSNAP_TRY(engine_->db().read([&](SQLite::Database& db) -> Result<> {
    found = host_rows::load(db);
    return {};
  }));
  return found;
}

Result<std::uint64_t> PoolImpl::begin_reign() {
  MutexLock config(config_mutex_);
  VSNAP_TRY(check_up_to_date("host"));
  std::uint64_t epoch = 0;
  const std::int64_t now_ns = env_.wall_clock_ns();
  VSNAP_TRY(configure([&](SQLite::Database& db) -> Result<> {
    epoch = host_rows::next_epoch(db);
    for (const Invitation& invitation : host_rows::load(db).invitations) {
      if (invitation.expires_ns <= now_ns) host_rows::erase_invitation(db, invitation.key);
    }
    return {};
  }));
  return epoch;
}

Result<Invitation> PoolImpl::invite(const HostKey& key, const std::string& name, std::int64_t valid_ns) {
  MutexLock config(config_mutex_);
  if (!name.empty()) VSNAP_TRY(check_name("host", name));
  VSNAP_TRY(check_room());
  VSNAP_TRY(check_up_to_date("host"));
  VSNAP_TRY_ASSIGN(const Hosts all, hosts());
  const std::int64_t now_ns = env_.wall_clock_ns();
  std::size_t valid = all.hosts.size();
  for (const Invitation& one : all.invitations) valid += one.expires_ns > now_ns ? 1 : 0;
  if (valid >= kMaxHosts) {
    return failure(ErrorKind::no_space, fmt::format("{0}: shared by {1} hosts, with those invited, which is "
                                                    "the most (vsnap host list {0}, vsnap host revoke)",
                                                    name_, valid));
  }
  if (!name.empty() && named(all, name) != nullptr) {
    return failure(ErrorKind::failed, EEXIST,
                   fmt::format("{0}: a host named {1} shares it already (choose another name, or vsnap host "
                               "revoke {0} {1})",
                               name_, name));
  }
  const Invitation made{key, name, now_ns, now_ns + valid_ns};
  VSNAP_TRY(configure([&](SQLite::Database& db) -> Result<> {
    for (const Invitation& one : all.invitations) {
      if (one.expires_ns <= now_ns) host_rows::erase_invitation(db, one.key);
    }
    host_rows::insert(db, made);
    return {};
  }));
  return made;
}

Result<HostInfo> PoolImpl::join(const HostKey& invited, const std::string& wished, const HostKey& key) {
  MutexLock config(config_mutex_);
  VSNAP_TRY_ASSIGN(const Hosts all, hosts());
  const auto invitation = std::find_if(all.invitations.begin(), all.invitations.end(),
                                       [&](const Invitation& one) { return one.key == invited; });
  const std::int64_t now_ns = env_.wall_clock_ns();
  if (invitation == all.invitations.end() || invitation->expires_ns <= now_ns) {
    return failure(ErrorKind::failed, EACCES,
                   fmt::format("{0}: the invitation has expired, or was used (vsnap host invite {0} makes "
                               "another)",
                               name_));
  }
  const std::string name = invitation->name.empty() ? wished : invitation->name;
  VSNAP_TRY(check_name("host", name));
  const HostInfo* const same = with_key(all, key);
  if (same == nullptr && named(all, name) != nullptr) {
    return failure(ErrorKind::failed, EEXIST,
                   fmt::format("{0}: a host named {1} shares it already (vsnap host join --name takes "
                               "another)",
                               name_, name));
  }
  VSNAP_TRY(check_room());
  HostInfo host{0, name, key, now_ns};
  if (same != nullptr) host = *same; // it was in already, under a name that stays
  VSNAP_TRY(configure([&](SQLite::Database& db) -> Result<> {
    host_rows::erase_invitation(db, invited);
    if (same == nullptr) host_rows::insert(db, host);
    return {};
  }));
  return host;
}

Result<Hosts> PoolImpl::revoke(const std::string& name, bool dry_run) {
  MutexLock config(config_mutex_);
  VSNAP_TRY(check_name("host", name));
  VSNAP_TRY_ASSIGN(const Hosts all, hosts());
  Hosts gone;
  if (const HostInfo* const host = named(all, name)) gone.hosts.push_back(*host);
  for (const Invitation& invitation : all.invitations) {
    if (invitation.name == name) gone.invitations.push_back(invitation);
  }
  if (gone.hosts.empty() && gone.invitations.empty()) {
    std::vector<std::string> names;
    for (const HostInfo& host : all.hosts) names.push_back(host.name);
    const auto near = nearest(name, names);
    return failure(ErrorKind::not_found,
                   fmt::format("{}: no host named {} shares it ({})", name_, name,
                               near ? fmt::format("did you mean {}?", *near)
                                    : fmt::format("vsnap host list {} lists them", name_)));
  }
  if (dry_run) return gone;
  VSNAP_TRY(engine_->check_writable());
  VSNAP_TRY(configure([&](SQLite::Database& db) -> Result<> {
    for (const HostInfo& host : gone.hosts) host_rows::erase(db, host.id);
    for (const Invitation& invitation : gone.invitations) host_rows::erase_invitation(db, invitation.key);
    return {};
  }));
  return gone;
}

} // namespace vsnap
