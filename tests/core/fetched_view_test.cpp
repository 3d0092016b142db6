// A snapshot of a pool that somebody else has open, read from the members by its exported map.
#include "core/fetched_view.h"

#include <atomic>
#include <thread>

#include "tests/core/refusal.h"
#include "tests/core/small_pool.h"

using namespace vsnap;

namespace {

constexpr std::uint64_t kRegionBytes = kRegionBlocks * kBlockBytes;

// The other host, in this process.
class Direct final : public MapSource {
 public:
  explicit Direct(std::unique_ptr<Pool>& pool) : pool_(pool) {}
  Result<std::optional<RegionMap>> fetch_map(ObjectId view, RegionIndex region) override {
    ++fetched;
    return pool_->export_map(view, region);
  }
  Result<std::size_t> read(ObjectId view, std::uint64_t offset, std::span<std::byte> out) override {
    ++read_through;
    VSNAP_TRY_ASSIGN(const ViewHandle handle, pool_->open_view(view));
    return handle->read(offset, out);
  }
  Result<std::optional<std::uint64_t>> seek_data(ObjectId view, std::uint64_t offset) override {
    VSNAP_TRY_ASSIGN(const ViewHandle handle, pool_->open_view(view));
    return handle->seek_data(offset);
  }
  Result<std::optional<std::uint64_t>> seek_hole(ObjectId view, std::uint64_t offset) override {
    VSNAP_TRY_ASSIGN(const ViewHandle handle, pool_->open_view(view));
    return handle->seek_hole(offset);
  }
  Result<PoolStatus> fetch_members() override {
    ++looked;
    PoolStatus status = pool_->status();
    VSNAP_TRY_ASSIGN(status.mark, pool_->mark_members());
    return status;
  }
  Result<std::uint64_t> session() override {
    if (valid) return number.load();
    return failure(ErrorKind::failed, EIO, "the other host is gone");
  }
  std::atomic<int> fetched{0}, read_through{0}, looked{0};
  std::atomic<bool> valid{true};
  std::atomic<std::uint64_t> number{1};

 private:
  std::unique_ptr<Pool>& pool_;
};

class SharedLab : public SmallPool {
 public:
  SharedLab() : SmallPool(128 * kMiB) {
    create("v", 2 * kRegionBytes);
    fill("v", 1);
    REQUIRE(snapshot("v@s").has_value());
  }
  // Some blocks of both regions.
  void fill(const std::string& name, std::uint8_t stamp) {
    const ViewHandle handle = view(name);
    for (const std::uint64_t block : {0, 1, 2, 7, 9, 8191, 8192, 8200}) {
      REQUIRE(handle->write(block * kBlockBytes, block_of(static_cast<std::uint8_t>(stamp + block % 5)))
                  .has_value());
    }
  }
  Uuid pool_uuid() { return pool->status().uuid; }
  FetchedView fetched(const std::string& name) {
    return {*pool->find(*parse_view_name(name)), source, members, maps};
  }
  Direct source{pool};
  SharedMembers members{env, pool_uuid(), {"/a"}};
  MapCache maps;
};

} // namespace

TEST_CASE("an exported map shows what the snapshot holds while its volume is overwritten") {
  SharedLab lab;
  REQUIRE(lab.members.require(1, lab.source).has_value());
  const ViewHandle open = lab.view("v@s");
  const auto expected = read_from(*open, 0, 2 * kRegionBytes);
  FetchedView view = lab.fetched("v@s");
  REQUIRE(read_from(view, 0, 2 * kRegionBytes) == expected);
  CHECK(lab.source.fetched == 2);
  lab.fill("v", 100);
  REQUIRE(lab.view("v")->discard(0, 8 * kBlockBytes).has_value());
  REQUIRE(lab.pool->status().health == "ok"); // commits
  REQUIRE(lab.remove("v@s", {.even_if_open = true}).has_value());
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  lab.fill("v", 50);
  REQUIRE(read_from(view, 0, 2 * kRegionBytes) == expected);
  for (const auto& [offset, length] : {std::pair<std::uint64_t, std::size_t>{100, 9000},
                                       {kRegionBytes - 5, 10},
                                       {7 * kBlockBytes + 1, 1},
                                       {2 * kRegionBytes - 10, 100}}) {
    const auto part = read_from(view, offset, length);
    CHECK(std::equal(part.begin(), part.end(), expected.begin() + static_cast<std::ptrdiff_t>(offset)));
  }
  CHECK(lab.source.fetched == 2); // what is read again costs nothing
  CHECK(lab.source.read_through == 0);
}

TEST_CASE("a view that is fetched cannot be written") {
  SharedLab lab;
  FetchedView view = lab.fetched("v@s");
  CHECK_FALSE(view.writable());
  CHECK(refusal(view.write(0, block_of(1))).errno_value == EROFS);
  CHECK(refusal(view.discard(0, kBlockBytes)).errno_value == EROFS);
  CHECK(refusal(view.reserve(0, kBlockBytes, false)).errno_value == EROFS);
}

