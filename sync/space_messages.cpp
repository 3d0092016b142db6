#include "sync/space_messages.h"

#include <algorithm>

namespace vsnap::space_messages {
namespace {

constexpr std::uint64_t kMaxBlocks = kMaxVolumeBytes / kBlockBytes + 1; // of a volume

// All of it on one member, and nothing in it but a member and a block.
bool is_sound(std::uint64_t packed, std::uint64_t blocks) {
  const Place start = Place::unpack(packed);
  return Place(start.member(), start.block()) == start && start.in_pool() && blocks != 0 &&
         start.block() + blocks <= 1ULL << Place::kBlockBits;
}

} // namespace

wire::GrantedSpace to_wire(std::span<const PlaceRun> granted) {
  wire::GrantedSpace message;
  for (const PlaceRun& run : granted.first(std::min(granted.size(), kMaxRuns))) {
    message.add_places(run.start.packed());
    message.add_counts(static_cast<std::uint32_t>(run.count.value()));
  }
  return message;
}

Result<std::vector<PlaceRun>> from_wire(const wire::GrantedSpace& granted) {
  const auto broken = [] {
    return failure(ErrorKind::failed, EPROTO, "space was granted in a way that says nothing");
  };
  std::vector<PlaceRun> runs;
  std::uint64_t blocks = 0;
  if (granted.places_size() != granted.counts_size() || granted.places_size() > static_cast<int>(kMaxRuns))
    return broken();
  for (int i = 0; i < granted.places_size(); ++i) {
    blocks += granted.counts(i);
    if (!is_sound(granted.places(i), granted.counts(i)) || blocks > kMaxGranted) return broken();
    runs.push_back({Place::unpack(granted.places(i)), BlockCount(granted.counts(i))});
  }
  return runs;
}

wire::CommitBlocksRequest to_wire(std::uint64_t delegation, std::span<const MapRun> runs) {
  wire::CommitBlocksRequest message;
  message.set_number(delegation);
  for (const MapRun& run : runs) {
    message.add_starts(run.start.value());
    message.add_counts(static_cast<std::uint32_t>(run.count.value()));
    message.add_places(run.place.packed());
  }
  return message;
}

Result<std::vector<MapRun>> from_wire(const wire::CommitBlocksRequest& request) {
  const auto broken = [](const char* why) { return failure(ErrorKind::usage, EINVAL, why); };
  if (request.starts_size() == 0 || request.starts_size() != request.counts_size() ||
      request.starts_size() != request.places_size())
    return broken("changes that say nothing");
  if (request.starts_size() > static_cast<int>(kMaxRuns)) return broken("too many changes at once");
  std::vector<MapRun> runs;
  std::uint64_t end = 0;
  std::uint64_t blocks = 0;
  for (int i = 0; i < request.starts_size(); ++i) {
    const std::uint64_t start = request.starts(i);
    blocks += request.counts(i);
    if (start < end || start >= kMaxBlocks || !is_sound(request.places(i), request.counts(i)) ||
        blocks > kMaxCommitted)
      return broken("changes out of order, or of no block of a volume");
    end = start + request.counts(i);
    runs.push_back({BlockIndex(start), BlockCount(request.counts(i)), BlockKind::data,
                    Place::unpack(request.places(i)), true});
  }
  return runs;
}

} // namespace vsnap::space_messages
