#include "sync/direct_volume.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <utility>

namespace vsnap {
namespace {

constexpr std::chrono::milliseconds kLongestWait(100); // of a fetch, for changes under way
constexpr std::int64_t kFetchPause_ns = 20'000'000;    // before a region is fetched anew, at least
constexpr std::int64_t kFetchShare = 10;               // and so many times as long as the last one took

// The map says nothing of the block.
constexpr Entry kUnknown(BlockKind::hole, Place(), false);

constexpr unsigned kMostTries = 8; // two regions to fetch at most, space, and others that were first

BlockIndex block_at(std::uint64_t offset) { return BlockIndex(offset / kBlockBytes); }
BlockCount blocks_of(std::uint64_t offset, std::uint64_t end) {
  return BlockIndex((end + kBlockBytes - 1) / kBlockBytes) - block_at(offset);
}

// What has come of a region, where it is not known yet. May throw std::bad_alloc.
void fill_in(Region& known, const Region& fetched) {
  MutexLock lock(known.mutex());
  for (std::uint64_t block = 0; block < kRegionBlocks;) {
    const Entry entry = fetched.entry(block);
    if (entry == kUnknown || known.entry(block) != kUnknown) {
      ++block;
      continue;
    }
    std::uint64_t count = 1;
    while (block + count < kRegionBlocks && known.entry(block + count) == kUnknown &&
           fetched.entry(block + count) == entry.further(count))
      ++count;
    known.make_room(block, count, entry);
    known.set_run(block, count, entry);
    block += count;
  }
}

} // namespace

// Inside it I/O on the members is under way.
class DirectVolume::Pass {
 public:
  explicit Pass(DirectVolume& volume)
      : section_(volume.grace_), gate_(volume.gate_), is_in_(volume.gate_.try_enter()) {
    if (is_in_ && volume.env_.monotonic_ns() >= volume.lease_.young_until_ns.load()) leave();
  }
  ~Pass() { leave(); }
  Pass(const Pass&) = delete;
  Pass& operator=(const Pass&) = delete;
  explicit operator bool() const { return is_in_; }

