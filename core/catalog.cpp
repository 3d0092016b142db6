#include "core/catalog.h"

#include "core/base.h"
#include "core/snapshot_level.h"

#include <fmt/format.h>

namespace vsnap::catalog {
namespace {

Failure damaged(std::string_view what) {
  return failure(ErrorKind::damaged, fmt::format("the catalog contradicts itself: {} (vsnap check)", what));
}

void bind_name(SQLite::Statement& s, int index, const std::string& name) {
  if (name.empty())
    s.bind(index);
  else
    s.bind(index, name);
}

Result<> load_branches(SQLite::Database& db, Objects& objects) VSNAP_REQUIRES(objects.mutex()) {
  SQLite::Statement s(db, "SELECT id, number, mapped FROM branch");
  while (s.executeStep()) {
    auto branch = std::make_unique<Branch>();
    branch->id = BranchId(static_cast<std::uint64_t>(s.getColumn(0).getInt64()));
    branch->number.store(static_cast<std::uint64_t>(s.getColumn(1).getInt64()));
    branch->mapped.store(s.getColumn(2).getInt64());
    if (objects.branch(branch->id) != nullptr) return damaged("two branches have one number");
    objects.add_branch(std::move(branch));
  }
  SQLite::Statement parents(db, "SELECT id, parent, parent_number FROM branch WHERE parent IS NOT NULL");
  while (parents.executeStep()) {
    Branch* const child =
        objects.branch(BranchId(static_cast<std::uint64_t>(parents.getColumn(0).getInt64())));
    if (child == nullptr) return damaged("the table of branches contradicts itself");
    child->parent = objects.branch(BranchId(static_cast<std::uint64_t>(parents.getColumn(1).getInt64())));
    if (child->parent == nullptr)
      return damaged(fmt::format("branch {} has a parent that does not exist", child->id.value()));
    child->parent_number = Version(static_cast<std::uint64_t>(parents.getColumn(2).getInt64()));
    child->parent->pins.insert(child->parent_number.value());
  }
  const std::vector<Branch*> branches = objects.branches();
  for (const Branch* branch : branches) {
    std::size_t steps = 0;
    for (const Branch* at = branch; at != nullptr; at = at->parent) {
      if (++steps > branches.size())
        return damaged(fmt::format("branch {} is its own ancestor", branch->id.value()));
    }
  }
  return {};
}

Result<> load_volumes(SQLite::Database& db, Objects& objects) VSNAP_REQUIRES(objects.mutex()) {
  SQLite::Statement s(db,
                      "SELECT id, name, branch, size, created, modified, mode, uid, gid, trim FROM volume");
  while (s.executeStep()) {
    auto volume = std::make_shared<Object>();
    volume->id = ObjectId(static_cast<std::uint64_t>(s.getColumn(0).getInt64()));
    volume->name = s.getColumn(1).getString();
    if (!volume->name.empty() && !valid_name(volume->name))
      return damaged(fmt::format("bad volume name {}", vsnap::quoted(volume->name)));
    volume->branch = objects.branch(BranchId(static_cast<std::uint64_t>(s.getColumn(2).getInt64())));
    if (volume->branch == nullptr)
      return damaged(fmt::format("volume {} has no branch", vsnap::quoted(volume->name)));
    volume->branch->has_head = true;
    volume->size_bytes.store(static_cast<std::uint64_t>(s.getColumn(3).getInt64()));
    volume->created_ns = s.getColumn(4).getInt64();
    volume->modified_ns.store(s.getColumn(5).getInt64());
    volume->mode = s.getColumn(6).getUInt();
    volume->uid = s.getColumn(7).getUInt();
    volume->gid = s.getColumn(8).getUInt();
    if (!s.getColumn(9).isNull()) volume->trim.store(static_cast<std::uint64_t>(s.getColumn(9).getInt64()));
    if (objects.find(volume->id)) return damaged("two objects have one number");
    if (!volume->name.empty() && objects.volume(volume->name))
      return damaged(fmt::format("two volumes have the name {}", vsnap::quoted(volume->name)));
    objects.add(volume);
  }
  return {};
}

Result<> load_snapshots(SQLite::Database& db, Objects& objects) VSNAP_REQUIRES(objects.mutex()) {
  SQLite::Statement s(
      db, "SELECT id, volume, name, branch, number, size, mapped, created FROM snapshot ORDER BY id");
  while (s.executeStep()) {
    auto snapshot = std::make_shared<Object>();
    snapshot->id = ObjectId(static_cast<std::uint64_t>(s.getColumn(0).getInt64()));
    snapshot->kind = ViewKind::snapshot;
    snapshot->volume = objects.find(ObjectId(static_cast<std::uint64_t>(s.getColumn(1).getInt64())));
    snapshot->name = s.getColumn(2).getString();
    if (!snapshot->name.empty() && !valid_name(snapshot->name))
      return damaged(fmt::format("bad snapshot name {}", vsnap::quoted(snapshot->name)));
    snapshot->branch = objects.branch(BranchId(static_cast<std::uint64_t>(s.getColumn(3).getInt64())));
    if (!snapshot->volume || snapshot->branch == nullptr || objects.find(snapshot->id)) {
      return damaged(fmt::format("snapshot {} has no volume, no branch or a number that is taken",
                                 vsnap::quoted(snapshot->name)));
    }
    if (!snapshot->name.empty() && !snapshot->volume->name.empty() &&
        objects.find(ViewName{snapshot->volume->name, snapshot->name}))
      return damaged(fmt::format("two snapshots have the name {}", vsnap::quoted(snapshot->name)));
    snapshot->number = Version(static_cast<std::uint64_t>(s.getColumn(4).getInt64()));
    snapshot->size_bytes.store(static_cast<std::uint64_t>(s.getColumn(5).getInt64()));
    snapshot->mapped_blocks = static_cast<std::uint64_t>(s.getColumn(6).getInt64());
    snapshot->created_ns = s.getColumn(7).getInt64();
    snapshot->modified_ns.store(snapshot->created_ns);
    snapshot->branch->pins.insert(snapshot->number.value());
    objects.add(snapshot);
  }
  return {};
}

Result<> load_preserved(SQLite::Database& db, Objects& objects) VSNAP_REQUIRES(objects.mutex()) {
  if (!db.tableExists("preserved")) return {};
  std::vector<std::pair<ObjectPtr, std::string>> images;
  SQLite::Statement s(db, "SELECT id, volume, name FROM preserved WHERE final = 0 ORDER BY id");
  while (s.executeStep()) {
    const ObjectPtr image = objects.find(ObjectId(static_cast<std::uint64_t>(s.getColumn(0).getInt64())));
    const ObjectPtr next = objects.find(ObjectId(static_cast<std::uint64_t>(s.getColumn(1).getInt64())));
    std::string name = s.getColumn(2).getString();
    if (!image || !next || image == next || image->kind != ViewKind::volume ||
        next->kind != ViewKind::volume || !image->name.empty() || next->branch->parent != image->branch ||
        !valid_name(name)) {
      return damaged(fmt::format("preserved image {} has no volume", vsnap::quoted(name)));
    }
    image->continued_by = next;
    images.emplace_back(image, std::move(name));
  }
  for (const auto& [image, name] : images) {
    ObjectPtr volume = image->continued_by; // branches have no cycles, so neither have these
    while (volume->continued_by) volume = volume->continued_by;
    if (objects.find(ViewName{volume->name, name}))
      return damaged(fmt::format("two snapshots have the name {}", vsnap::quoted(name)));
    objects.erase(image);
    image->kind = ViewKind::snapshot;
    image->draining = true;
    image->name = name;
    image->volume = volume;
    image->number = image->branch->version();
    objects.add(image);
    Branch& next = *image->continued_by->branch;
    next.parent_draining.store(true);
    const auto pin = image->branch->pins.find(next.parent_number.value());
    if (pin != image->branch->pins.end()) image->branch->pins.erase(pin);
  }
  return {};
}

// Those of a full-sized snapshot, and those that have to be finished.
Result<> load_full_copies(SQLite::Database& db, Objects& objects) VSNAP_REQUIRES(objects.mutex()) {
  for (StoredCopy& stored : load_copies(db)) {
    Branch* const branch = objects.branch(stored.branch);
    const ObjectPtr snapshot = stored.copy.snapshot ? objects.find(*stored.copy.snapshot) : nullptr;
    const bool its_own = snapshot && snapshot->kind == ViewKind::snapshot && snapshot->branch == branch;
    if (branch == nullptr || (stored.copy.snapshot && !its_own) ||
        stored.copy.finished() != (branch->parent == nullptr)) {
      return damaged(fmt::format("the copy of branch {} is of nothing", stored.branch.value()));
    }
    stored.copy.total_blocks =
        snapshot ? snapshot->mapped_blocks : static_cast<std::uint64_t>(branch->mapped.load());
    branch->copy = std::move(stored.copy);
  }
  return {};
}

Result<> load_bases(SQLite::Database& db, Objects& objects) VSNAP_REQUIRES(objects.mutex()) {
  VSNAP_TRY_ASSIGN(const std::vector<Base> bases, base_rows::load(db));
  for (const Base& base : bases) {
    Branch* const branch = objects.branch(base.branch);
    if (branch == nullptr || branch->parent != nullptr || branch->adopted())
      return damaged(fmt::format("image {} is that of no adopted volume", base.member));
    branch->base.member = base.member;
    branch->base.blocks = base.blocks;
    branch->base.path = base.path;
  }
  return {};
}

// What belongs to no snapshot is no reason not to open the pool: check finds it.
void load_levels(SQLite::Database& db, Objects& objects) VSNAP_REQUIRES(objects.mutex()) {
  for (const StoredLevel& stored : level_rows::load(db)) {
    const ObjectPtr snapshot = objects.find(stored.snapshot);
    if (snapshot && snapshot->kind == ViewKind::snapshot && stored.level) snapshot->level = *stored.level;
  }
}

} // namespace

Result<> load(SQLite::Database& db, Objects& objects) {
  MutexLock lock(objects.mutex());
  VSNAP_TRY(load_branches(db, objects));
  VSNAP_TRY(load_bases(db, objects));
  VSNAP_TRY(load_volumes(db, objects));
  VSNAP_TRY(load_snapshots(db, objects));
  VSNAP_TRY(load_preserved(db, objects));
  VSNAP_TRY(load_full_copies(db, objects));
  load_levels(db, objects);
  for (Branch* branch : objects.branches()) {
    if (!branch->pins.empty() &&
        *branch->pins.rbegin() > branch->number.load() - (branch->has_head ? 1 : 0)) {
      return damaged(fmt::format("branch {} has a snapshot from its future", branch->id.value()));
    }
    branch->set_floor();
  }
  return {};
}

Result<> check_counters(SQLite::Database& db) {
  constexpr std::uint64_t kLimit = 1ULL << 62U;
  for (const char* key : {"applied", "commands", "generation", "journal_frame", "journal_offset", "line",
                          "next_branch", "next_object"}) {
    if (value(db, key) >= kLimit) return damaged(fmt::format("\"{}\" counts beyond all measure", key));
  }
  return {};
}

std::uint64_t value(SQLite::Database& db, const char* key) {
  SQLite::Statement s(db, "SELECT value FROM pool WHERE key = ?");
  s.bind(1, key);
  return s.executeStep() ? static_cast<std::uint64_t>(s.getColumn(0).getInt64()) : 0;
}

void set_value(SQLite::Database& db, const char* key, std::uint64_t value) {
  SQLite::Statement s(db, "INSERT OR REPLACE INTO pool(key, value) VALUES(?, ?)");
  s.bind(1, key);
  s.bind(2, static_cast<std::int64_t>(value));
  s.exec();
}

void erase_value(SQLite::Database& db, const char* key) {
  SQLite::Statement s(db, "DELETE FROM pool WHERE key = ?");
  s.bind(1, key);
  s.exec();
}

std::uint64_t take_number(SQLite::Database& db, const char* key) {
  const std::uint64_t number = value(db, key);
  SQLite::Statement s(db, "UPDATE pool SET value = value + 1 WHERE key = ?");
  s.bind(1, key);
  s.exec();
  return number;
}

void insert_branch(SQLite::Database& db, const Branch& branch) {
  SQLite::Statement s(db, "INSERT INTO branch(id, parent, parent_number, number, mapped) VALUES(?,?,?,?,?)");
  s.bind(1, branch.id.sql());
  if (branch.parent != nullptr) {
    s.bind(2, branch.parent->id.sql());
    s.bind(3, branch.parent_number.sql());
  }
  s.bind(4, branch.version().sql());
  s.bind(5, branch.mapped.load());
  s.exec();
}

void update_branch(SQLite::Database& db, BranchId branch, Version number) {
  SQLite::Statement s(db, "UPDATE branch SET number = ? WHERE id = ?");
  s.bind(1, number.sql());
  s.bind(2, branch.sql());
  s.exec();
}

void set_parent(SQLite::Database& db, BranchId branch, const Branch* parent, Version number) {
  SQLite::Statement s(db, "UPDATE branch SET parent = ?, parent_number = ? WHERE id = ?");
  if (parent != nullptr) {
    s.bind(1, parent->id.sql());
    s.bind(2, number.sql());
  }
  s.bind(3, branch.sql());
  s.exec();
}

void set_mapped(SQLite::Database& db, BranchId branch, std::int64_t mapped) {
  SQLite::Statement s(db, "UPDATE branch SET mapped = ? WHERE id = ?");
  s.bind(1, mapped);
  s.bind(2, branch.sql());
  s.exec();
}

std::int64_t mapped(SQLite::Database& db, BranchId branch) {
  SQLite::Statement s(db, "SELECT mapped FROM branch WHERE id = ?");
  s.bind(1, branch.sql());
  return s.executeStep() ? s.getColumn(0).getInt64() : 0;
}

void add_mapped(SQLite::Database& db, BranchId branch, std::int64_t change) {
  SQLite::Statement s(db, "UPDATE branch SET mapped = mapped + ? WHERE id = ?");
  s.bind(1, change);
  s.bind(2, branch.sql());
  s.exec();
}

void delete_branch(SQLite::Database& db, BranchId branch) {
  SQLite::Statement s(db, "DELETE FROM branch WHERE id = ?");
  s.bind(1, branch.sql());
  s.exec();
}

void insert_volume(SQLite::Database& db, const Object& volume) {
  SQLite::Statement s(db,
                      "INSERT INTO volume(id, name, branch, size, created, modified, mode, uid, gid) "
                      "VALUES(?,?,?,?,?,?,?,?,?)");
  s.bind(1, volume.id.sql());
  bind_name(s, 2, volume.name);
  s.bind(3, volume.branch->id.sql());
  s.bind(4, static_cast<std::int64_t>(volume.size_bytes.load()));
  s.bind(5, volume.created_ns);
  s.bind(6, volume.modified_ns.load());
  s.bind(7, volume.mode);
  s.bind(8, volume.uid);
  s.bind(9, volume.gid);
  s.exec();
}

void update_volume(SQLite::Database& db, Objects& objects, const Object& volume) {
  SQLite::Statement s(
      db, "UPDATE volume SET size = ?, modified = ?, mode = ?, uid = ?, gid = ?, trim = ? WHERE id = ?");
  s.bind(1, static_cast<std::int64_t>(volume.size_bytes.load()));
  s.bind(2, volume.modified_ns.load());
  {
    MutexLock lock(objects.mutex());
    s.bind(3, volume.mode);
    s.bind(4, volume.uid);
    s.bind(5, volume.gid);
  }
  if (const std::uint64_t trim = volume.trim.load(); trim != Object::kNoTrim)
    s.bind(6, static_cast<std::int64_t>(trim));
  s.bind(7, volume.id.sql());
  s.exec();
}

void point_volume(SQLite::Database& db, ObjectId volume, BranchId branch, std::uint64_t size_bytes) {
  SQLite::Statement s(db, "UPDATE volume SET branch = ?, size = ?, trim = NULL WHERE id = ?");
  s.bind(1, branch.sql());
  s.bind(2, static_cast<std::int64_t>(size_bytes));
  s.bind(3, volume.sql());
  s.exec();
}

void resize_volume(SQLite::Database& db, ObjectId volume, std::uint64_t size_bytes) {
  SQLite::Statement s(db, "UPDATE volume SET size = ?, trim = NULL WHERE id = ?");
  s.bind(1, static_cast<std::int64_t>(size_bytes));
  s.bind(2, volume.sql());
  s.exec();
}

void insert_snapshot(SQLite::Database& db, const Object& snapshot) {
  SQLite::Statement s(db,
                      "INSERT INTO snapshot(id, volume, name, branch, number, size, mapped, created) "
                      "VALUES(?,?,?,?,?,?,?,?)");
  s.bind(1, snapshot.id.sql());
  s.bind(2, snapshot.volume->id.sql());
  bind_name(s, 3, snapshot.name);
  s.bind(4, snapshot.branch->id.sql());
  s.bind(5, snapshot.number.sql());
  s.bind(6, static_cast<std::int64_t>(snapshot.size_bytes.load()));
  s.bind(7, static_cast<std::int64_t>(snapshot.mapped_blocks));
  s.bind(8, snapshot.created_ns);
  s.exec();
}

void set_snapshot_mapped(SQLite::Database& db, ObjectId snapshot, std::uint64_t mapped) {
  SQLite::Statement s(db, "UPDATE snapshot SET mapped = ? WHERE id = ?");
  s.bind(1, static_cast<std::int64_t>(mapped));
  s.bind(2, snapshot.sql());
  s.exec();
}

void move_snapshots(SQLite::Database& db, ObjectId from, ObjectId to) {
  SQLite::Statement s(db, "UPDATE snapshot SET volume = ? WHERE volume = ?");
  s.bind(1, to.sql());
  s.bind(2, from.sql());
  s.exec();
}

void insert_preserved(SQLite::Database& db, ObjectId image, ObjectId volume, const std::string& name) {
  SQLite::Statement s(db, "INSERT INTO preserved(id, volume, name, final) VALUES(?,?,?,0)");
  s.bind(1, image.sql());
  s.bind(2, volume.sql());
  s.bind(3, name);
  s.exec();
}

void make_final(SQLite::Database& db, const Object& image) {
  SQLite::Statement erase(db, "DELETE FROM volume WHERE id = ?");
  erase.bind(1, image.id.sql());
  erase.exec();
  insert_snapshot(db, image);
  SQLite::Statement s(db, "UPDATE preserved SET final = 1 WHERE id = ?");
  s.bind(1, image.id.sql());
  s.exec();
}

void erase_preserved(SQLite::Database& db, ObjectId image) {
  SQLite::Statement s(db, "DELETE FROM preserved WHERE id = ?");
  s.bind(1, image.sql());
  s.exec();
}

std::vector<std::pair<ObjectId, ObjectId>> uncounted(SQLite::Database& db) {
  std::vector<std::pair<ObjectId, ObjectId>> found;
  if (!db.tableExists("preserved")) return found;
  SQLite::Statement s(db, "SELECT id, volume FROM preserved WHERE final = 1 ORDER BY id");
  while (s.executeStep()) {
    found.emplace_back(ObjectId(static_cast<std::uint64_t>(s.getColumn(0).getInt64())),
                       ObjectId(static_cast<std::uint64_t>(s.getColumn(1).getInt64())));
  }
  return found;
}

void rename(SQLite::Database& db, const Object& object, const std::string& name) {
  SQLite::Statement s(db, object.kind == ViewKind::volume ? "UPDATE volume SET name = ? WHERE id = ?"
                                                          : "UPDATE snapshot SET name = ? WHERE id = ?");
  bind_name(s, 1, name);
  s.bind(2, object.id.sql());
  s.exec();
}

void erase(SQLite::Database& db, const Object& object) {
  if (object.kind == ViewKind::snapshot) level_rows::erase(db, object.id);
  SQLite::Statement s(db, object.kind == ViewKind::volume ? "DELETE FROM volume WHERE id = ?"
                                                          : "DELETE FROM snapshot WHERE id = ?");
  s.bind(1, object.id.sql());
  s.exec();
  if (object.kind == ViewKind::volume) property_rows::erase_all(db, object.id);
}

} // namespace vsnap::catalog