TEST_CASE("nothing is read by a map once the other host may have let go of it") {
  SharedLab lab;
  REQUIRE(lab.members.require(1, lab.source).has_value());
  const ViewHandle open = lab.view("v@s");
  FetchedView view = lab.fetched("v@s");
  REQUIRE(read_from(view, 0) == block_of(1));
  lab.source.valid = false;
  std::vector<std::byte> out(kBlockBytes);
  CHECK(refusal(view.read(0, out)).errno_value == EIO);
  lab.source.valid = true;
  REQUIRE(read_from(view, 0) == block_of(1));
  CHECK(lab.source.fetched == 1);
  lab.source.number = 2; // another session
  REQUIRE(read_from(view, 0) == block_of(1));
  CHECK(lab.source.fetched == 2);
}

TEST_CASE("snapshots that other hosts may read stay what they are after a restart") {
  SharedLab lab;
  constexpr std::int64_t kHour = 3'600'000'000'000;
  REQUIRE(lab.pool->clone({"v", "s"}, "c").has_value());
  REQUIRE(lab.pool->snapshot_full({"v", "full"}, {}).has_value());
  REQUIRE(lab.pool->wait_for_copy({"v", "full"}, {}).has_value());
  REQUIRE(lab.pool->keep_snapshots_for(kHour).has_value());
  lab.reopen();
  const auto expected = read_from(*lab.view("v@s"), 0, 2 * kRegionBytes);
  const auto map = [&] {
    const ViewHandle open = lab.view("v@s");
    return lab.pool->export_map(lab.pool->find({"v", "s"})->id, RegionIndex(0)).value().value();
  };
  const RegionMap before = map();
  for (const Error& error :
       {refusal(lab.remove("v@s")), refusal(lab.remove("v@s", {.even_if_open = true})),
        refusal(lab.remove("v", {.recursive = true})), refusal(lab.pool->refresh({"v", "s"})),
        refusal(lab.pool->flatten("c", {})), refusal(lab.pool->split({"v", "full"}, "w"))}) {
    CHECK(error.kind == ErrorKind::busy);
    CHECK(says(error, "may still read it"));
  }
  lab.fill("v", 20);
  CHECK(map() == before);
  REQUIRE(read_from(*lab.view("v@s"), 0, 2 * kRegionBytes) == expected);
  lab.env.new_boot(); // and the machine's clock starts anew, for an hour
  lab.reopen();
  CHECK(says(refusal(lab.remove("v@s")), "may still read it"));
  CHECK(lab.findings().empty());
}

TEST_CASE("a promise to other hosts is not taken back before it has run out, and is counted once") {
  SharedLab lab;
  REQUIRE(lab.pool->keep_snapshots_for(3'600'000'000'000).has_value());
  lab.reopen();
  REQUIRE(lab.pool->keep_snapshots_for(0).has_value()); // as a daemon that nobody asked anything
  lab.reopen();
  CHECK(says(refusal(lab.remove("v@s")), "may still read it"));
  constexpr std::int64_t kShort = 200'000'000;
  SharedLab other;
  REQUIRE(other.pool->keep_snapshots_for(kShort).has_value());
  for (int i = 0; i < 400 && !other.remove("v@s").has_value(); ++i) { // each process counts on
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    other.reopen();
  }
  CHECK_FALSE(other.pool->find({"v", "s"}).has_value());
}

TEST_CASE("an unlinked snapshot that another host may read stays over a restart") {
  SharedLab lab;
  REQUIRE(lab.pool->keep_snapshots_for(3'600'000'000'000).has_value());
  {
    const ViewHandle open = lab.view("v@s");
    REQUIRE(lab.remove("v@s", {.even_if_open = true}).has_value());
    lab.pool->keep_unlinked(); // as whoever ends while others still read
  }
  lab.reopen();
  const std::uint64_t kept = lab.pool->status().space.data_bytes;
  lab.fill("v", 20);
  CHECK(lab.pool->status().space.data_bytes > kept); // nothing is overwritten in place
  CHECK(lab.findings().empty());
}

TEST_CASE("a map is exported of an open snapshot only, and not of what may move") {
  SharedLab lab;
  const auto exported = [&](const std::string& name) {
    return lab.pool->export_map(lab.pool->find(*parse_view_name(name))->id, RegionIndex(0));
  };
  CHECK_FALSE(exported("v@s").has_value()); // not open
  const ViewHandle head = lab.view("v");
  REQUIRE(exported("v").has_value());
  CHECK_FALSE(exported("v")->has_value()); // a head
  REQUIRE(lab.pool->snapshot_full({"v", "full"}, {}).has_value());
  {
    const ViewHandle full = lab.view("v@full");
    CHECK_FALSE(exported("v@full")->has_value()); // its copy is not whole
  }
  REQUIRE(lab.pool->wait_for_copy({"v", "full"}, {}).has_value());
  const ViewHandle full = lab.view("v@full");
  CHECK(exported("v@full")->has_value());
}