 private:
  void leave() {
    if (std::exchange(is_in_, false)) gate_.leave();
  }
  const Grace::Section section_;
  IoGate& gate_;
  bool is_in_;
};

// ---- what begins and ends ----

void DirectVolume::give(std::uint64_t delegation, std::uint64_t size_bytes, PendingMemory* memory) {
  MutexLock lock(mutex_);
  pending_.begin(delegation, memory);
  asking_ = false;
  ask_at_ns_ = 0;
  next_grant_ = kFirstGrant;
  changes_before_ += std::exchange(changes_, 0);
  ++gifts_;
  size_bytes_.store(size_bytes);
  given_.store(delegation);
  gate_.open();
}

void DirectVolume::stop() {
  given_.store(0);
  gate_.close();
}

void DirectVolume::drain() {
  gate_.drain();
  drop_maps();
  MutexLock lock(mutex_);
  pending_.stop_granting();
}

Result<> DirectVolume::check_lease() const {
  if (env_.monotonic_ns() < lease_.until_ns.load()) return {};
  return failure(ErrorKind::failed, EIO,
                 "the lease ran out, and another host may have taken the volume over");
}

// ---- I/O ----

Result<std::optional<std::size_t>> DirectVolume::read(std::uint64_t offset, std::span<std::byte> out) {
  VSNAP_TRY_ASSIGN(const auto read, read_here(offset, out));
  if (!read) VSNAP_TRY(settle(offset, out.size()));
  return read;
}

Result<std::optional<std::size_t>> DirectVolume::read_here(std::uint64_t offset, std::span<std::byte> out) {
  for (unsigned fetches = 0; given() != 0; ++fetches) {
    RegionIndex missing;
    {
      const RangeTurns::Held turn(&turns_, block_at(offset), blocks_of(offset, offset + out.size()),
                                  RangeTurns::Turn::shared);
      const Pass pass(*this);
      if (!pass) return std::nullopt;
      if (offset + out.size() > size_bytes_.load()) return std::nullopt;
      const Look look = look_up(offset, offset + out.size());
      if (look.known == Known::all) {
        for (const Piece& piece : look.pieces) {
          const auto part = out.subspan(piece.from - offset, piece.to - piece.from);
          if (!piece.mapped())
            std::memset(part.data(), 0, part.size());
          else if (!members_.read(piece.entry.place(), piece.skip, part))
            return std::nullopt;
        }
        VSNAP_TRY(check_lease());
        return out.size();
      }
      missing = look.missing;
    }
    if (fetches == 2 || !fetch(missing)) return std::nullopt; // it touches two regions at most
  }
  return std::nullopt;
}

Result<bool> DirectVolume::write(std::uint64_t offset, std::span<const std::byte> data) {
  if (data.empty()) return false;
  const std::uint64_t end = offset + data.size();
  const bool is_whole = offset % kBlockBytes == 0 && end % kBlockBytes == 0;
  for (unsigned tries = 0; given() != 0 && tries < kMostTries; ++tries) {
    std::optional<RegionIndex> missing;
    {
      const RangeTurns::Held turn(&turns_, block_at(offset), blocks_of(offset, end),
                                  is_whole ? RangeTurns::Turn::shared : RangeTurns::Turn::alone);
      const Pass pass(*this);
      if (!pass || end > size_bytes_.load()) return false;
      const Look look = look_up(offset, end);
      if (look.known == Known::all) {
        was_written_.store(true);
        const Done done = write_pieces(offset, data, look.pieces);
        if (done == Done::not_here) return false; // whatever it was: the coordinator is asked for it
        if (done == Done::again) continue;
        if (done == Done::yes) {
          VSNAP_TRY(check_lease());
          return true;
        }
      } else {
        missing = look.missing;
      }
    }
    if (missing ? !fetch(*missing) : !await_space()) return false;
  }
  return false;
}

// ---- the map ----

DirectVolume::Known DirectVolume::look_up_in(const Region& region, std::uint64_t from, std::uint64_t to,
                                             std::vector<Piece>& pieces) const {
  const std::uint64_t first_byte = first_block(region.index()).value() * kBlockBytes;
  for (std::uint64_t at = from; at < to;) {
    const std::uint64_t block = (at - first_byte) / kBlockBytes;
    const Entry entry = region.entry(block);
    if (entry == kUnknown) return Known::to_be_fetched;
    std::uint64_t count = 1;
    const auto ends = [&] { return std::min(to, first_byte + (block + count) * kBlockBytes); };
    while (ends() < to && region.entry(block + count) == entry.further(count)) ++count;
    pieces.push_back({at, ends(), entry, at - first_byte - block * kBlockBytes});
    at = ends();
  }
  return Known::all;
}

DirectVolume::Look DirectVolume::look_up(std::uint64_t offset, std::uint64_t end) {
  Look look;
  for (std::uint64_t at = offset; at < end;) {
    const RegionIndex index = region_of(block_at(at));
    const std::uint64_t to = std::min(end, (index.value() + 1) * kRegionBlocks * kBlockBytes);
    std::shared_ptr<Region> region;
    {
      MutexLock lock(mutex_);
      if (const auto found = slots_.find(index); found != slots_.end()) region = found->second.map;
    }
    look.missing = index;
    look.known = region ? look_up_in(*region, at, to, look.pieces) : Known::to_be_fetched;
    if (look.known != Known::all) return look;
    at = to;
  }
  return look;
}

namespace {

// Throws std::bad_alloc.
std::shared_ptr<Region> region_from(RegionIndex index, const RegionMap& map) {
  auto region = std::make_shared<Region>(index, Version(0));
  auto entries = std::make_unique<std::array<Entry, kRegionBlocks>>();
  for (const MapRun& run : map) {
    const std::uint64_t start = (run.start - first_block(index)).value();
    for (std::uint64_t i = 0; i < run.count.value() && start + i < kRegionBlocks; ++i) {
      const Place place = run.place + BlockCount(i);
      (*entries)[start + i] = place.in_pool() ? Entry(BlockKind::data, place, run.own) : kUnknown;
    }
  }
  region->load(*entries);
  return region;
}

} // namespace

bool DirectVolume::is_fetched(RegionIndex index) {
  const auto found = slots_.find(index);
  return found != slots_.end() && found->second.fetching;
}

void DirectVolume::end_fetch(Slot& slot) {
  slot.fetching = false;
  --fetching_;
  changed_.notify_all();
}

// Who has to wait for changes that last gives up: the coordinator is asked for the block itself.
bool DirectVolume::fetch(RegionIndex index) {
  const std::uint64_t delegation = given();
  {
    MutexLock lock(mutex_);
    Slot& slot = slots_[index]; // stays while it is fetched
    if (slot.fetching) {
      while (is_fetched(index)) changed_.wait(mutex_);
      const auto found = slots_.find(index);
      return found != slots_.end() && found->second.map;
    }
    if (slot.map && env_.monotonic_ns() < refetch_at_ns_) return false;
    slot.fetching = true;
    ++fetching_;
    const auto until = std::chrono::steady_clock::now() + kLongestWait; // however often others wake it
    while (is_changing(slot)) {                                         // no further ones of the region begin
      const auto left = until - std::chrono::steady_clock::now();
      if (left > left.zero()) {
        changed_.wait_for(mutex_, left);
        continue;
      }
      end_fetch(slot);
      return false;
    }
  }
  const std::int64_t began_ns = env_.monotonic_ns();
  auto fetched = source_.fetch_volume_map(id_, index);
  std::shared_ptr<Region> map;
  try {
    if (fetched && *fetched) map = region_from(index, **fetched);
  } catch (const std::bad_alloc&) { // then it is asked for block by block
  }
  const std::int64_t now_ns = env_.monotonic_ns();
  MutexLock lock(mutex_);
  Slot& slot = slots_[index];
  end_fetch(slot);
  refetch_at_ns_ = now_ns + std::max(kFetchPause_ns, kFetchShare * (now_ns - began_ns));
  if (!map || delegation == 0 || given() != delegation) return false; // of one that has ended
  if (slot.map) {                                                     // what it knows is right, and newer
    try {
      fill_in(*slot.map, *map);
    } catch (const std::bad_alloc&) {
      return false;
    }
    return true;
  }
  make_room();
  slot.map = std::move(map);
  return true;
}

void DirectVolume::make_room() {
  std::size_t maps = 0;
  // While a region is fetched its map stays: what is fetched may be older (publish() asks nobody).
  const auto may_go = [this](const auto& each) VSNAP_REQUIRES(mutex_) {
    return each.second.map && !each.second.fetching && !pending_.has(each.first);
  };
  for (const auto& each : slots_) maps += may_go(each) ? 1 : 0;
  for (; maps >= kMaxRegions; --maps) {
    auto next = std::find_if(slots_.upper_bound(last_dropped_), slots_.end(), may_go);
    if (next == slots_.end()) next = std::find_if(slots_.begin(), slots_.end(), may_go);
    last_dropped_ = next->first;
    next->second.map.reset();
    if (next->second.is_empty()) slots_.erase(next);
  }
}

void DirectVolume::drop_maps() {
  MutexLock lock(mutex_);
  for (auto& [index, slot] : slots_) slot.map.reset();
  std::erase_if(slots_, [](const auto& each) { return each.second.is_empty(); });
}

// ---- changes that the coordinator is asked for ----

Result<> DirectVolume::forget(std::uint64_t offset, std::uint64_t length) {
  MutexLock lock(mutex_);
  for (std::uint64_t at = offset; at < offset + length;) {
    const RegionIndex index = region_of(block_at(at));
    const std::uint64_t to = std::min(offset + length, (index.value() + 1) * kRegionBlocks * kBlockBytes);
    if (const auto found = slots_.find(index); found != slots_.end() && found->second.map) {
      Region& region = *found->second.map;
      const std::uint64_t from = (block_at(at) - first_block(index)).value();
      MutexLock inner(region.mutex());
      try {
        region.make_room(from, blocks_of(at, to).value(), kUnknown);
        region.set_run(from, blocks_of(at, to).value(), kUnknown);
      } catch (const std::bad_alloc&) {
        if (pending_.has(index)) return system_failure(ENOMEM, "the map of a volume");
        found->second.map.reset(); // with nobody in the range
      }
    }
    at = to;
  }
  return {};
}

// One that makes the volume larger changes its old end as well, wherever that is.
DirectVolume::Change::Change(DirectVolume& volume, std::uint64_t offset, std::uint64_t length)
    : volume_(volume) {
  begin(offset, length);
  if (!all_) {
    const RangeTurns::Held turn(&volume_.turns_, block_at(offset), blocks_of(offset, offset + length),
                                RangeTurns::Turn::alone);
    ready_ = volume_.settle(offset, length);
    if (ready_) ready_ = volume_.forget(offset, length);
    return;
  }
  const RangeTurns::Held turn(&volume_.turns_, BlockIndex(0), BlockCount(~0ULL / kBlockBytes),
                              RangeTurns::Turn::alone);
  ready_ = volume_.settle(0, kAll);
  if (ready_) volume_.drop_maps();
}

void DirectVolume::Change::begin(std::uint64_t offset, std::uint64_t length) {
  MutexLock lock(volume_.mutex_);
  gift_ = volume_.gifts_;
  given_ = volume_.given();
  all_ = length == kAll || (given_ != 0 && offset + length > volume_.size_bytes_.load());
  ++volume_.changes_;
  if (all_) {
    while (volume_.fetching_ > 0) volume_.changed_.wait(volume_.mutex_);
    ++volume_.changes_all_;
    return;
  }
  for (std::uint64_t at = offset; at < offset + length;) {
    const RegionIndex index = region_of(block_at(at));
    while (volume_.is_fetched(index)) volume_.changed_.wait(volume_.mutex_);
    ++volume_.slots_[index].changes;
    regions_.push_back(index);
    at = (index.value() + 1) * kRegionBlocks * kBlockBytes;
  }
}

DirectVolume::Change::~Change() {
  MutexLock lock(volume_.mutex_);
  --(gift_ == volume_.gifts_ ? volume_.changes_ : volume_.changes_before_);
  if (all_) --volume_.changes_all_;
  for (const RegionIndex index : regions_) {
    const auto found = volume_.slots_.find(index);
    --found->second.changes;
    if (found->second.is_empty()) volume_.slots_.erase(found);
  }
  volume_.changed_.notify_all();
}

void DirectVolume::Change::note_size(std::uint64_t size_bytes) {
  if (given_ == 0 || volume_.given() != given_) return;
  std::uint64_t before = volume_.size_bytes_.load();
  while (before < size_bytes && !volume_.size_bytes_.compare_exchange_weak(before, size_bytes)) {
  }
}

} // namespace vsnap
