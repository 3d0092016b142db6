// Adopted volumes: the image is what the head holds, at every moment, and snapshots never change.
#include <algorithm>
#include <random>
#include <thread>

#include "core/log.h"
#include "core/pool_impl.h"
#include "tests/core/small_pool.h"

using namespace vsnap;

namespace {

constexpr std::uint64_t kImageBytes = 3 * kMiB + 1000; // the last block is a part of one

class AdoptedPool : public SmallPool {
 public:
  explicit AdoptedPool(std::uint64_t size = 64 * kMiB, std::uint64_t image = kImageBytes) : SmallPool(size) {
    make_image("/img", image);
    REQUIRE(adopt("/img", "v").has_value());
    content = env_bytes("/img");
  }
  void make_image(const std::string& path, std::uint64_t size) {
    auto file = env.open_file(path, {.create = true});
    REQUIRE(file.has_value());
    REQUIRE((*file)->resize(size).has_value());
    SparseBytes& bytes = env.bytes_of(path);
    for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i / 4096 * 7 + i % 13);
  }
  Result<ViewInfo> adopt(const std::string& path, const std::string& name,
                         AdoptOptions::Changed changed = AdoptOptions::Changed::refuse) {
    return pool->adopt({.path = path, .volume = name, .changed = changed});
  }
  std::vector<std::byte> env_bytes(const std::string& path) {
    SparseBytes& bytes = env.bytes_of(path);
    return {bytes.begin(), bytes.end()};
  }
  std::vector<std::byte> all_of(const std::string& name) {
    const ViewHandle handle = view(name);
    return read_from(*handle, 0, handle->size_bytes());
  }
  // To the volume, and to what it should hold.
  void write(View& head, std::uint64_t at, std::uint8_t stamp, std::size_t size = kBlockBytes) {
    REQUIRE(head.write(at, block_of(stamp, size)).has_value());
    std::fill_n(content.begin() + static_cast<std::ptrdiff_t>(at), size, std::byte{stamp});
  }
  std::vector<std::byte> content;
};

} // namespace

TEST_CASE("an adopted image is the volume, and stays a raw image") {
  AdoptedPool pool;
  const auto info = pool.pool->find(*parse_view_name("v"));
  REQUIRE(info.has_value());
  CHECK(info->form == ViewForm::adopted);
  CHECK(info->base == "/img");
  CHECK(info->size_bytes == kImageBytes);
  CHECK((pool.all_of("v") == pool.content));
  pool.write(*pool.view("v"), 8192, 9, 100);
  pool.write(*pool.view("v"), kImageBytes - 10, 8, 10);
  CHECK((pool.env_bytes("/img") == pool.content));
  pool.reopen();
  CHECK((pool.all_of("v") == pool.content));
  CHECK(pool.findings().empty());
}

