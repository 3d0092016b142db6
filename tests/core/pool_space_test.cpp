// A pool that is full, also of metadata: what still works, and that nothing is lost.
#include "tests/core/small_pool.h"

using namespace vsnap;

namespace {

// Writes block after block in a scattered order until there is no space; returns how many it wrote.
std::uint64_t fill(View& view, std::uint64_t blocks, std::uint8_t stamp) {
  std::uint64_t written = 0;
  for (std::uint64_t i = 0; i < blocks; ++i) {
    const std::uint64_t block = i * 2654435761U % blocks;
    const auto done = view.write(block * kBlockBytes, block_of(stamp));
    if (!done) {
      REQUIRE(done.error().kind == ErrorKind::no_space);
      REQUIRE(done.error().errno_value == ENOSPC);
      return written;
    }
    ++written;
  }
  return written;
}

} // namespace

TEST_CASE("a pool can be filled to its last block, and every block that was accepted is there") {
  SmallPool lab;
  lab.create("v", 64 * kMiB);
  ViewHandle v = lab.view("v");
  const std::uint64_t blocks = 64 * kMiB / kBlockBytes;
  const std::uint64_t written = fill(*v, blocks, 7);
  REQUIRE(written < blocks);
  REQUIRE(lab.pool->space().free_bytes == 0);
  v = ViewHandle();
  lab.reopen();
  v = lab.view("v");
  for (std::uint64_t i = 0; i < written; ++i) {
    REQUIRE(read_from(*v, i * 2654435761U % blocks * kBlockBytes) == block_of(7));
  }
  REQUIRE(lab.findings().empty());
}

TEST_CASE("in a pool that is full of data and metadata a snapshot can be removed and writing goes on") {
  SmallPool lab;
  lab.create("v", 24 * kMiB);
  ViewHandle v = lab.view("v");
  const std::uint64_t blocks = 24 * kMiB / kBlockBytes;
  // Every round a snapshot and scattered overwrites, until neither finds room.
  int snapshots = 0;
  for (; snapshots < 500; ++snapshots) {
    if (!lab.snapshot("v@s" + std::to_string(snapshots))) break;
    if (fill(*v, 64 + static_cast<std::uint64_t>(snapshots), static_cast<std::uint8_t>(snapshots)) == 0)
      break;
  }
  while (fill(*v, blocks, 9) == blocks && lab.snapshot("v@more" + std::to_string(snapshots++))) {
  }
  // Holes over frozen blocks take rows and no data: metadata fills up as well, and is refused in time.
  for (int round = 0; round < 300; ++round) {
    if (!lab.snapshot("v@hole" + std::to_string(round))) break;
    for (std::uint64_t block = 0; block < blocks; block += 2) {
      const auto done = v->discard(block * kBlockBytes, kBlockBytes);
      if (!done) REQUIRE(done.error().kind == ErrorKind::no_space);
    }
  }
  REQUIRE(v->fsync().has_value());
  REQUIRE(lab.findings().empty());
  const auto listed = lab.pool->list();
  REQUIRE(listed.size() > 2);
  for (const ViewInfo& info : listed) {
    if (info.kind == ViewKind::snapshot) REQUIRE(lab.remove(info.name.text()).has_value());
  }
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  REQUIRE(lab.pool->space().available_bytes > kMiB);
  REQUIRE(v->write(0, block_of(42)).has_value());
  REQUIRE(read_from(*v, 0) == block_of(42));
  REQUIRE(lab.findings().empty());
}

TEST_CASE("a full pool takes another member, and the write that failed succeeds") {
  SmallPool lab;
  lab.create("v", 64 * kMiB);
  ViewHandle v = lab.view("v");
  fill(*v, 64 * kMiB / kBlockBytes, 1);
  REQUIRE_FALSE(v->write(60 * kMiB + kBlockBytes * 3, block_of(5, 8 * kMiB)).has_value());
  REQUIRE(lab.pool->add_member({"/b", 32 * kMiB}, false).has_value());
  lab.paths.emplace_back("/b");
  REQUIRE(v->write(60 * kMiB + kBlockBytes * 3, block_of(5, 8 * kMiB)).has_value());
  v = ViewHandle();
  lab.reopen();
  REQUIRE(read_from(*lab.view("v"), 60 * kMiB + kBlockBytes * 3, 4 * kMiB) == block_of(5, 4 * kMiB));
  REQUIRE(lab.findings().empty());
}

TEST_CASE("space that was discarded can be written again at once in a full pool") {
  SmallPool lab;
  lab.create("v", 64 * kMiB);
  ViewHandle v = lab.view("v");
  fill(*v, 64 * kMiB / kBlockBytes, 1);
  REQUIRE(v->discard(0, 16 * kMiB).has_value());
  REQUIRE(v->write(40 * kMiB, block_of(3, kMiB)).has_value());
  REQUIRE(read_from(*v, 40 * kMiB, kMiB) == block_of(3, kMiB));
}

TEST_CASE("reserved space is there for the writes it was reserved for") {
  SmallPool lab;
  lab.create("a", 4 * kMiB);
  lab.create("b", 64 * kMiB);
  ViewHandle a = lab.view("a");
  ViewHandle b = lab.view("b");
  REQUIRE(a->reserve(0, 4 * kMiB, false).has_value());
  REQUIRE(read_from(*a, 0, 4 * kMiB) == block_of(0, 4 * kMiB));
  fill(*b, 64 * kMiB / kBlockBytes, 1);
  REQUIRE(a->write(0, block_of(8, 4 * kMiB)).has_value());
  REQUIRE(read_from(*a, 0, 4 * kMiB) == block_of(8, 4 * kMiB));
  REQUIRE(lab.findings().empty());
}

