// A pool that is open without all of its members: what is left of it is read, and nothing is changed.
//
// Why nothing wrong is ever read:
// - The catalog is what the last durable transaction left. Its pages are those of the members that are there
//   or their copies, which are the same once the WAL is known (catalog_copy.h, 1). The WAL is read as always,
//   or was empty for certain (member_set.h, 9); where neither can be had the pool is refused, as it is where
//   a page cannot be had: PRAGMA integrity_check reads each of them.
// - The journal and the tail are brought into the catalog as after any crash, in memory (frozen_file.h).
// - A journal on a missing member is left out, unless a tail has its records. Then views are what the last
//   transaction says. A place that the records left out have freed still belongs to the row that names it, as
//   places are given away again only after the transaction that freed them is durable (core/README.md,
//   invariant 2); so no row names a place with another's data. Places that these records took belong to
//   nobody. What a volume overwrote in place shows, as it does after a power cut. Only a snapshot whose
//   records are among those left out would show what it never was: the catalog says up to which record the
//   newest snapshot needs it ("line"), and a pool in which that is beyond what the catalog has is refused.
// - Where an image of an adopted volume was being changed, records left out may say what was saved before:
//   its volume, and all that looks at it, cannot be opened.
// - A failed flush, after which a member may have lost what was overwritten in place and not confirmed, is
//   told in one line; what rows name was flushed before them.
#include <fmt/format.h>

#include "core/log.h"
#include "core/pool_impl.h"
#include "core/schema.h"

namespace vsnap {
namespace {

// "member 1 (/dev/sdc1)"
std::string names_of(const std::vector<MissingMember>& missing) {
  std::string names;
  for (const MissingMember& member : missing) {
    if (!names.empty()) names += ", ";
    names += member.text();
  }
  return names;
}

} // namespace

Failure PoolImpl::not_enough(const Error& error) const {
  if (error.kind == ErrorKind::busy) return Failure(error);
  return failure(ErrorKind::damaged,
                 fmt::format("pool {}: without {} it cannot be read: {}", name_,
                             names_of(engine_->members().missing()), error.message));
}

// Every page of it can be read, and they agree.
Result<> PoolImpl::check_catalog_whole() {
  VSNAP_TRY_ASSIGN(const auto problems, engine_->db().integrity_problems());
  if (problems.empty()) return {};
  return failure(ErrorKind::damaged, fmt::format("the catalog is damaged: {}", problems.front()));
}

// No snapshot needs a record that is left out.
Result<> PoolImpl::check_snapshots_whole() {
  if (!engine_->leaves_out_records()) return {};
  return engine_->db().read([&](SQLite::Database& db) -> Result<> {
    const bool told = db.execAndGet("PRAGMA user_version").getInt() >= schema::kVersion;
    if (told && catalog::value(db, "line") <= engine_->committed()) return {};
    return failure(ErrorKind::damaged,
                   "the journal, with what the newest snapshots show, is on what is missing (bring it back)");
  });
}

Result<> PoolImpl::recover_degraded() {
  VSNAP_TRY(check_catalog_whole());
  VSNAP_TRY(recover());
  VSNAP_TRY(check_snapshots_whole());
  MutexLock config(config_mutex_);
  return resume_preserved();
}

Result<> PoolImpl::start_degraded() {
  if (auto recovered = recover_degraded(); !recovered) return not_enough(recovered.error());
  {
    MutexLock lock(objects_.mutex());
    for (const auto& [id, base] : bases_) {
      std::string& problem = objects_.branch(id)->base.problem;
      if (base.target)
        problem = fmt::format("{}: half rolled back (it goes on when the pool is opened with all members)",
                              base.path);
      else if (base.open && engine_->leaves_out_records())
        problem = fmt::format("{}: what was saved of it last is on what is missing (bring it back)",
                              base.path);
    }
  }
  const std::vector<MissingMember>& missing = engine_->members().missing();
  const std::string names = names_of(missing);
  std::string health =
      fmt::format("degraded: {} {} missing; read-only", names, missing.size() == 1 ? "is" : "are");
  if (engine_->leaves_out_records())
    health += "; what was written in the last moments before it was lost is not shown";
  if (engine_->members().needs_check())
    health += "; a flush failed before: what no fsync confirmed may be older than it was";
  log::warning("pool {}: {}", name_, health);
  engine_->refuse_changes(fmt::format("pool {} is open without {} and takes no changes", name_, names),
                          std::move(health));
  return {};
}

} // namespace vsnap
