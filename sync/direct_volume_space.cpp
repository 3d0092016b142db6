// What is written to granted space, and how it is handed over.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "core/log.h"
#include "sync/direct_volume.h"
#include "sync/space_messages.h"

namespace vsnap {
namespace {

constexpr std::uint64_t kMostGrant = space_messages::kMaxGranted; // blocks
constexpr std::uint64_t kLeastGrant = 256;                        // as many as one write may need
constexpr std::size_t kManyPending = 8192;                        // blocks: they are handed over soon
constexpr std::int64_t kAskAgain_ns = 100'000'000;                // where there was none
constexpr std::chrono::milliseconds kLook(100);                   // whether who waits is to give up

// The coordinator will never take it.
bool is_refused(const Error& error) { return error.errno_value == ESTALE || error.errno_value == EINVAL; }

BlockCount blocks_in(std::uint64_t offset, std::uint64_t length) {
  constexpr std::uint64_t kMost = ~0ULL / kBlockBytes;
  if (length > ~0ULL - offset - kBlockBytes) return BlockCount(kMost);
  return BlockIndex((offset + length + kBlockBytes - 1) / kBlockBytes) - BlockIndex(offset / kBlockBytes);
}

} // namespace

// Places for what a write changes and the volume has no own place for; what is not used goes back.
class DirectVolume::Taken {
 public:
  Taken(DirectVolume& volume, const std::vector<Piece>& pieces) : volume_(volume) {
    for (const Piece& piece : pieces) {
      if (!piece.in_place()) missing_ += blocks_in(piece.from, piece.to - piece.from).value();
    }
    if (missing_ == 0) return;
    try {
      take(pieces);
    } catch (const std::bad_alloc&) {
      put_back();
    }
  }
  ~Taken() { put_back(); }
  Taken(const Taken&) = delete;
  Taken& operator=(const Taken&) = delete;

  [[nodiscard]] std::uint64_t missing() const { return missing_; }
  [[nodiscard]] bool is_complete() const { return missing_ == 0 || !fresh_.empty(); }
  [[nodiscard]] std::vector<Fresh>& fresh() { return fresh_; }

 private:
  void take(const std::vector<Piece>& pieces) {
    MutexLock lock(volume_.mutex_);
    std::vector<PlaceRun> runs = volume_.pending_.take(missing_);
    if (runs.empty()) return;
    try {
      fresh_.reserve(runs.size() + pieces.size());
    } catch (const std::bad_alloc&) {
      for (const PlaceRun& run : runs) volume_.pending_.put_back(run);
      throw;
    }
    std::size_t next = 0;
    for (const Piece& piece : pieces) {
      if (piece.in_place()) continue;
      const BlockIndex first(piece.from / kBlockBytes);
      const std::uint64_t count = blocks_in(piece.from, piece.to - piece.from).value();
      for (std::uint64_t done = 0; done < count;) {
        PlaceRun& run = runs[next];
        const BlockCount part(std::min(count - done, run.count.value()));
        fresh_.push_back({first + BlockCount(done), {run.start, part}, piece.entry.further(done)});
        done += part.value();
        if (part == run.count)
          ++next;
        else
          run = {run.start + part, run.count - part};
      }
    }
  }
  void put_back() {
    if (fresh_.empty()) return;
    MutexLock lock(volume_.mutex_);
    for (auto it = fresh_.rbegin(); it != fresh_.rend(); ++it) {
      if (!it->used) volume_.pending_.put_back(it->run);
    }
    fresh_.clear();
  }