TEST_CASE("reserving more than there is fails and takes nothing") {
  SmallPool lab;
  lab.create("a", 64 * kMiB);
  const std::uint64_t before = lab.pool->space().free_bytes;
  const auto done = lab.view("a")->reserve(0, 64 * kMiB, false);
  REQUIRE_FALSE(done.has_value());
  REQUIRE(done.error().kind == ErrorKind::no_space);
  REQUIRE(lab.pool->space().free_bytes == before);
}

TEST_CASE("reserving behind the end without growing takes nothing, also inside a mapped last block") {
  SmallPool lab;
  lab.create("v", kBlockBytes + 100);
  ViewHandle v = lab.view("v");
  REQUIRE(v->write(kBlockBytes, std::vector<std::byte>(100, std::byte{5})).has_value());
  const std::uint64_t free = lab.pool->space().free_bytes;
  REQUIRE(v->reserve(kBlockBytes + 200, 4096, false).has_value());
  REQUIRE(v->size_bytes() == kBlockBytes + 100);
  REQUIRE(lab.pool->space().free_bytes == free);
}

TEST_CASE("a shrink that finds no space for its rest never wipes what is written later") {
  SmallPool lab;
  lab.create("v", 2 * kMiB);
  lab.create("other", 64 * kMiB);
  {
    ViewHandle v = lab.view("v");
    ViewHandle other = lab.view("other");
    REQUIRE(v->write(0, block_of(1, 2 * kMiB)).has_value());
    REQUIRE(lab.snapshot("v@s").has_value());
    fill(*other, 64 * kMiB / kBlockBytes, 2);
  }
  // The block of the new end would have to be copied, and there is no room for it.
  REQUIRE(lab.pool->resize("v", kMiB + 100, true).has_value());
  REQUIRE(lab.view("v")->size_bytes() == kMiB + 100);
  lab.reopen(); // where it is tried again, and must not stand in the way
  REQUIRE(lab.remove("other").has_value());
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  {
    ViewHandle v = lab.view("v");
    REQUIRE(v->write(3 * kMiB / 2, block_of(3)).has_value());
    REQUIRE(v->fsync().has_value());
    CHECK(read_from(*v, kMiB + 100, kMiB / 2 - 100) == block_of(0, kMiB / 2 - 100));
  }
  lab.reopen();
  ViewHandle v = lab.view("v");
  CHECK(read_from(*v, 3 * kMiB / 2, kBlockBytes) == block_of(3));
  CHECK(read_from(*v, 0, kMiB + 100) == block_of(1, kMiB + 100));
  CHECK(read_from(*lab.view("v@s"), kMiB, kMiB) == block_of(1, kMiB));
  CHECK(lab.findings().empty());
}

namespace {

constexpr std::uint64_t kRegionBytes = 32 * kMiB;

void reopen_with_cache(SmallPool& lab, std::uint64_t bytes) {
  REQUIRE(lab.pool->close().has_value());
  lab.pool.reset();
  lab.open({.cache_bytes = bytes});
}

} // namespace

TEST_CASE("more regions than the cache may hold are read, written and shrunk within its limit") {
  SmallPool lab(64 * kMiB);
  reopen_with_cache(lab, kMiB / 2); // some 100 regions that map little
  lab.create("v", 400 * kRegionBytes);
  {
    ViewHandle v = lab.view("v");
    for (std::uint64_t i = 0; i < 400; ++i) REQUIRE(v->write(i * kRegionBytes, block_of(7)).has_value());
    for (std::uint64_t i = 0; i < 800; ++i)
      REQUIRE(read_from(*v, i * 7 % 400 * kRegionBytes, kBlockBytes) == block_of(7));
    CHECK(lab.pool->status().cache_bytes <= kMiB / 2 + kMiB + kMiB / 4); // with what waits to be freed
  }
  REQUIRE(lab.pool->resize("v", kMiB, true).has_value());
  lab.reopen();
  CHECK(lab.findings().empty());
}

TEST_CASE("a region that maps runs takes less than a tenth of a word a block") {
  SmallPool lab(64 * kMiB);
  lab.create("v", kRegionBytes);
  ViewHandle v = lab.view("v");
  for (std::uint64_t at = 0; at < kRegionBytes; at += kMiB)
    REQUIRE(v->write(at, block_of(7, kMiB)).has_value());
  CHECK(lab.pool->status().cache_bytes < 8192 * 8 / 10);
}

TEST_CASE("regions that grow by writes to pieces of them are taken out of the cache for it") {
  SmallPool lab(64 * kMiB);
  lab.create("v", 60 * kRegionBytes);
  reopen_with_cache(lab, kMiB / 2);
  ViewHandle v = lab.view("v");
  // All of them fit, until each has a hundred leaves.
  for (std::uint64_t i = 0; i < 60; ++i) REQUIRE(read_from(*v, i * kRegionBytes, 1).size() == 1);
  for (std::uint64_t piece = 0; piece < 100; ++piece) {
    for (std::uint64_t i = 0; i < 60; ++i)
      REQUIRE(v->write(i * kRegionBytes + piece * 16 * kBlockBytes, block_of(7)).has_value());
  }
  REQUIRE(lab.pool->sync().has_value());
  REQUIRE(v->write(0, block_of(8)).has_value());
  CHECK(lab.pool->status().cache_bytes <= kMiB / 2 + kMiB + kMiB / 4);
}
