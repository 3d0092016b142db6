// What the reference itself promises: short, because everything else is compared with it.
#include "tests/support/model_pool.h"
#include "tests/support/catch.h"

using namespace vsnap;

namespace {

std::vector<std::byte> filled(std::size_t length, unsigned value) {
  return std::vector<std::byte>(length, static_cast<std::byte>(value));
}

std::vector<std::byte> content(ModelPool& pool, const ViewName& name) {
  const ViewInfo info = pool.find(name).value();
  const ViewHandle view = pool.open_view(info.id).value();
  std::vector<std::byte> out(info.size_bytes);
  REQUIRE(view->read(0, out).value() == out.size());
  return out;
}

void write(ModelPool& pool, const std::string& volume, std::uint64_t offset,
           const std::vector<std::byte>& data) {
  const ViewHandle view = pool.open_view(pool.find({volume, {}}).value().id).value();
  REQUIRE(view->write(offset, data));
}

const ViewName kVolume{"vm1", {}};
const ViewName kSnapshot{"vm1", "a"};

} // namespace

TEST_CASE("a snapshot keeps what the volume had") {
  const auto pool = ModelPool::make("lab");
  REQUIRE(pool->create_volume("vm1", 3 * kBlockBytes)->id == ObjectId(2));
  write(*pool, "vm1", 0, filled(kBlockBytes, 1));
  REQUIRE(pool->snapshot(std::vector{kSnapshot}));
  write(*pool, "vm1", 0, filled(kBlockBytes, 2));
  CHECK(content(*pool, kSnapshot)[0] == std::byte{1});
  CHECK(content(*pool, kVolume)[0] == std::byte{2});
  CHECK(pool->find(kSnapshot)->used_bytes == kBlockBytes);
  CHECK(pool->snapshot(std::vector{kSnapshot}).error().errno_value == EEXIST);
}

TEST_CASE("snapshots of several volumes are made all or none") {
  const auto pool = ModelPool::make("lab");
  REQUIRE(pool->create_volume("vm1", 0));
  CHECK(pool->snapshot(std::vector<ViewName>{kSnapshot, {"vm2", "a"}}).error().kind == ErrorKind::not_found);
  CHECK(pool->list().size() == 1);
}

TEST_CASE("shrinking and growing again reads zeros") {
  const auto pool = ModelPool::make("lab");
  REQUIRE(pool->create_volume("vm1", 0));
  write(*pool, "vm1", 0, filled(2 * kBlockBytes, 7));
  CHECK(pool->resize("vm1", 100, false).error().kind == ErrorKind::usage);
  REQUIRE(pool->resize("vm1", 100, true));
  REQUIRE(pool->resize("vm1", 2 * kBlockBytes, false));
  CHECK(content(*pool, kVolume)[99] == std::byte{7});
  CHECK(content(*pool, kVolume)[100] == std::byte{0});
  CHECK(content(*pool, kVolume)[kBlockBytes] == std::byte{0});
}

TEST_CASE("reserved blocks are used space and holes, discarded ones are neither") {
  const auto pool = ModelPool::make("lab");
  REQUIRE(pool->create_volume("vm1", 4 * kBlockBytes));
  const ViewHandle view = pool->open_view(ObjectId(2)).value();
  REQUIRE(view->reserve(0, 2 * kBlockBytes, false));
  REQUIRE(view->write(2 * kBlockBytes, filled(kBlockBytes, 1)));
  CHECK(pool->find(kVolume)->used_bytes == 3 * kBlockBytes);
  CHECK(view->seek_data(0).value() == 2 * kBlockBytes);
  CHECK(view->seek_hole(2 * kBlockBytes).value() == 3 * kBlockBytes);
  REQUIRE(view->discard(100, 2 * kBlockBytes));
  CHECK(pool->find(kVolume)->used_bytes == 2 * kBlockBytes); // the first stays reserved, the third in part
  CHECK(view->seek_data(0).value() == 2 * kBlockBytes);
}

TEST_CASE("a rollback keeps the state before, and needs the volume closed") {
  const auto pool = ModelPool::make("lab");
  REQUIRE(pool->create_volume("vm1", 0));
  write(*pool, "vm1", 0, filled(10, 1));
  REQUIRE(pool->snapshot(std::vector{kSnapshot}));
  write(*pool, "vm1", 0, filled(20, 2));
  {
    const ViewHandle open = pool->open_view(ObjectId(2)).value();
    CHECK(pool->rollback(kSnapshot, false, false).error().kind == ErrorKind::busy);
  }
  CHECK(pool->rollback(kSnapshot, false, true)->kept->text() == "vm1@before-rollback-1");
  CHECK(pool->rollback(kSnapshot, false, false)->kept->text() == "vm1@before-rollback-1");
  CHECK(content(*pool, kVolume) == filled(10, 1));
  CHECK(content(*pool, {"vm1", "before-rollback-1"}) == filled(20, 2));
}

TEST_CASE("removal counts what only the removed had, and open handles outlive the name") {
  const auto pool = ModelPool::make("lab");
  REQUIRE(pool->create_volume("vm1", 0));
  write(*pool, "vm1", 0, filled(2 * kBlockBytes, 1));
  REQUIRE(pool->snapshot(std::vector{kSnapshot}));
  write(*pool, "vm1", 0, filled(kBlockBytes, 2));
  CHECK(pool->remove(std::vector{kVolume}, {}).error().kind == ErrorKind::busy);
  CHECK(pool->remove(std::vector{kSnapshot}, {.dry_run = true})->frees_bytes == kBlockBytes);
  const ViewHandle open = pool->open_view(ObjectId(2)).value();
  CHECK(pool->remove(std::vector{kVolume}, {.recursive = true}).error().kind == ErrorKind::busy);
  CHECK(pool->remove(std::vector{kVolume}, {.recursive = true, .even_if_open = true})->removed.size() == 2);
  CHECK(pool->list().empty());
  CHECK(pool->info(ObjectId(2))->name.volume.empty());
  auto out = filled(1, 0);
  CHECK(open->read(0, out).value() == 1);
  CHECK(out == filled(1, 2));
}

TEST_CASE("a diff tells what was written between two views") {
  const auto pool = ModelPool::make("lab");
  REQUIRE(pool->create_volume("vm1", 8 * kBlockBytes));
  write(*pool, "vm1", 0, filled(4 * kBlockBytes, 1));
  REQUIRE(pool->snapshot(std::vector{kSnapshot}));
  write(*pool, "vm1", kBlockBytes, filled(kBlockBytes + 1, 2));
  REQUIRE(pool->open_view(ObjectId(2)).value()->discard(3 * kBlockBytes, kBlockBytes));
  std::vector<DiffRange> ranges;
  REQUIRE(pool->diff(kSnapshot, kVolume, [&](const DiffRange& r) {
    ranges.push_back(r);
    return true;
  }));
  REQUIRE(ranges.size() == 2);
  CHECK(ranges[0].offset == kBlockBytes);
  CHECK(ranges[0].length == 2 * kBlockBytes);
  CHECK(ranges[1].state == DiffState::hole);
  REQUIRE(pool->create_volume("vm2", 0));
  CHECK(!pool->diff(kSnapshot, {"vm2", {}}, [](const DiffRange&) { return true; }));
}
