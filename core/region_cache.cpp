#include "core/region_cache.h"

#include <algorithm>

#include "core/planted.h"

namespace vsnap {

RegionCache::RegionCache(Database& db, ExtentIndex& index, Grace& grace, std::uint64_t limit_bytes)
    : db_(db),
      index_(index),
      grace_(grace),
      limit_bytes_(std::max<std::uint64_t>(limit_bytes, kMinRegions * sizeof(Region))),
      evict_at_(limit_bytes_ + kEvictStep) {}

std::vector<MapChange> RegionCache::pending(const ViewMap& map) const {
  std::vector<MapChange> changes;
  const std::uint64_t committed = committed_.load(std::memory_order_acquire);
  if (map.head || map.line <= committed || log_ == nullptr) return changes;
  std::vector<LogRecord> records;
  log_->copy(committed, map.line, records);
  // A full-sized snapshot is the child of what it preserves, and has nothing itself before the catalog has
  // all.
  const Branch* const parent = map.branch->parent;
  for (const LogRecord& record : records) {
    if (record.type != RecordType::map) continue;
    const bool own = record.subject == map.branch->id.value() && record.born <= map.number.value();
    const bool inherited = parent != nullptr && record.subject == parent->id.value() &&
                           record.born <= map.branch->parent_number.value();
    if (own || inherited) changes.push_back(change_of(record));
  }
  return changes;
}

namespace {

// Where the region shows the places in the image that `save` is about, it shows the saved ones from then on.
// Throws std::bad_alloc before it changes the run that it is at.
void show_saved(Region& region, const MapChange& save, Place identity) VSNAP_REQUIRES(region.mutex()) {
  const std::uint64_t base = first_block(region.index()).value();
  const std::uint64_t first = save.start.value() - base;
  const auto shows = [&](std::uint64_t i) {
    const Entry e = region.entry(first + i);
    return e.kind() == BlockKind::data && e.place() == identity + BlockCount(i);
  };
  for (std::uint64_t i = 0; i < save.count.value();) {
    if (!shows(i)) {
      ++i;
      continue;
    }
    std::uint64_t end = i + 1;
    while (end < save.count.value() && shows(end)) ++end;
    const Entry saved(save.kind, save.place + BlockCount(i), false);
    region.make_room(first + i, end - i, saved);
    region.set_run(first + i, end - i, saved);
    i = end;
  }
}

} // namespace

void RegionCache::add(ViewMap& map) {
  MutexLock lock(load_mutex_);
  maps_.push_back(&map);
}

Result<> RegionCache::switch_to_saved(const ViewMap& head, const MapChange& saves,
                                      const std::function<std::uint64_t()>& record) {
  MutexLock lock(load_mutex_);
  try {
    saves_.add(saves);
    for (ViewMap* const map : maps_) {
      Region* const region = map == &head ? nullptr : map->table.find(region_of(saves.start));
      if (region == nullptr || planted(Fault::entry_not_switched)) continue;
      MutexLock changing(region->mutex());
      show_saved(*region, saves, head.branch->identity(saves.start));
    }
    saves_.set_sequence(saves, record());
  } catch (const std::bad_alloc&) {
    return failure(ErrorKind::failed, ENOMEM, "no memory for the map");
  }
  return {};
}

// The head of an adopted volume sees nothing of it: its newest versions are in the image.
std::vector<RegionCache::Saved> RegionCache::saves_under(const ViewMap& map, RegionIndex index) const {
  std::vector<Saved> found;
  if (planted(Fault::load_without_saves)) return found;
  std::vector<MapChange> saves;
  Version seen = map.head ? map.branch->version() : map.number;
  for (const Branch* link = map.branch; link != nullptr; link = link->seen_parent()) {
    if (link->adopted() && !(map.head && link == map.branch)) {
      saves_.copy(link->id, index, seen, saves);
      for (const MapChange& save : saves) found.push_back({save, link->identity(save.start)});
      saves.clear();
    }
    seen = link->parent_number;
  }
  return found;
}

Result<Region*> RegionCache::get(ViewMap& map, RegionIndex index) {
  if (Region* const region = map.table.find(index)) {
    if (!region->used_lately.load(std::memory_order_relaxed))
      region->used_lately.store(true, std::memory_order_relaxed);
    return region;
  }
  MutexLock lock(load_mutex_);
  if (Region* const region = map.table.find(index)) return region;
  // The version before the floor: should a snapshot come between, the own bits are cleared once too often,
  // never too seldom.
  const Version version = map.branch->version();
  auto region = std::make_unique<Region>(index, version);
  std::vector<Saved> saved;
  const std::vector<MapChange> over = pending(map); // before the catalog is read: so nothing falls between
  // A commit under way changes no row that this view sees: what it brings of this map is in memory, or was
  // written after the version that is read here.
  VSNAP_TRY(db_.peek([&](SQLite::Database&) -> Result<> {
    saved = saves_under(map, index);
    if (map.head)
      index_.load_region(*map.branch, version, map.branch->floor.load(), *region);
    else
      index_.load_region(*map.branch, map.number, std::nullopt, *region);
    return {};
  }));
  for (const MapChange& change : over) {
    if (region_of(change.start) != index) continue;
    const std::uint64_t from = (change.start - first_block(index)).value();
    MutexLock filling(region->mutex());
    const Entry first(change.kind, change.place, false);
    region->make_room(from, change.count.value(), first);
    region->set_run(from, change.count.value(), first);
  }
  for (const auto& [save, identity] : saved) {
    MutexLock filling(region->mutex());
    show_saved(*region, save, identity);
  }
  region->count_in(bytes_);
  Region* const loaded = region.release();
  map.table.insert(loaded);
  clock_.push_back({&map, index});
  if (bytes_.load() > limit_bytes_) evict(loaded);
  return loaded;
}

void RegionCache::shrink() {
  MutexLock lock(load_mutex_);
  if (bytes_.load() >= evict_at_.load()) evict(nullptr); // else another thread has done it
}

void RegionCache::evict(const Region* loaded) {
  // At most two turns: the first takes away the second chances.
  for (std::size_t tries = 2 * clock_.size(); tries > 0 && bytes_.load() > limit_bytes_; --tries) {
    if (hand_ >= clock_.size()) hand_ = 0;
    const Slot slot = clock_[hand_];
    Region* const region = slot.map->table.find(slot.index);
    if (region == loaded || region->used_lately.exchange(false) ||
        !region->retire(committed_.load(std::memory_order_acquire))) {
      ++hand_;
      continue;
    }
    retire(slot);
    clock_[hand_] = clock_.back();
    clock_.pop_back();
  }
  evict_at_.store(std::max(bytes_.load(), limit_bytes_) + kEvictStep, std::memory_order_relaxed);
}

void RegionCache::retire(const Slot& slot) {
  retired_.push_back(slot.map->table.remove(slot.index));
  const std::uint64_t bytes = retired_.back()->bytes(); // it grows no more: no writer gets a range of it
  retired_bytes_.fetch_add(bytes, std::memory_order_relaxed);
  bytes_.fetch_sub(bytes);
}

void RegionCache::drop_all(ViewMap& map, const std::function<void()>& change) {
  MutexLock lock(load_mutex_);
  change();
  std::erase_if(clock_, [&](const Slot& slot) VSNAP_NO_THREAD_SAFETY_ANALYSIS {
    if (slot.map != &map) return false;
    retire(slot);
    return true;
  });
  hand_ = 0;
}

void RegionCache::forget(ViewMap& map) {
  drop_all(map, [&]() VSNAP_NO_THREAD_SAFETY_ANALYSIS { std::erase(maps_, &map); });
  collect();
}

void RegionCache::collect() {
  std::vector<std::unique_ptr<Region>> retired;
  {
    MutexLock lock(load_mutex_);
    retired.swap(retired_);
  }
  if (retired.empty()) return;
  grace_.synchronize();
  std::uint64_t bytes = 0;
  for (const auto& region : retired) bytes += region->bytes();
  retired.clear();
  retired_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
}

} // namespace vsnap