  DirectVolume& volume_;
  std::uint64_t missing_ = 0; // blocks
  std::vector<Fresh> fresh_;
};

// ---- writing ----

bool DirectVolume::write_at(Place place, std::uint64_t skip, std::span<const std::byte> part) {
  const auto written = members_.write(place, skip, part);
  unflushed_.store(true); // after the write: a flush that had begun before it does not cover it
  return written.has_value();
}

DirectVolume::Done DirectVolume::write_pieces(std::uint64_t offset, std::span<const std::byte> data,
                                              const std::vector<Piece>& pieces) {
  Taken taken(*this, pieces);
  if (taken.missing() > 0) ask_for_space(taken.is_complete() ? 0 : taken.missing());
  if (!taken.is_complete()) return Done::no_space;
  for (const Piece& piece : pieces) {
    const auto part = data.subspan(piece.from - offset, piece.to - piece.from);
    if (piece.in_place() && !write_at(piece.entry.place(), piece.skip, part)) return Done::not_here;
  }
  for (const Fresh& fresh : taken.fresh()) {
    if (!write_fresh(fresh, offset, data)) return Done::not_here;
  }
  return taken.fresh().empty() ? Done::yes : publish(taken.fresh());
}

// Blocks in whole: of one that is written in part the rest is what it shows now, with nobody else in it.
bool DirectVolume::write_fresh(const Fresh& fresh, std::uint64_t offset, std::span<const std::byte> data) {
  const std::uint64_t begin = fresh.first.value() * kBlockBytes;
  const std::uint64_t end = begin + bytes(fresh.run.count);
  const std::uint64_t from = std::max(begin, offset);
  const std::uint64_t to = std::min(end, offset + data.size());
  const auto part = data.subspan(from - offset, to - from);
  if (from == begin && to == end) return write_at(fresh.run.start, 0, part);
  std::vector<std::byte> whole;
  try {
    whole.resize(end - begin);
  } catch (const std::bad_alloc&) {
    return false;
  }
  const auto show = [&](std::uint64_t block) {
    if (fresh.before.kind() != BlockKind::data) return true;
    const auto shown = std::span(whole).subspan(block * kBlockBytes, kBlockBytes);
    return members_.read(fresh.before.further(block).place(), 0, shown).has_value();
  };
  const std::uint64_t last = fresh.run.count.value() - 1;
  if (from != begin && !show(0)) return false;
  if (to != end && (last != 0 || from == begin) && !show(last)) return false;
  std::memcpy(whole.data() + (from - begin), part.data(), part.size());
  return write_at(fresh.run.start, 0, whole);
}

// A block that another write has given a place meanwhile is overwritten there.
DirectVolume::Done DirectVolume::publish(std::vector<Fresh>& fresh) {
  Done done = Done::yes;
  bool many = false;
  try {
    MutexLock lock(mutex_);
    for (Fresh& one : fresh) {
      const RegionIndex index = region_of(one.first);
      const auto found = slots_.find(index);
      if (found == slots_.end() || !found->second.map) {
        done = Done::again;
        continue;
      }
      Region& region = *found->second.map;
      const std::uint64_t at = (one.first - first_block(index)).value();
      const std::uint64_t count = one.run.count.value();
      MutexLock inner(region.mutex());
      bool is_as_before = true;
      for (std::uint64_t i = 0; i < count; ++i)
        is_as_before = is_as_before && region.entry(at + i) == one.before.further(i);
      if (!is_as_before) {
        done = Done::again;
        continue;
      }
      const Entry own(BlockKind::data, one.run.start, true);
      region.make_room(at, count, own);
      pending_.add(one.first, one.run);
      one.used = true;
      region.set_run(at, count, own);
    }
    many = pending_.size() >= kManyPending;
  } catch (const std::bad_alloc&) { // what has been noted of it stands
    return Done::not_here;
  }
  if (many) handover_.hand_over_soon(id_);
  return done;
}

// ---- space ----

// Ahead of need; one request at a time.
void DirectVolume::ask_for_space(std::uint64_t missing) {
  std::uint64_t delegation = 0;
  BlockCount wanted;
  {
    MutexLock lock(mutex_);
    if (asking_ || !pending_.may_be_used() || given() != pending_.delegation()) return;
    if (pending_.left() >= std::max(missing, next_grant_ / 4)) return;
    if (env_.monotonic_ns() < ask_at_ns_) return;
    asking_ = true;
    delegation = pending_.delegation();
    wanted = BlockCount(std::max(missing, next_grant_));
  }
  handover_.ask_for_space(id_, delegation, wanted);
}

// For what has been asked for, if it has. A write by the coordinator would take longer: what is pending there
// is flushed and handed over first, and the map is fetched anew.
bool DirectVolume::await_space() {
  MutexLock lock(mutex_);
  if (!pending_.may_be_used()) return false;
  while (asking_ && given() == pending_.delegation() && env_.monotonic_ns() < lease_.young_until_ns.load())
    changed_.wait_for(mutex_, kLook);
  return !asking_ && given() == pending_.delegation() && env_.monotonic_ns() >= ask_at_ns_;
}

void DirectVolume::granted(std::uint64_t delegation, std::span<const PlaceRun> runs) {
  bool hand_over = false;
  {
    MutexLock lock(mutex_);
    if (delegation != pending_.delegation() || !asking_) return; // of one that has ended
    asking_ = false;
    changed_.notify_all();
    if (given() != delegation) return;
    if (runs.empty()) {
      ask_at_ns_ = env_.monotonic_ns() + kAskAgain_ns;
      hand_over = !pending_.is_empty(); // that counts as space that it has
    } else {
      try {
        pending_.grant(runs);
      } catch (const std::bad_alloc&) { // what is not noted is freed with the delegation
      }
      std::uint64_t got = 0; // perhaps less than was asked for, where there is not so much for this host
      for (const PlaceRun& run : runs) got += run.count.value();
      next_grant_ = std::clamp(got * 2, kLeastGrant, kMostGrant);
    }
  }
  if (hand_over) handover_.hand_over_soon(id_);
}

// ---- handing over ----

std::function<bool()> DirectVolume::until_lease_is_over() const {
  return [this] { return env_.monotonic_ns() >= lease_.until_ns.load(); };
}

Result<> DirectVolume::flush() {
  auto flushed = hand_over(until_lease_is_over());
  if (!flushed) flush_failures_.fetch_add(1);
  return flushed;
}

// What is lost is told by the next flush: the coordinator may be asked then.
Result<> DirectVolume::settle(std::uint64_t offset, std::uint64_t length) {
  const auto is_pending = [&] {
    MutexLock lock(mutex_);
    return pending_.overlaps(BlockIndex(offset / kBlockBytes), blocks_in(offset, length));
  };
  if (!is_pending()) return {};
  auto done = hand_over(until_lease_is_over());
  if (!done && is_pending()) return done;
  return {};
}

void DirectVolume::hand_over_old(bool all) {
  {
    MutexLock lock(mutex_);
    const std::uint64_t old = std::exchange(old_, pending_.last());
    if (pending_.is_empty() || (!all && pending_.first() > old)) return;
  }
  if (const auto done = flush(); !done) log::error("{}", done.error().message);
}

// What the coordinator does not refuse for good it may take later, from the next process perhaps: nothing of
// that is given up here.
bool DirectVolume::finish() {
  const Result<> done = hand_over([] { return false; });
  if (!done && std::exchange(trouble_, done.error().message) != done.error().message)
    log::error("{}", done.error().message);
  MutexLock lock(mutex_);
  return pending_.is_empty();
}

// One after the other: who finds nothing to flush has waited for the one that had it. That one may wait for
// the coordinator for longer than the next wants to.
class DirectVolume::HandoverTurn {
 public:
  HandoverTurn(DirectVolume& volume, const std::function<bool()>& given_up) : volume_(volume) {
    MutexLock lock(volume_.flush_mutex_);
    while (volume_.flushing_) {
      if (given_up()) return;
      volume_.flush_ended_.wait_for(volume_.flush_mutex_, kLook);
    }
    has_it_ = volume_.flushing_ = true;
  }
  ~HandoverTurn() {
    if (!has_it_) return;
    MutexLock lock(volume_.flush_mutex_);
    volume_.flushing_ = false;
    volume_.flush_ended_.notify_all();
  }
  HandoverTurn(const HandoverTurn&) = delete;
  HandoverTurn& operator=(const HandoverTurn&) = delete;
  explicit operator bool() const { return has_it_; }

