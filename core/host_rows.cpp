#include "core/host_rows.h"

#include <fmt/format.h>
#include <algorithm>

#include "core/catalog.h"
#include "core/names.h"

namespace vsnap::host_rows {
namespace {

bool take_key(const SQLite::Column& column, HostKey& key) {
  if (static_cast<std::size_t>(column.getBytes()) != key.size()) return false;
  std::copy_n(static_cast<const std::uint8_t*>(column.getBlob()), key.size(), key.begin());
  return true;
}

void bind_key(SQLite::Statement& s, int at, const HostKey& key) {
  s.bind(at, key.data(), static_cast<int>(key.size()));
}

} // namespace

bool known(SQLite::Database& db) { return db.tableExists("host"); }

Hosts load(SQLite::Database& db) {
  Hosts found;
  if (!known(db)) return found;
  SQLite::Statement hosts(db, "SELECT id, name, key, joined FROM host ORDER BY name");
  while (hosts.executeStep()) {
    HostInfo host;
    host.id = static_cast<std::uint64_t>(hosts.getColumn(0).getInt64());
    host.name = hosts.getColumn(1).getString();
    host.joined_ns = hosts.getColumn(3).getInt64();
    if (take_key(hosts.getColumn(2), host.key)) found.hosts.push_back(std::move(host));
  }
  SQLite::Statement invitations(db, "SELECT key, name, created, expires FROM invitation ORDER BY expires");
  while (invitations.executeStep()) {
    Invitation invitation;
    invitation.name = invitations.getColumn(1).getString(); // NULL: empty
    invitation.created_ns = invitations.getColumn(2).getInt64();
    invitation.expires_ns = invitations.getColumn(3).getInt64();
    if (take_key(invitations.getColumn(0), invitation.key))
      found.invitations.push_back(std::move(invitation));
  }
  return found;
}

void insert(SQLite::Database& db, HostInfo& host) {
  const std::int64_t newest = db.execAndGet("SELECT coalesce(max(id), 0) FROM host").getInt64();
  host.id = std::max(catalog::value(db, "last_host"), static_cast<std::uint64_t>(newest)) + 1;
  catalog::set_value(db, "last_host", host.id);
  SQLite::Statement s(db, "INSERT INTO host(id, name, key, joined) VALUES(?,?,?,?)");
  s.bind(1, static_cast<std::int64_t>(host.id));
  s.bind(2, host.name);
  bind_key(s, 3, host.key);
  s.bind(4, host.joined_ns);
  s.exec();
}

void erase(SQLite::Database& db, std::uint64_t id) {
  SQLite::Statement s(db, "DELETE FROM host WHERE id = ?");
  s.bind(1, static_cast<std::int64_t>(id));
  s.exec();
}

void insert(SQLite::Database& db, const Invitation& invitation) {
  SQLite::Statement s(db, "INSERT INTO invitation(key, name, created, expires) VALUES(?,?,?,?)");
  bind_key(s, 1, invitation.key);
  if (!invitation.name.empty()) s.bind(2, invitation.name);
  s.bind(3, invitation.created_ns);
  s.bind(4, invitation.expires_ns);
  s.exec();
}

void erase_invitation(SQLite::Database& db, const HostKey& key) {
  SQLite::Statement s(db, "DELETE FROM invitation WHERE key = ?");
  bind_key(s, 1, key);
  s.exec();
}

std::uint64_t next_epoch(SQLite::Database& db) {
  const std::uint64_t epoch = catalog::value(db, "epoch") + 1;
  catalog::set_value(db, "epoch", epoch);
  return epoch;
}

std::vector<Wrong> wrong_rows(SQLite::Database& db) {
  std::vector<Wrong> found;
  if (!known(db)) return found;
  SQLite::Statement hosts(db, "SELECT id, name, length(key), typeof(key) FROM host");
  while (hosts.executeStep()) {
    const std::int64_t id = hosts.getColumn(0).getInt64();
    const std::string name = hosts.getColumn(1).getString();
    const bool good_key = hosts.getColumn(2).getInt64() == static_cast<std::int64_t>(sizeof(HostKey)) &&
                          hosts.getColumn(3).getString() == "blob";
    if (valid_name(name) && good_key && id > 0) continue;
    found.push_back({fmt::format("host {}, {}: its {} cannot be right", id, vsnap::quoted(name),
                                 !good_key ? "key"
                                 : id <= 0 ? "number"
                                           : "name"),
                     fmt::format("DELETE FROM host WHERE id = {}", id)});
  }
  const auto wrong = [&](const char* condition) {
    return db.execAndGet(fmt::format("SELECT count(*) FROM invitation WHERE {}", condition)).getInt64();
  };
  constexpr const char* kWrong = "length(key) <> 32 OR typeof(key) <> 'blob'";
  if (wrong(kWrong) > 0)
    found.push_back(
        {"an invitation: its key cannot be right", fmt::format("DELETE FROM invitation WHERE {}", kWrong)});
  return found;
}

} // namespace vsnap::host_rows