TEST_CASE("a snapshot of an adopted volume keeps what the image held") {
  AdoptedPool pool;
  const auto before = pool.content;
  REQUIRE(pool.snapshot("v@s").has_value());
  pool.write(*pool.view("v"), 8192 + 512, 9, 100);
  pool.write(*pool.view("v"), kImageBytes - 10, 8, 10);
  CHECK((pool.all_of("v@s") == before));
  CHECK((pool.all_of("v") == pool.content));
  CHECK((pool.env_bytes("/img") == pool.content));
  REQUIRE(pool.snapshot("v@t").has_value());
  const auto between = pool.content;
  pool.write(*pool.view("v"), 8192, 77, 70'000);
  CHECK(pool.findings().empty());
  pool.reopen();
  CHECK(pool.findings().empty());
  CHECK((pool.all_of("v@s") == before));
  CHECK((pool.all_of("v@t") == between));
  CHECK((pool.env_bytes("/img") == pool.content));
}

TEST_CASE("an open snapshot goes on showing what it showed while the image is overwritten") {
  AdoptedPool pool;
  const auto before = pool.content;
  REQUIRE(pool.snapshot("v@s").has_value());
  REQUIRE(pool.pool->clone({"v", "s"}, "c").has_value());
  const ViewHandle s = pool.view("v@s");
  const ViewHandle c = pool.view("c");
  const ViewHandle head = pool.view("v");
  CHECK((read_from(*s, 0, kImageBytes) == before)); // its map is loaded, and so is the clone's
  REQUIRE(c->write(5 * kBlockBytes + 100, block_of(1, 50)).has_value());
  auto expected = before;
  std::fill_n(expected.begin() + 5 * kBlockBytes + 100, 50, std::byte{1});
  pool.write(*head, 0, 9, 2 * kMiB);
  CHECK((read_from(*s, 0, kImageBytes) == before));
  CHECK((read_from(*c, 0, kImageBytes) == expected));
  CHECK((pool.env_bytes("/img") == pool.content));
  CHECK(pool.findings().empty());
}

TEST_CASE("a snapshot that is first read after the image was overwritten shows what it held") {
  AdoptedPool pool;
  const auto before = pool.content;
  REQUIRE(pool.snapshot("v@s").has_value());
  REQUIRE(pool.pool->sync().has_value());
  const ViewHandle s = pool.view("v@s");
  pool.write(*pool.view("v"), 0, 9, 64 * 1024); // in the log, not in the catalog
  CHECK((read_from(*s, 0, kImageBytes) == before));
}

TEST_CASE("a write that saves waits for a flush, and for others of its volume where there are some") {
  AdoptedPool pool;
  const ViewHandle head = pool.view("v");
  pool.write(*head, 0, 1);
  CHECK(head->write_wait() == WriteWait::none);
  REQUIRE(pool.snapshot("v@s").has_value());
  CHECK(head->write_wait() == WriteWait::none); // nobody knows yet
  pool.write(*head, 0, 2);
  CHECK(head->write_wait() == WriteWait::flush);
  pool.env.slow_reads_of("/img");
  bool beside = false;
  for (int round = 0; !beside; ++round) {
    REQUIRE(pool.snapshot("v@s" + std::to_string(round)).has_value());
    std::atomic<bool> done{false};
    std::thread writer([&, view = pool.view("v")] {
      for (std::uint64_t at = 0; at + kBlockBytes < kImageBytes; at += 16 * kBlockBytes)
        static_cast<void>(view->write(at, block_of(3)));
      done = true;
    });
    while (!done && !beside) beside = head->write_wait() == WriteWait::others;
    writer.join();
  }
  pool.env.slow_reads_of("");
  CHECK(head->write_wait() == WriteWait::flush);
  for (int i = 0; i < 64; ++i) REQUIRE(head->write(0, block_of(4)).has_value()); // of its own by now
  CHECK(head->write_wait() == WriteWait::none);
}

TEST_CASE("discarding in an adopted volume zeros the image, and keeps what snapshots see") {
  AdoptedPool pool;
  const auto before = pool.content;
  REQUIRE(pool.snapshot("v@s").has_value());
  REQUIRE(pool.view("v")->discard(kBlockBytes + 10, kImageBytes).has_value());
  std::fill(pool.content.begin() + kBlockBytes + 10, pool.content.end(), std::byte{0});
  CHECK((pool.env_bytes("/img") == pool.content));
  CHECK((pool.all_of("v") == pool.content));
  CHECK((pool.all_of("v@s") == before));
}

TEST_CASE("a write past the end of an adopted image is refused, and changes nothing") {
  AdoptedPool pool;
  const auto refused = pool.view("v")->write(kImageBytes - 5, block_of(1, 6));
  REQUIRE(!refused.has_value());
  CHECK(refused.error().errno_value == EFBIG);
  CHECK((pool.env_bytes("/img") == pool.content));
}

TEST_CASE("the new size of an adopted image that was written to just before is there after a restart") {
  AdoptedPool pool;
  pool.write(*pool.view("v"), 0, 9); // its time of change is still to be stored
  REQUIRE(pool.pool->resize("v", 5 * kMiB, false).has_value());
  pool.reopen();
  CHECK(pool.pool->find(*parse_view_name("v"))->size_bytes == 5 * kMiB);
}

TEST_CASE("a clock that is set back does not make writes of ours into those of others") {
  AdoptedPool pool;
  pool.write(*pool.view("v"), 0, 9);
  pool.env.jump_wall_clock(-3'600'000'000'000);
  REQUIRE(pool.pool->resize("v", 5 * kMiB, false).has_value()); // notes the time, and writes nothing
  pool.env.kill();
  pool.pool.reset();
  pool.open();
  CHECK(pool.pool->find(*parse_view_name("v"))->state.empty());
}

TEST_CASE("an adopted image grows, and older snapshots and their clones see nothing of it") {
  AdoptedPool pool;
  const auto before = pool.content;
  REQUIRE(pool.snapshot("v@s").has_value());
  REQUIRE(pool.pool->resize("v", 5 * kMiB, false).has_value());
  CHECK(!pool.pool->resize("v", kMiB, true).has_value());
  pool.content.resize(5 * kMiB);
  CHECK((pool.env_bytes("/img") == pool.content));
  pool.write(*pool.view("v"), kImageBytes - 100, 7, kMiB);
  CHECK((pool.env_bytes("/img") == pool.content));
  CHECK((pool.all_of("v@s") == before));
  REQUIRE(pool.pool->clone({"v", "s"}, "c").has_value());
  REQUIRE(pool.pool->resize("c", 5 * kMiB, false).has_value());
  auto expected = before;
  expected.resize(5 * kMiB);
  CHECK((pool.all_of("c") == expected));
  CHECK(!pool.pool->rollback({"v", "s"}, false, false).has_value());
  pool.reopen();
  CHECK((pool.all_of("v") == pool.content));
  CHECK(pool.findings().empty());
}

TEST_CASE("snapshots of an adopted volume are removed in any order, and their space comes back") {
  AdoptedPool pool;
  const std::uint64_t empty = pool.pool->space().data_bytes;
  std::map<std::string, std::vector<std::byte>> held;
  for (const std::string name : {"a", "b", "c", "d"}) {
    REQUIRE(pool.snapshot("v@" + name).has_value());
    held[name] = pool.content;
    pool.write(*pool.view("v"), held.size() * 100'000, static_cast<std::uint8_t>(held.size()), 200'000);
  }
  for (const std::string name : {"b", "d", "a", "c"}) {
    REQUIRE(pool.remove("v@" + name).has_value());
    REQUIRE(pool.pool->wait_for_removals({}).has_value());
    held.erase(name);
    for (const auto& [left, content] : held) CHECK((pool.all_of("v@" + left) == content));
    CHECK(pool.findings().empty());
  }
  CHECK(pool.pool->space().data_bytes == empty);
  CHECK((pool.env_bytes("/img") == pool.content));
}

TEST_CASE("a rollback of an adopted volume copies back into the image, and uses no snapshot up") {
  AdoptedPool pool;
  const auto before = pool.content;
  REQUIRE(pool.snapshot("v@s").has_value());
  pool.write(*pool.view("v"), 5000, 3, 300'000);
  REQUIRE(pool.snapshot("v@later").has_value());
  const auto later = pool.content;
  pool.write(*pool.view("v"), 900'000, 4, 5000);
  const auto last = pool.content;
  const auto result = pool.pool->rollback({"v", "s"}, false, false);
  REQUIRE(result.has_value());
  CHECK((pool.env_bytes("/img") == before));
  CHECK((pool.all_of("v") == before));
  CHECK((pool.all_of("v@s") == before));
  CHECK((pool.all_of("v@later") == later));
  CHECK((pool.all_of(result->kept->text()) == last));
  REQUIRE(pool.pool->rollback({"v", "later"}, true, false).has_value());
  CHECK((pool.env_bytes("/img") == later));
  CHECK((pool.all_of("v@s") == before));
  CHECK(pool.findings().empty());
}

TEST_CASE("a rollback in place tells how far it is, and does not stop half-way") {
  AdoptedPool pool(256 * kMiB, 70 * kMiB);
  const auto first = pool.content;
  REQUIRE(pool.snapshot("v@s").has_value());
  for (std::uint64_t at = 0; at < 70 * kMiB; at += 5 * kMiB) pool.write(*pool.view("v"), at, 9);
  std::vector<std::uint64_t> told;
  const auto progress = [&](std::uint64_t done, std::uint64_t total) {
    CHECK(total == 70 * kMiB);
    told.push_back(done);
    return false; // as one that is given up
  };
  REQUIRE(pool.pool->rollback({"v", "s"}, true, false, progress).has_value());
  CHECK(told == std::vector<std::uint64_t>{32 * kMiB, 64 * kMiB, 70 * kMiB});
  CHECK((pool.env_bytes("/img") == first));
}

TEST_CASE("removing an adopted volume gives its image back as it is") {
  AdoptedPool pool;
  REQUIRE(pool.snapshot("v@s").has_value());
  pool.write(*pool.view("v"), 5000, 3, 300'000);
  const auto plan = pool.remove("v", {.recursive = true, .dry_run = true});
  REQUIRE(plan.has_value());
  CHECK(plan->given_back == std::vector<std::string>{"/img"});
  REQUIRE(pool.pool->clone({"v", "s"}, "c").has_value());
  CHECK(!pool.remove("v", {.recursive = true}).has_value()); // the clone reads it
  REQUIRE(pool.pool->flatten("c", {}).has_value());
  REQUIRE(pool.remove("v", {.recursive = true}).has_value());
  REQUIRE(pool.pool->wait_for_removals({}).has_value());
  CHECK((pool.env_bytes("/img") == pool.content));
  CHECK(pool.findings().empty());
  CHECK(pool.adopt("/img", "w").has_value());
  CHECK((pool.all_of("w") == pool.content));
}

TEST_CASE("an adopted volume goes together with clones and copies of it that are not complete") {
  AdoptedPool pool;
  REQUIRE(pool.snapshot("v@s").has_value());
  REQUIRE(pool.pool->clone({"v", "s"}, "c").has_value());
  REQUIRE(pool.snapshot("c@t").has_value());
  REQUIRE(pool.pool->clone({"c", "t"}, "d").has_value());
  REQUIRE(pool.pool->snapshot_full({"v", "f"}, {}).has_value());
  pool.write(*pool.view("v"), 5000, 3, 300'000);
  const std::vector<ViewName> all = {{"v", {}}, {"c", {}}, {"d", {}}};
  for (std::size_t left_out = 1; left_out < all.size(); ++left_out) { // a clone, and a clone of that
    std::vector<ViewName> some = all;
    some.erase(some.begin() + static_cast<std::ptrdiff_t>(left_out));
    const auto refused = pool.pool->remove(some, {.recursive = true});
    REQUIRE(!refused.has_value());
    CHECK(refused.error().kind == ErrorKind::busy);
  }
  REQUIRE(pool.pool->remove(all, {.recursive = true}).has_value());
  CHECK(pool.pool->list().empty());
  pool.make_image("/other", 2 * kImageBytes);
  REQUIRE(pool.adopt("/other", "w").has_value()); // before the branches are swept
  CHECK(pool.findings().empty());
  pool.reopen();
  REQUIRE(pool.pool->wait_for_removals({}).has_value());
  CHECK(pool.findings().empty());
  CHECK((pool.env_bytes("/img") == pool.content));
  CHECK((pool.all_of("w") == pool.env_bytes("/other")));
  REQUIRE(pool.remove("w", {}).has_value());
  REQUIRE(pool.pool->wait_for_removals({}).has_value());
  CHECK(pool.pool->status().space.data_bytes == 0);
}

TEST_CASE("a clone of an adopted volume is preserved, while the image below it is overwritten") {
  AdoptedPool pool;
  const auto first = pool.content;
  REQUIRE(pool.snapshot("v@s").has_value());
  REQUIRE(pool.pool->clone({"v", "s"}, "c").has_value());
  ViewHandle old_handle = pool.view("c");
  REQUIRE(pool.pool->preserve({"c", "old"}).has_value());
  ViewHandle second = pool.view("c");
  REQUIRE(second->id() != old_handle->id());
  auto expected_old = first;
  auto expected_new = first;
  const auto write = [](View& to, std::vector<std::byte>& expected, std::uint64_t block, std::uint8_t stamp) {
    REQUIRE(to.write(block * kBlockBytes, block_of(stamp)).has_value());
    const auto at = expected.begin() + static_cast<std::ptrdiff_t>(block * kBlockBytes);
    std::fill_n(at, kBlockBytes, std::byte{stamp});
  };
  for (std::uint64_t block = 0; block < 600; block += 7) {
    pool.write(*pool.view("v"), block * kBlockBytes, 1);
    if (block % 2 == 0) write(*second, expected_new, block, 2);
    if (block % 3 == 0) {
      write(*old_handle, expected_old, block, 3);
      if (block % 2 != 0) write(*old_handle, expected_new, block, 3); // shows through
    }
    if (block % 5 == 0) {
      CHECK((read_from(*second, 0, kImageBytes) == expected_new));
      CHECK((read_from(*old_handle, 0, kImageBytes) == expected_old));
    }
  }
  old_handle = {};
  second = {};
  pool.reopen();
  CHECK((pool.all_of("c@old") == expected_old));
  CHECK((pool.all_of("c") == expected_new));
  CHECK((pool.all_of("v@s") == first));
  CHECK((pool.env_bytes("/img") == pool.content));
  CHECK(pool.findings().empty());
}

TEST_CASE("a release with --keep-snapshots makes them independent of the image") {
  AdoptedPool pool;
  const auto first = pool.content;
  REQUIRE(pool.snapshot("v@s").has_value());
  pool.write(*pool.view("v"), 5000, 3, 300'000);
  const auto second = pool.content;
  REQUIRE(pool.snapshot("v@t").has_value());
  REQUIRE(pool.pool->clone({"v", "s"}, "c").has_value());
  pool.write(*pool.view("v"), 0, 4, 10'000);
  CHECK(!pool.pool->release("v", {}, {}).has_value());
  const auto given_up = [](std::uint64_t done, std::uint64_t) { return done < kMiB; };
  CHECK(!pool.pool->release("v", {.keep_snapshots = true}, given_up).has_value());
  CHECK((pool.all_of("v") == pool.content));
  REQUIRE(pool.pool->release("v", {.keep_snapshots = true}, {}).has_value());
  CHECK((pool.env_bytes("/img") == pool.content));
  REQUIRE(pool.env.remove_file("/img").has_value());
  for (int round = 0; round < 2; ++round) {
    CHECK((pool.all_of("v@s") == first));
    CHECK((pool.all_of("v@t") == second));
    CHECK((pool.all_of("c") == first));
    CHECK((pool.all_of("v") == second));
    CHECK(pool.pool->find({"v", {}})->form == ViewForm::thin);
    CHECK(pool.findings().empty());
    pool.reopen();
  }
}

namespace {

// An image whose first MiB is zeros, and with two blocks of data in the second.
class SparsePool : public AdoptedPool {
 public:
  SparsePool() : AdoptedPool(64 * kMiB, 2 * kMiB) {
    REQUIRE(pool->release("v", {}, {}).has_value());
    SparseBytes& bytes = env.bytes_of("/img");
    std::fill_n(bytes.begin(), 2 * kMiB, std::byte{0});
    bytes[kData] = bytes[kData + kBlockBytes] = std::byte{77};
    REQUIRE(adopt("/img", "v").has_value());
    content = env_bytes("/img");
    sparse = content;
  }
  void write_all(std::uint8_t stamp) {
    const ViewHandle head = view("v");
    for (std::uint64_t at = 0; at < 2 * kMiB; at += 256 << 10) write(*head, at, stamp, 256 << 10);
  }
  std::uint64_t used() {
    REQUIRE(pool->sync().has_value());
    return pool->space().data_bytes;
  }
  void check_sparse(const std::string& name) {
    INFO(name);
    CHECK((all_of(name) == sparse));
    CHECK(*view(name)->seek_data(0) == std::optional<std::uint64_t>(kData / kNeighbourhood * kNeighbourhood));
    CHECK_FALSE(view(name)->seek_data(kMiB + (128 << 10))->has_value());
  }
  static constexpr std::uint64_t kNeighbourhood = kNeighbourhoodBlocks * kBlockBytes;
  static constexpr std::uint64_t kData = kMiB + 5 * kBlockBytes;
  std::vector<std::byte> sparse;
};

} // namespace

TEST_CASE("what an image holds as zeros takes no space once it is saved") {
  SparsePool pool;
  const std::uint64_t before = pool.used();
  REQUIRE(pool.snapshot("v@s").has_value());
  REQUIRE(pool.pool->clone({"v", "s"}, "c").has_value());
  {
    const ViewHandle open = pool.view("v@s");
    REQUIRE((read_from(*open, 0, 2 * kMiB) == pool.sparse));
    pool.write_all(5);
    CHECK((pool.env_bytes("/img") == pool.content));
    CHECK((read_from(*open, 0, 2 * kMiB) == pool.sparse));
  }
  pool.check_sparse("v@s");
  pool.check_sparse("c");
  CHECK(pool.used() - before == SparsePool::kNeighbourhood);
  CHECK(pool.findings().empty());
  pool.reopen();
  pool.check_sparse("v@s");
  pool.check_sparse("c");
  // The clone writes there as anywhere.
  REQUIRE(pool.view("c")->write(100, block_of(6, 10)).has_value());
  REQUIRE(pool.view("c")->discard(kMiB / 2, kMiB / 4).has_value());
  pool.check_sparse("v@s");
  CHECK(read_from(*pool.view("c"), 90, 10) == block_of(0, 10));
  CHECK(read_from(*pool.view("c"), 100, 10) == block_of(6, 10));
  CHECK(pool.findings().empty());
  REQUIRE(pool.remove("c").has_value());
  REQUIRE(pool.remove("v@s").has_value());
  REQUIRE(pool.pool->wait_for_removals({}).has_value());
  CHECK(pool.used() == before);
  CHECK(pool.findings().empty());
}

TEST_CASE("a kill or a power cut leaves what was saved as zeros") {
  for (const bool power : {false, true}) {
    SparsePool pool;
    REQUIRE(pool.snapshot("v@s").has_value());
    pool.write_all(5);
    if (power)
      pool.env.power_cut(7);
    else
      pool.env.kill();
    pool.pool.reset();
    pool.open();
    pool.check_sparse("v@s");
    CHECK(pool.findings().empty());
  }
}

TEST_CASE("a rollback to what was saved as zeros makes holes of them") {
  SparsePool pool;
  REQUIRE(pool.snapshot("v@s").has_value());
  pool.write_all(5);
  REQUIRE(pool.pool->rollback({"v", "s"}, false, false).has_value());
  CHECK((pool.env_bytes("/img") == pool.sparse));
  CHECK((pool.all_of("v") == pool.sparse));
  CHECK((pool.all_of("v@before-rollback-1") == pool.content));
  CHECK(pool.findings().empty());
}

TEST_CASE("a release with --keep-snapshots copies no zeros, and the volume writes over them") {
  SparsePool pool;
  const std::uint64_t before = pool.used();
  REQUIRE(pool.snapshot("v@s").has_value());
  REQUIRE(pool.pool->clone({"v", "s"}, "c").has_value());
  REQUIRE(pool.pool->release("v", {.keep_snapshots = true}, {}).has_value());
  CHECK(pool.used() - before == SparsePool::kNeighbourhood);
  for (const char* name : {"v@s", "v", "c"}) pool.check_sparse(name);
  CHECK(pool.findings().empty());
  REQUIRE(pool.pool->flatten("c", {}).has_value());
  CHECK(pool.used() - before == 2 * SparsePool::kNeighbourhood);
  REQUIRE(pool.remove("v@s").has_value());
  REQUIRE(pool.pool->wait_for_removals({}).has_value());
  // Nobody else sees them now.
  for (const std::string name : {"v", "c"}) {
    pool.check_sparse(name);
    const ViewHandle view = pool.view(name);
    REQUIRE(view->reserve(kMiB / 2, kMiB / 4, false).has_value());
    REQUIRE(view->write(8192, block_of(3, 3 * kBlockBytes)).has_value());
    REQUIRE(view->write(kMiB / 2, block_of(4, 5000)).has_value());
    REQUIRE(view->discard(0, 16384).has_value());
    auto expected = pool.sparse;
    std::fill_n(expected.begin() + 16384, kBlockBytes, std::byte{3});
    std::fill_n(expected.begin() + kMiB / 2, 5000, std::byte{4});
    CHECK((pool.all_of(name) == expected));
  }
  CHECK(pool.findings().empty());
  CHECK(pool.used() - before == 2 * (SparsePool::kNeighbourhood + kMiB / 4 + kBlockBytes));
  REQUIRE(pool.remove("v").has_value());
  REQUIRE(pool.remove("c").has_value());
  REQUIRE(pool.pool->wait_for_removals({}).has_value());
  CHECK(pool.used() == before);
}

TEST_CASE("a full-sized snapshot of a sparse image has no place for its zeros") {
  SparsePool pool;
  const std::uint64_t before = pool.used();
  REQUIRE(pool.pool->snapshot_full({"v", "f"}, {}).has_value());
  REQUIRE(pool.pool->wait_for_copy({"v", "f"}, {}).has_value());
  CHECK(pool.used() - before == SparsePool::kNeighbourhood);
  pool.write_all(5);
  pool.check_sparse("v@f");
  CHECK(pool.used() - before == SparsePool::kNeighbourhood);
  CHECK(pool.findings().empty());
  REQUIRE(pool.pool->split({"v", "f"}, "w").has_value());
  REQUIRE(pool.view("w")->write(4096, block_of(3)).has_value());
  CHECK(read_from(*pool.view("w"), 4096) == block_of(3));
  CHECK(pool.findings().empty());
}

TEST_CASE("a sparse image that is longer than the pool has space is copied") {
  AdoptedPool pool(16 * kMiB, 4096);
  pool.make_image("/large", 4096);
  auto file = pool.env.open_file("/large", {});
  REQUIRE(file.has_value());
  REQUIRE((*file)->resize(256 * kMiB).has_value());
  file->reset();
  REQUIRE(pool.adopt("/large", "large").has_value());
  const auto expected = pool.env_bytes("/large");
  REQUIRE(pool.pool->snapshot_full({"large", "f"}, {}).has_value());
  REQUIRE(pool.pool->wait_for_copy({"large", "f"}, {}).has_value());
  CHECK((pool.all_of("large@f") == expected));
  REQUIRE(pool.snapshot("large@s").has_value());
  REQUIRE(pool.pool->release("large", {.keep_snapshots = true}, {}).has_value());
  CHECK((pool.all_of("large@s") == expected));
  CHECK(pool.findings().empty());
}

TEST_CASE("an image that was changed without us is not taken for the one that was left") {
  AdoptedPool pool;
  pool.create("other", kMiB);
  REQUIRE(pool.snapshot("v@s").has_value());
  const auto before = pool.content;
  pool.write(*pool.view("v"), 0, 3);
  REQUIRE(pool.pool->close().has_value());
  pool.pool.reset();
  {
    auto file = pool.env.open_file("/img", {});
    REQUIRE((*file)->write_at(kMiB, block_of(66)).has_value());
    std::fill_n(pool.content.begin() + kMiB, kBlockBytes, std::byte{66});
    static_cast<void>(pool.env.wall_clock_ns());
  }
  pool.open();
  const auto info = pool.pool->find({"v", {}});
  CHECK(info->state == "no image");
  for (const std::string name : {"v", "v@s"}) {
    const auto refused = pool.pool->open_view(pool.pool->find(*parse_view_name(name))->id);
    REQUIRE(!refused.has_value());
    CHECK(refused.error().message.find("--changed=keep") != std::string::npos);
  }
  REQUIRE(pool.view("other")->write(0, block_of(1)).has_value());
  CHECK(!pool.adopt("/img", "v").has_value());
  SECTION("keep") {
    REQUIRE(pool.adopt("/img", "v", AdoptOptions::Changed::keep).has_value());
    CHECK((pool.all_of("v") == pool.content));
    auto seen = before;
    std::fill_n(seen.begin() + kMiB, kBlockBytes, std::byte{66});
    CHECK((pool.all_of("v@s") == seen));
  }
  SECTION("drop") {
    REQUIRE(pool.adopt("/img", "v", AdoptOptions::Changed::drop_snapshots).has_value());
    CHECK((pool.all_of("v") == pool.content));
    CHECK(!pool.pool->find({"v", "s"}).has_value());
  }
  CHECK(pool.findings().empty());
}

TEST_CASE("a missing image leaves the pool and other volumes usable") {
  AdoptedPool pool;
  pool.create("other", kMiB);
  REQUIRE(pool.snapshot("v@s").has_value());
  REQUIRE(pool.pool->close().has_value());
  pool.pool.reset();
  REQUIRE(pool.env.remove_file("/img").has_value());
  pool.open();
  REQUIRE(pool.view("other")->write(0, block_of(1)).has_value());
  CHECK(!pool.pool->open_view(pool.pool->find({"v", {}})->id).has_value());
  CHECK(!pool.pool->open_view(pool.pool->find({"v", "s"})->id).has_value());
  CHECK(pool.pool->status().health.starts_with("warning: lab/v: its image /img"));
  const auto findings = pool.findings();
  REQUIRE(findings.size() == 1);
  CHECK(findings.front().starts_with("lab/v: its image /img"));
  CHECK(pool.remove("v@s").has_value());
  CHECK(pool.remove("v").has_value());
  CHECK(pool.findings().empty());
  CHECK(pool.pool->status().health == "ok");
}

TEST_CASE("what cannot be adopted is refused with a reason") {
  AdoptedPool pool;
  pool.make_image("/small", 100);
  CHECK(!pool.adopt("/small", "s").has_value());
  CHECK(!pool.adopt("/none", "s").has_value());
  CHECK(!pool.adopt("/img", "w").has_value()); // a volume already
  CHECK(!pool.adopt("/a", "w").has_value());   // a member of this pool
  pool.make_image("/ok", kMiB);
  CHECK(!pool.adopt("/ok", "v").has_value()); // the name is taken
  CHECK(!pool.adopt("/ok", "-").has_value());
  auto file = pool.env.open_file("/ok", {});
  REQUIRE(*(*file)->try_lock());
  CHECK(!pool.adopt("/ok", "w").has_value()); // somebody has it
  CHECK(pool.pool->list().size() == 1);
}

namespace {

// What may be in each sector of the image, and what snapshots must hold.
class Life {
 public:
  static constexpr std::uint64_t kSize = 600'000 / 512 * 512;
  explicit Life(std::uint64_t seed) : lab(32 * kMiB, kSize), history(kSize / 512), random(seed) {
    for (std::size_t i = 0; i < kSize; ++i) lab.content[i] = static_cast<std::byte>(i / 512 % 200);
    std::fill_n(lab.content.begin(), kSize / 3 / 512 * 512, std::byte{0}); // as a hole
    REQUIRE(lab.view("v")->write(0, lab.content).has_value());
    REQUIRE(lab.view("v")->fsync().has_value());
    settle();
  }
  void reopen() {
    REQUIRE(lab.pool->close().has_value());
    lab.pool.reset();
    open();
  }
  void open() { lab.open({.keep_tail = true}); }

  bool live() {
    return write_some(12) && snapshot("s") && write_some(12) && sync() && write_some(8) && snapshot("t") &&
           write_some(20) && roll_back() && write_some(4);
  }

  void check_after(bool power) {
    lab.pool.reset();
    open();
    for (const auto& [name, content] : snapshots) {
      const bool there = lab.pool->find({"v", name}).has_value();
      INFO("snapshot " << name);
      if (confirmed.contains(name)) REQUIRE(there);
      if (there) REQUIRE((lab.all_of("v@" + name) == content));
    }
    const auto head = lab.all_of("v");
    REQUIRE((head == lab.env_bytes("/img")));
    const bool rolled = lab.pool->find({"v", "before-rollback-1"}).has_value();
    if (rolled && !after_rollback) {
      REQUIRE((head == snapshots.at("s")));
    } else {
      for (std::size_t sector = 0; sector < history.size(); ++sector) {
        INFO("sector " << sector << " power " << power);
        const auto& possible = history[sector];
        const std::byte is = head[sector * 512];
        REQUIRE(std::all_of(head.begin() + static_cast<std::ptrdiff_t>(sector * 512),
                            head.begin() + static_cast<std::ptrdiff_t>(sector * 512 + 512),
                            [&](std::byte b) { return b == is; }));
        if (!power) // the last that was answered, or the one that was not
          REQUIRE((is == possible.back() || (possible.size() > 1 && is == possible[possible.size() - 2])));
        else
          REQUIRE(std::count(possible.begin(), possible.end(), is) > 0);
      }
    }
    REQUIRE(lab.findings().empty());
  }

  AdoptedPool lab;

 private:
  void settle() {
    for (std::size_t sector = 0; sector < history.size(); ++sector)
      history[sector].assign(1, lab.content[sector * 512]);
  }
  bool write_some(int count) {
    const ViewHandle head = lab.view("v");
    for (int i = 0; i < count; ++i) {
      const std::uint64_t from = random() % (history.size() - 40);
      const bool discards = random() % 8 == 0;
      const std::uint64_t most = discards ? std::min<std::uint64_t>(300, history.size() - from) : 8;
      const std::uint64_t sectors = 1 + random() % (i % 4 == 0 && !discards ? 40 : most);
      const std::byte stamp{discards ? std::uint8_t{0} : static_cast<std::uint8_t>(200 + random() % 50)};
      for (std::uint64_t s = from; s < from + sectors; ++s) history[s].push_back(stamp);
      std::fill_n(lab.content.begin() + static_cast<std::ptrdiff_t>(from * 512), sectors * 512, stamp);
      const std::vector<std::byte> data(sectors * 512, stamp);
      const auto done = discards ? head->discard(from * 512, sectors * 512) : head->write(from * 512, data);
      if (!done) return false;
    }
    return true;
  }
  bool sync() {
    if (!lab.view("v")->fsync()) return false;
    settle();
    return true;
  }
  bool snapshot(const std::string& name) {
    snapshots[name] = lab.content;
    if (!lab.snapshot("v@" + name)) return false;
    confirmed.insert(name);
    settle(); // it is in the image, durably
    return true;
  }
  bool roll_back() {
    if (!lab.pool->rollback({"v", "s"}, false, false)) return false;
    lab.content = snapshots.at("s");
    settle();
    after_rollback = true;
    return true;
  }
  std::vector<std::vector<std::byte>> history;
  std::map<std::string, std::vector<std::byte>> snapshots;
  std::set<std::string> confirmed;
  bool after_rollback = false;
  std::mt19937_64 random;
};

} // namespace

TEST_CASE("an adopted image through a power cut at any call: what was confirmed, and snapshots unchanged") {
  for (std::uint64_t nth = 1;; nth += 3) {
    CAPTURE(nth);
    Life life(nth % 5);
    life.reopen();
    life.lab.env.kill_at(nth);
    const bool through = life.live();
    life.lab.env.power_cut(nth);
    life.lab.env.kill_at(std::nullopt);
    life.check_after(true);
    if (through) break;
  }
}

TEST_CASE("an adopted image through a kill at any call: what was answered, and snapshots unchanged") {
  for (std::uint64_t nth = 1;; nth += 3) {
    CAPTURE(nth);
    Life life(nth % 5);
    life.reopen();
    life.lab.env.kill_at(nth);
    const bool through = life.live();
    if (!life.lab.env.killed()) life.lab.env.kill();
    life.lab.env.kill_at(std::nullopt);
    life.check_after(false);
    if (through) break;
  }
}

TEST_CASE("a crash amid a snapshot, beside writes of an adopted image, leaves older ones as they were") {
  log::set_level(log::Level::off);
  AdoptedPool pool(64 * kMiB, 64 * kBlockBytes);
  pool.env.slow_flushes(true); // so that a write gets between the line and the row
  for (int round = 0; round < 30; ++round) {
    CAPTURE(round);
    const std::string name = "v@s" + std::to_string(round);
    REQUIRE(pool.pool->sync().has_value());
    REQUIRE(pool.snapshot(name).has_value());
    const std::vector<std::byte> held = pool.content;
    pool.write(*pool.view("v"), 0, static_cast<std::uint8_t>(round)); // saved, and not in the catalog yet
    std::atomic<bool> done{false};
    std::thread other([&] {
      static_cast<void>(pool.snapshot("v@t" + std::to_string(round)));
      done = true;
    });
    std::vector<std::unique_ptr<MemoryEnv>> crashes;
    const ViewHandle head = pool.view("v");
    for (std::uint8_t stamp = 0; !done; ++stamp) {
      pool.write(*head, 0, stamp);
      if (crashes.size() > 5) crashes.erase(crashes.begin());
      crashes.push_back(pool.env.fork());
    }
    other.join();
    for (const auto& crashed : crashes) {
      auto opened = Pool::open(*crashed, {.member_paths = pool.paths});
      REQUIRE(opened.has_value());
      const auto info = (*opened)->find(*parse_view_name(name));
      REQUIRE(info.has_value());
      auto view = (*opened)->open_view(info->id);
      REQUIRE(view.has_value());
      REQUIRE((read_from(**view, 0, held.size()) == held));
    }
  }
  CHECK(pool.findings().empty());
}

TEST_CASE("readers of snapshots and clones beside writers of an adopted image see what was there") {
  constexpr std::uint64_t kBlocks = 256;
  AdoptedPool pool(64 * kMiB, kBlocks * kBlockBytes);
  pool.env.slow_reads_of("/img");
  std::vector<std::pair<std::string, std::vector<std::byte>>> held;
  for (int round = 0; round < 8; ++round) {
    const std::string name = "s" + std::to_string(round);
    REQUIRE(pool.snapshot("v@" + name).has_value());
    REQUIRE(pool.pool->clone({"v", name}, "c" + name).has_value());
    held.emplace_back("v@" + name, pool.content);
    held.emplace_back("c" + name, pool.content);
    std::atomic<bool> stop{false};
    std::atomic<int> wrong{0};
    std::vector<std::thread> readers;
    for (std::uint64_t r = 0; r < 4; ++r) {
      readers.emplace_back([&, r, view = pool.view(held[held.size() - 1 - r % 2].first)] {
        std::mt19937_64 random(r);
        const auto& expected = held[held.size() - 1 - r % 2].second;
        while (!stop) {
          const std::uint64_t at = random() % (kBlocks - 8) * kBlockBytes;
          std::vector<std::byte> out(kBlockBytes * (1 + random() % 8));
          if (!view->read(at, out) ||
              !std::equal(out.begin(), out.end(), expected.begin() + static_cast<std::ptrdiff_t>(at)))
            ++wrong;
        }
      });
    }
    std::vector<std::thread> writers;
    for (std::uint64_t w = 0; w < 2; ++w) {
      writers.emplace_back([&, w, view = pool.view("v")] {
        std::mt19937_64 random(static_cast<std::uint64_t>(round) * 2 + w);
        for (int i = 0; i < 150; ++i) {
          const std::uint64_t at = (random() % (kBlocks / 2) * 2 + w) * kBlockBytes;
          const auto stamp = static_cast<std::uint8_t>(random());
          if (!view->write(at, block_of(stamp))) ++wrong;
          std::fill_n(pool.content.begin() + static_cast<std::ptrdiff_t>(at), kBlockBytes, std::byte{stamp});
        }
      });
    }
    for (auto& writer : writers) writer.join();
    stop = true;
    for (auto& reader : readers) reader.join();
    REQUIRE(wrong == 0);
  }
  pool.env.slow_reads_of("");
  for (const auto& [name, content] : held) CHECK((pool.all_of(name) == content));
  CHECK((pool.env_bytes("/img") == pool.content));
  CHECK(pool.findings().empty());
}
