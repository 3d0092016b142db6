// Messages about granted space, as they are, and as nobody should send them.
#include "sync/space_messages.h"

#include "tests/core/refusal.h"
#include "tests/support/catch.h"

using namespace vsnap;
using namespace vsnap::space_messages;

namespace {

wire::CommitBlocksRequest changes(std::uint64_t start, std::uint32_t count, std::uint64_t place) {
  wire::CommitBlocksRequest request;
  request.add_starts(start);
  request.add_counts(count);
  request.add_places(place);
  return request;
}

} // namespace

TEST_CASE("changes of a map are on the wire what they were") {
  const std::vector<MapRun> runs = {{BlockIndex(3), BlockCount(2), BlockKind::data, Place(1, 70), true},
                                    {BlockIndex(9000), BlockCount(1), BlockKind::data, Place(0, 5), true}};
  const auto message = to_wire(7, runs);
  CHECK(message.number() == 7);
  CHECK(from_wire(message).value() == runs);
  const std::vector<PlaceRun> granted = {{Place(1, 70), BlockCount(1000)}, {Place(0, 5), BlockCount(24)}};
  CHECK(from_wire(to_wire(granted)).value() == granted);
  CHECK(from_wire(wire::GrantedSpace()).value().empty());
}

TEST_CASE("changes that say nothing are refused, whatever they are") {
  const std::uint64_t place = Place(0, 70).packed();
  CHECK(from_wire(changes(0, 1, place)).has_value());
  CHECK(refusal(from_wire(wire::CommitBlocksRequest())).errno_value == EINVAL);
  CHECK(refusal(from_wire(changes(0, 0, place))).errno_value == EINVAL);
  CHECK(refusal(from_wire(changes(~0ULL, 2, place))).errno_value == EINVAL);
  CHECK(refusal(from_wire(changes(0, 1, Place(Place::kFirstBase, 0).packed()))).errno_value == EINVAL);
  CHECK(refusal(from_wire(changes(0, 1, Place::zeros(BlockIndex(1)).packed()))).errno_value == EINVAL);
  CHECK(refusal(from_wire(changes(0, 1, place | 1ULL << 63))).errno_value == EINVAL);
  CHECK(refusal(from_wire(changes(0, 2, (1ULL << Place::kBlockBits) - 1))).errno_value == EINVAL);
  CHECK(refusal(from_wire(changes(0, kMaxCommitted + 1, place))).errno_value == EINVAL);
  auto twice = changes(5, 2, place);
  twice.add_starts(6);
  twice.add_counts(1);
  twice.add_places(place + 100);
  CHECK(refusal(from_wire(twice)).errno_value == EINVAL);
  twice.add_places(place);
  CHECK(refusal(from_wire(twice)).errno_value == EINVAL);
  wire::CommitBlocksRequest many;
  for (std::uint64_t i = 0; i <= kMaxRuns; ++i) {
    many.add_starts(2 * i);
    many.add_counts(1);
    many.add_places(place + 2 * i);
  }
  CHECK(refusal(from_wire(many)).errno_value == EINVAL);
}

TEST_CASE("grants that say nothing are refused") {
  wire::GrantedSpace granted;
  granted.add_places(Place(0, 5).packed());
  CHECK(refusal(from_wire(granted)).errno_value == EPROTO);
  granted.add_counts(0);
  CHECK(refusal(from_wire(granted)).errno_value == EPROTO);
  granted.set_counts(0, kMaxGranted + 1);
  CHECK(refusal(from_wire(granted)).errno_value == EPROTO);
  granted.set_counts(0, 1);
  CHECK(from_wire(granted).has_value());
}