TEST_CASE("a volume is not flattened while another host has the map of one of its snapshots") {
  SharedLab lab;
  REQUIRE(lab.pool->clone({"v", "s"}, "c").has_value());
  REQUIRE(lab.snapshot("c@t").has_value());
  const ObjectId id = lab.pool->find({"c", "t"})->id;
  {
    const ViewHandle open = lab.view("c@t");
    REQUIRE(lab.pool->export_map(id, RegionIndex(0))->has_value());
    const Error error = refusal(lab.pool->flatten("c", {}));
    CHECK(error.kind == ErrorKind::busy);
    CHECK(says(error, "lab/c@t: another host reads it"));
  }
  const ViewHandle open = lab.view("c@t");
  const auto flattened = lab.pool->flatten("c", [&](std::uint64_t, std::uint64_t) {
    const auto exported = lab.pool->export_map(id, RegionIndex(0));
    REQUIRE(exported.has_value());
    CHECK_FALSE(exported->has_value());
    return true;
  });
  REQUIRE(flattened.has_value());
  CHECK(lab.pool->export_map(id, RegionIndex(0))->has_value());
}

TEST_CASE("what has no map that stays is read through the other host") {
  SharedLab lab;
  REQUIRE(lab.pool->snapshot_full({"v", "full"}, {}).has_value());
  const ViewHandle open = lab.view("v@full");
  FetchedView view = lab.fetched("v@full");
  REQUIRE(read_from(view, 0) == block_of(1));
  CHECK(lab.source.read_through == 1);
}

TEST_CASE("maps are fetched again by who opens a snapshot anew") {
  SharedLab lab;
  const ViewHandle open = lab.view("v@s");
  for (int i = 1; i <= 2; ++i) {
    FetchedView view = lab.fetched("v@s");
    FetchedView other = lab.fetched("v@s");
    for (int again = 0; again < 2; ++again) {
      REQUIRE(read_from(view, 0) == block_of(1));
      REQUIRE(read_from(other, 0) == block_of(1));
    }
    CHECK(lab.source.fetched == 2 * i);
  }
}

TEST_CASE(
    "members are looked at in each session before a map is used, and left to the other host where need be") {
  SharedLab lab;
  const ViewHandle open = lab.view("v@s");
  FetchedView view = lab.fetched("v@s");
  REQUIRE(read_from(view, 0) == block_of(1));
  REQUIRE(read_from(view, kRegionBytes) == block_of(1 + 8192 % 5));
  CHECK(lab.source.looked == 1);
  CHECK(lab.source.read_through == 0);
  lab.env.no_direct_io(true);
  SharedMembers cached{lab.env, lab.pool_uuid(), {"/a"}};
  FetchedView through{*lab.pool->find({"v", "s"}), lab.source, cached, lab.maps};
  REQUIRE(read_from(through, 0) == block_of(1));
  CHECK(lab.source.read_through == 1);
  lab.env.no_direct_io(false);
  lab.source.number = 2;
  REQUIRE(read_from(through, 0) == block_of(1));
  CHECK(lab.source.read_through == 1);
}

TEST_CASE("readers of an exported map see one snapshot beside a writer, a flatten and removals") {
  SharedLab lab;
  REQUIRE(lab.members.require(1, lab.source).has_value());
  const ViewHandle open = lab.view("v@s");
  const auto expected = read_from(*open, 0, 2 * kRegionBytes);
  FetchedView view = lab.fetched("v@s");
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0}, rounds{0};
  std::vector<std::thread> readers;
  for (int i = 0; i < 2; ++i) {
    readers.emplace_back([&] {
      std::vector<std::byte> out(64 * kBlockBytes);
      while (!stop) {
        for (const std::uint64_t at : {std::uint64_t{0}, kRegionBytes - 32 * kBlockBytes, kRegionBytes}) {
          if (!view.read(at, out) ||
              !std::equal(out.begin(), out.end(), expected.begin() + static_cast<std::ptrdiff_t>(at)))
            ++wrong;
        }
        ++rounds;
      }
    });
  }
  for (int round = 0; round < 60 || rounds < 20; ++round) {
    lab.fill("v", static_cast<std::uint8_t>(round));
    const std::string name = "v@r" + std::to_string(round);
    REQUIRE(lab.snapshot(name).has_value());
    REQUIRE(lab.remove(name).has_value());
    REQUIRE(lab.pool->wait_for_removals({}).has_value());
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  CHECK(wrong == 0);
}
