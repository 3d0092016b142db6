#include "core/fetched_view.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "core/view_span.h"

namespace vsnap {

Failure FetchedView::read_only() const {
  return failure(ErrorKind::failed, EROFS, fmt::format("{}: a snapshot never changes", info_.name.text()));
}

Result<> FetchedView::write(std::uint64_t, std::span<const std::byte>) { return read_only(); }
Result<> FetchedView::discard(std::uint64_t, std::uint64_t) { return read_only(); }
Result<> FetchedView::reserve(std::uint64_t, std::uint64_t, bool) { return read_only(); }

Result<std::size_t> FetchedView::read(std::uint64_t offset, std::span<std::byte> out) {
  if (offset >= info_.size_bytes) return std::size_t{0};
  out = out.first(static_cast<std::size_t>(std::min<std::uint64_t>(out.size(), info_.size_bytes - offset)));
  for (;;) {
    VSNAP_TRY_ASSIGN(const std::uint64_t session, source_.session());
    auto read = read_in(session, offset, out);
    VSNAP_TRY_ASSIGN(const std::uint64_t after, source_.session());
    if (after != session) continue; // places may have been given away while they were read
    VSNAP_TRY(read);
    return out.size();
  }
}

Result<> FetchedView::read_in(std::uint64_t session, std::uint64_t offset, std::span<std::byte> out) {
  for (std::size_t done = 0; done < out.size();) {
    const std::uint64_t at = offset + done;
    const std::uint64_t in_region = kRegionBytes - at % kRegionBytes;
    const std::span<std::byte> part =
        out.subspan(done, static_cast<std::size_t>(std::min<std::uint64_t>(in_region, out.size() - done)));
    VSNAP_TRY_ASSIGN(const Map map, map_of(session, RegionIndex(at / kRegionBytes)));
    Result<> read;
    if (map) read = read_region(*map, at, part);
    // A member that is not here, as one that was added since, is at the other host.
    const bool elsewhere = !read && read.error().kind == ErrorKind::not_found;
    if (!read && !elsewhere) return read;
    if (!map || elsewhere) {
      VSNAP_TRY_ASSIGN(const std::size_t length, source_.read(id(), at, part));
      if (length != part.size())
        return failure(ErrorKind::failed, EIO, fmt::format("{}: came short", info_.name.text()));
      if (elsewhere) members_.look_again(source_);
    }
    done += part.size();
  }
  return {};
}

Result<> FetchedView::read_region(const RegionMap& map, std::uint64_t offset, std::span<std::byte> out) {
  std::memset(out.data(), 0, out.size());
  const std::uint64_t end = offset + out.size();
  auto run = std::upper_bound(map.begin(), map.end(), offset / kBlockBytes,
                              [](std::uint64_t block, const MapRun& r) { return block < r.end().value(); });
  for (; run != map.end() && run->start.value() * kBlockBytes < end; ++run) {
    const std::uint64_t first = run->start.value() * kBlockBytes;
    const std::uint64_t from = std::max(offset, first);
    const std::uint64_t to = std::min(end, run->end().value() * kBlockBytes);
    VSNAP_TRY(members_.read(run->place, from - first, out.subspan(from - offset, to - from)));
  }
  return {};
}

Result<FetchedView::Map> FetchedView::map_of(std::uint64_t session, RegionIndex region) {
  if (Map kept = maps_.find(session, number_, region)) return kept;
  VSNAP_TRY(members_.look_in(session, source_));
  VSNAP_TRY_ASSIGN(std::optional<RegionMap> fetched, source_.fetch_map(id(), region));
  if (!fetched) return Map();
  const Map map = std::make_shared<const RegionMap>(std::move(*fetched));
  maps_.keep(session, number_, region, map);
  return map;
}

} // namespace vsnap
