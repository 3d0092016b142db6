// Flatten: gives a clone places of its own for everything it still sees through its parent, then cuts the
// link.
//
// The copies become rows born at 0, under all versions of the clone: so its snapshots are complete as well.
// Sources are versions that nobody changes; the copying takes no lock and holds no I/O. Only the cut does,
// for a moment: every map in memory may name places of the parent and is loaded anew.
//
// What keeps the sources where they are: the clone's pin on its parent, and the parents' on theirs. So from
// beginning to end the clone is neither removed nor rolled back, and of two volumes of which one starts from
// the other only one is flattened at a time: the cut of one would let go of what the other copies from.
#include <fmt/format.h>
#include <algorithm>

#include "core/assert.h"
#include "core/pool_impl.h"

namespace vsnap {

struct PoolImpl::FlattenRun {
  ObjectPtr volume;
  Branch* branch = nullptr;
  // What it starts from, for blocks in the image of an adopted volume: they may be overwritten while they are
  // copied.
  std::unique_ptr<VolumeIo> source;
  std::vector<std::byte> buffer;
  std::uint64_t done_bytes = 0;
  std::uint64_t total_bytes = 0; // at most
};

namespace {
constexpr std::uint64_t kCopyBlocks = 256; // 1 MiB a transaction: as much work as a crash may repeat

bool starts_from(const Branch& branch, const Branch& ancestor) {
  for (const Branch* link = branch.parent; link != nullptr; link = link->parent) {
    if (link == &ancestor) return true;
  }
  return false;
}

} // namespace

Result<> PoolImpl::check_not_flattening(const Object& object) {
  if (!flattening_.contains(object.id)) return {};
  return failure(ErrorKind::busy, fmt::format("{}/{}: is being flattened (wait until that has ended)", name_,
                                              objects_.name_of(object).text()));
}

// Parents change under the config lock.
Result<> PoolImpl::begin_flatten(const std::string& name, FlattenRun& run) {
  VSNAP_TRY(check_room());
  VSNAP_TRY_ASSIGN(run.volume, volume_named(name));
  run.branch = run.volume->branch;
  if (run.branch->parent == nullptr) {
    return failure(ErrorKind::failed, EINVAL,
                   fmt::format("{}/{}: shares nothing with an origin; there is nothing to do", name_, name));
  }
  {
    MutexLock lock(objects_.mutex());
    for (const ObjectId id : flattening_) {
      const Object& other = *objects_.find(id);
      if (&other == run.volume.get()) VSNAP_TRY(check_not_flattening(other));
      if (starts_from(*run.branch, *other.branch) || starts_from(*other.branch, *run.branch)) {
        return failure(ErrorKind::busy, fmt::format("{}/{}: {}/{}, of the same origin, is being flattened "
                                                    "(wait until that has ended)",
                                                    name_, name, name_, other.name));
      }
    }
  }
  MutexLock commit(engine_->commit_mutex());
  VSNAP_TRY(engine_->transact([&](SQLite::Database&, std::vector<PlaceRun>&) -> Result<> {
    engine_->index().start_sweep(run.branch->id); // done at last by whoever opens the pool after a crash
    return {};
  }));
  VSNAP_TRY(hold_sweep(*run.branch, true));
  flattening_.insert(run.volume->id);
  auto origin = std::make_shared<Object>();
  origin->kind = ViewKind::snapshot;
  origin->branch = run.branch->parent;
  origin->number = run.branch->parent_number;
  origin->size_bytes.store(kMaxVolumeBytes);
  run.source = std::make_unique<VolumeIo>(*engine_, objects_, std::move(origin), nullptr);
  run.total_bytes = static_cast<std::uint64_t>(run.branch->mapped.load()) * kBlockBytes;
  return {};
}

Result<> PoolImpl::flatten(const std::string& name, const Progress& progress) {
  FlattenRun run;
  {
    MutexLock config(config_mutex_);
    VSNAP_TRY(begin_flatten(name, run));
  }
  Result<> done;
  for (RegionIndex region(0); done;) {
    std::optional<RegionIndex> found;
    done = engine_->db().read([&](SQLite::Database&) -> Result<> {
      for (const Branch* link = run.branch->parent; link != nullptr; link = link->parent) {
        const auto next_found = engine_->index().next_mapped_region(*link, region);
        if (next_found && (!found || *next_found < *found)) found = next_found;
      }
      return {};
    });
    if (!done || !found) break;
    done = flatten_region(run, *found);
    region = RegionIndex(found->value() + 1);
    if (done && progress &&
        !progress(std::min(run.done_bytes, run.total_bytes), std::max(run.total_bytes, run.done_bytes))) {
      done = failure(ErrorKind::failed, ECANCELED,
                     fmt::format("{}/{}: given up; what was copied is used next time", name_, name));
    }
  }
  MutexLock config(config_mutex_);
  if (done) done = finish_flatten(run.volume);
  flattening_.erase(run.volume->id);
  // Copies that a newer version of the head has overtaken meanwhile go with the sweep.
  Result<> released = hold_sweep(*run.branch, false);
  background_wake_.notify_all();
  return done ? released : done;
}

Result<> PoolImpl::hold_sweep(const Branch& branch, bool hold) {
  return engine_->db().read([&](SQLite::Database&) -> Result<> {
    engine_->index().hold_sweep(branch.id, hold);
    return {};
  });
}

Result<> PoolImpl::flatten_region(FlattenRun& run, RegionIndex region) {
  Region inherited(region, Version(0));
  std::vector<bool> needed(kRegionBlocks, true);
  VSNAP_TRY(engine_->db().read([&](SQLite::Database&) -> Result<> {
    std::uint64_t oldest_view = run.branch->number.load();
    {
      MutexLock lock(objects_.mutex());
      if (!run.branch->pins.empty()) oldest_view = *run.branch->pins.begin();
    }
    engine_->index().load_region(*run.branch->parent, run.branch->parent_number, std::nullopt, inherited);
    // Where all views have a version of the clone's own, nobody looks at the parent.
    for (const ExtentRow& row : engine_->index().rows(run.branch->id, region)) {
      if (row.born > oldest_view) continue;
      const std::uint64_t at = (row.start - first_block(region)).value();
      std::fill_n(needed.begin() + static_cast<std::ptrdiff_t>(at), row.count.value(), false);
    }
    return {};
  }));
  for (std::uint64_t block = 0; block < kRegionBlocks;) {
    const Entry source = inherited.entry(block);
    if (!needed[block] || !source.mapped()) {
      ++block;
      continue;
    }
    std::uint64_t end = block + 1;
    while (end < kRegionBlocks && end - block < kCopyBlocks && needed[end] &&
           inherited.entry(end).kind() == source.kind() &&
           inherited.entry(end).place() == source.place() + BlockCount(end - block)) {
      ++end;
    }
    const auto place = engine_->allocate(BlockCount(end - block), std::nullopt, block % kNeighbourhoodBlocks);
    if (!place)
      return failure(ErrorKind::no_space,
                     fmt::format("{}/{}: the pool is full (vsnap pool add, then flatten again)", name_,
                                 run.volume->name));
    if (auto copied = copy_piece(run, first_block(region) + BlockCount(block), source, *place); !copied) {
      if (engine_->check_writable()) engine_->allocator().release(*place);
      return copied;
    }
    run.done_bytes += bytes(place->count);
    block += place->count.value();
  }
  return {};
}

Result<> PoolImpl::copy_piece(FlattenRun& run, BlockIndex start, Entry source, PlaceRun place) {
  if (source.kind() == BlockKind::data) { // a reserved place has no content
    run.buffer.resize(bytes(place.count));
    if (source.place().is_base())
      VSNAP_TRY(run.source->read(start.value() * kBlockBytes, run.buffer));
    else
      VSNAP_TRY(engine_->members().read(source.place(), 0, run.buffer));
    VSNAP_TRY(engine_->members().write(place.start, 0, run.buffer));
  }
  MutexLock commit(engine_->commit_mutex());
  {
    MutexLock lock(objects_.mutex());
    VSNAP_ASSERT(run.volume->branch == run.branch && objects_.branch(run.branch->id) == run.branch);
  }
  VSNAP_TRY(engine_->flush());
  auto done = engine_->transact([&](SQLite::Database&, std::vector<PlaceRun>&) -> Result<> {
    engine_->index().insert(run.branch->id, {start, 0, place.count, source.kind(), place.start});
    engine_->allocator().set_durable(place, true);
    return {};
  });
  if (!done && engine_->allocator().is_durable(place.start)) engine_->allocator().set_durable(place, false);
  return done;
}

Result<> PoolImpl::finish_flatten(const ObjectPtr& volume) {
  MutexLock commit(engine_->commit_mutex());
  Branch* const branch = volume->branch;
  Branch* const parent = branch->parent;
  std::vector<Branch*> branches;
  std::vector<std::shared_ptr<VolumeIo>> views;
  {
    MutexLock lock(objects_.mutex());
    branches = objects_.branches();
    for (const auto& [id, view] : views_) views.push_back(view);
  }
  for (Branch* const b : branches) b->gate.close();
  for (Branch* const b : branches) b->gate.drain();
  const Version number = branch->parent_number;
  auto done = configure_locked([&](SQLite::Database& db) -> Result<> {
    catalog::set_parent(db, branch->id, nullptr, Version(0));
    engine_->index().start_sweep(parent->id);
    return {};
  });
  if (done) {
    // Under the database's lock, where maps are loaded. One that was loaded just before still looked at the
    // parent, where it found nothing that the clone does not have itself.
    done = engine_->db().read([&](SQLite::Database&) -> Result<> {
      MutexLock lock(objects_.mutex());
      branch->parent = nullptr;
      parent->pins.erase(parent->pins.find(number.value()));
      return {};
    });
    for (const auto& view : views) {
      Branch* const head = view->map().head ? view->map().branch : nullptr;
      engine_->cache().drop_all(view->map(), [&] {
        if (head == parent) parent->set_floor();
      });
    }
    parent->set_floor();
  }
  for (Branch* const b : branches) b->gate.open();
  engine_->cache().collect();
  return done;
}

} // namespace vsnap