 private:
  DirectVolume& volume_;
  bool has_it_ = false;
};

Result<> DirectVolume::hand_over(const std::function<bool()>& given_up) {
  const HandoverTurn turn(*this, given_up);
  if (!turn) return failure(ErrorKind::no_answer, EIO, "no answer from the coordinator");
  std::uint64_t upto = 0;
  std::uint64_t delegation = 0;
  {
    MutexLock lock(mutex_);
    upto = pending_.last();
    delegation = pending_.delegation();
  }
  if (unflushed_.exchange(false)) {
    if (auto flushed = members_.flush(); !flushed) { // nobody knows what the places hold
      flush_failures_.fetch_add(1);
      lose(flushed.error());
      return flushed;
    }
  }
  for (bool waited = false;;) {
    std::vector<MapRun> batch;
    try {
      MutexLock lock(mutex_);
      batch = pending_.batch(upto, space_messages::kMaxRuns);
    } catch (const std::bad_alloc&) {
      return system_failure(ENOMEM, "the map of a volume");
    }
    if (batch.empty()) return {};
    if (!std::exchange(waited, true)) grace_.synchronize(); // with what the blocks were before
    auto done = handover_.commit_blocks(delegation, batch, given_up);
    if (!done) {
      if (is_refused(done.error())) lose(done.error());
      return failure(done.error().kind, EIO, std::move(done.error().message));
    }
    MutexLock lock(mutex_);
    pending_.handed_over(batch);
  }
}

// The map names places that the coordinator will give to others: it is not used any more.
void DirectVolume::lose(const Error& why) {
  std::size_t lost = 0;
  {
    MutexLock lock(mutex_);
    lost = pending_.size();
    if (lost == 0) return;
    pending_.lose();
  }
  stop();
  flush_failures_.fetch_add(1);
  log::error("{} blocks that were written to a volume since the last fsync are lost: {}", lost, why.message);
}

} // namespace vsnap
