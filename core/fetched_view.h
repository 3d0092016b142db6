// A snapshot of a pool that another host has open: its map comes from there, region by region, and stays; its
// data is read from the members here. What has no map that stays is read through the other host.
//
// Invariants
// 1. What is read is what the snapshot holds: a map is used only in the session (MapSource::session()) in
//    which it was fetched, in which the other host keeps the snapshot open for this one (exported_map.h).
//    What was read across the end of a session is read again. Members are looked at first (shared_members.h).
// 2. Read again, a region costs no message, as long as its map is kept (map_cache.h).
// Threads: any, as of every View.
#pragma once

#include "core/exported_map.h"
#include "core/map_cache.h"
#include "core/shared_members.h"
#include "core/view.h"

namespace vsnap {

// The host that has the pool open, as this one asks it.
class MapSource : public MemberSource {
 public:
  // As Pool::export_map().
  [[nodiscard]] virtual Result<std::optional<RegionMap>> fetch_map(ObjectId view, RegionIndex region) = 0;
  // As of View.
  [[nodiscard]] virtual Result<std::size_t> read(ObjectId view, std::uint64_t offset,
                                                 std::span<std::byte> out) = 0;
  [[nodiscard]] virtual Result<std::optional<std::uint64_t>> seek_data(ObjectId view,
                                                                       std::uint64_t offset) = 0;
  [[nodiscard]] virtual Result<std::optional<std::uint64_t>> seek_hole(ObjectId view,
                                                                       std::uint64_t offset) = 0;
  // The session under way: what was fetched in it may be used. Waits for one for a while, then fails. Cheap.
  [[nodiscard]] virtual Result<std::uint64_t> session() = 0;
};

class FetchedView final : public View {
 public:
  FetchedView(ViewInfo info, MapSource& source, SharedMembers& members, MapCache& maps)
      : info_(std::move(info)), source_(source), members_(members), maps_(maps) {}
  ~FetchedView() override { maps_.drop_view(number_); }
  FetchedView(const FetchedView&) = delete;
  FetchedView& operator=(const FetchedView&) = delete;

  [[nodiscard]] ObjectId id() const override { return info_.id; }
  [[nodiscard]] bool writable() const override { return false; }
  [[nodiscard]] std::uint64_t size_bytes() const override { return info_.size_bytes; }
  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> out) override;
  Result<> write(std::uint64_t, std::span<const std::byte>) override;
  Result<> discard(std::uint64_t, std::uint64_t) override;
  Result<> reserve(std::uint64_t, std::uint64_t, bool) override;
  Result<std::optional<std::uint64_t>> seek_data(std::uint64_t offset) override {
    return source_.seek_data(id(), offset);
  }
  Result<std::optional<std::uint64_t>> seek_hole(std::uint64_t offset) override {
    return source_.seek_hole(id(), offset);
  }
  Result<> fsync() override { return {}; }
  [[nodiscard]] bool may_wait() const override { return true; }

 private:
  using Map = MapCache::Map;
  Result<> read_in(std::uint64_t session, std::uint64_t offset, std::span<std::byte> out);
  // nullptr: there is none that stays.
  Result<Map> map_of(std::uint64_t session, RegionIndex region);
  Result<> read_region(const RegionMap& map, std::uint64_t offset, std::span<std::byte> out);
  [[nodiscard]] Failure read_only() const;

  const ViewInfo info_;
  MapSource& source_;
  SharedMembers& members_;
  MapCache& maps_;
  const std::uint64_t number_ = maps_.add_view();
};

} // namespace vsnap
