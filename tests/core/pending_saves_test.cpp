// What was saved of adopted volumes and the catalog does not have yet.
#include "core/pending_saves.h"

#include "tests/support/catch.h"

using namespace vsnap;

namespace {

MapChange save_of(std::uint64_t branch, std::uint64_t start, std::uint64_t count, std::uint64_t born) {
  MapChange save;
  save.branch = BranchId(branch);
  save.start = BlockIndex(start);
  save.count = BlockCount(count);
  save.born = Version(born);
  save.saves = true;
  return save;
}

} // namespace

TEST_CASE("the last record that saves a block is found until the catalog has it") {
  PendingSaves saves;
  const auto last = [&](std::uint64_t branch, std::uint64_t start, std::uint64_t count) {
    return saves.last(BranchId(branch), BlockIndex(start), BlockCount(count));
  };
  CHECK(last(1, 0, 100) == 0);
  std::uint64_t sequence = 10;
  for (const MapChange& save : {save_of(1, 16, 16, 1), save_of(1, 48, 4, 1), save_of(1, 16, 8, 2),
                                save_of(2, 0, 64, 1), save_of(1, kRegionBlocks + 16, 16, 1)}) {
    saves.add(save);
    saves.set_sequence(save, sequence++);
  }
  saves.add(save_of(1, 60, 4, 1)); // came to nothing: it never got a record
  CHECK(last(1, 0, 16) == 0);
  CHECK(last(1, 15, 2) == 12);
  CHECK(last(1, 24, 8) == 10);
  CHECK(last(1, 31, 17) == 10);
  CHECK(last(1, 31, 18) == 11);
  CHECK(last(1, 32, 16) == 0);
  CHECK(last(1, 0, 64) == 12);
  CHECK(last(1, 60, 4) == 0);
  CHECK(last(2, 20, 1) == 13);
  CHECK(last(1, kRegionBlocks + 31, 1) == 14);
  saves.forget_until(12);
  CHECK(last(1, 0, 64) == 0);
  CHECK(last(2, 20, 1) == 13);
}
