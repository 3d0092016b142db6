// Volumes that are delegated to a joined host, over real sockets: both hosts are in this process, and see the
// same members.
#include "sync/direct_volume.h"

#include <atomic>
#include <thread>

#include "tests/sync/export_lab.h"

using namespace vsnap;
using namespace vsnap::test;

namespace {

// Of which the joined host has its own blocks: no snapshot sees them.
struct DelegationLab : ExportLab {
  std::unique_ptr<JoinedPool> far;
  ViewHandle volume; // of the joined host

  DelegationLab() : ExportLab(true), far(join()) {
    volume = test::open(*far, "v");
    REQUIRE(volume->write(0, block_of(2, kBlocks * kBlockBytes)).has_value());
    REQUIRE(is_taken());
  }
  ~DelegationLab() {
    volume = {};
    far.reset();
  }
  [[nodiscard]] std::size_t held() {
    const auto all = pool->delegations();
    return static_cast<std::size_t>(std::count_if(all.begin(), all.end(), [](const DelegationInfo& info) {
      return info.state == DelegationState::held;
    }));
  }
  // It is asked for when the volume is used.
  [[nodiscard]] bool is_taken() {
    return becomes([&] { return read_from(*volume, 0).size() == kBlockBytes && held() == 1; }) &&
           read_from(*volume, 0).size() == kBlockBytes;
  }
  void stop_coordinator() { stop_sharing(); }
};

std::size_t length_at(View& view, std::uint64_t offset) {
  std::vector<std::byte> block(kBlockBytes);
  return view.read(offset, block).value();
}

} // namespace

TEST_CASE("a volume that one host has open is overwritten and read there without a message") {
  DelegationLab lab;
  const auto all = kBlocks * kBlockBytes;
  REQUIRE(read_from(*lab.volume, 0, all) == block_of(2, all)); // its map is there
  REQUIRE(lab.volume->fsync().has_value());                    // of what the coordinator has written
  lab.stop_coordinator();
  REQUIRE(lab.volume->write(3 * kBlockBytes, block_of(3)).has_value());
  REQUIRE(lab.volume->write(5 * kBlockBytes + 100, block_of(4, 512)).has_value()); // part of a block
  REQUIRE(lab.volume->fsync().has_value());
  CHECK(read_from(*lab.volume, 3 * kBlockBytes) == block_of(3));
  CHECK(read_from(*lab.volume, 5 * kBlockBytes + 100, 512) == block_of(4, 512));
  CHECK(read_from(*lab.volume, 5 * kBlockBytes, 100) == block_of(2, 100));
  lab.share();
  CHECK(length_at(*lab.volume, kMiB) == 0); // past the end, as the coordinator says
  const ViewHandle here = lab.view("v");    // taken back for that
  CHECK(read_from(*here, 3 * kBlockBytes) == block_of(3));
  CHECK(read_from(*here, 5 * kBlockBytes + 100, 512) == block_of(4, 512));
}

TEST_CASE("whoever opens a delegated volume sees the last write, and both go on through the coordinator") {
  DelegationLab lab;
  for (std::uint8_t round = 1; round < 20; ++round) {
    REQUIRE(lab.volume->write(0, block_of(round)).has_value());
    const ViewHandle here = lab.view("v");
    REQUIRE(read_from(*here, 0) == block_of(round));
    CHECK(lab.held() == 0);
    REQUIRE(here->write(kBlockBytes, block_of(round)).has_value());
    REQUIRE(read_from(*lab.volume, kBlockBytes) == block_of(round));
    REQUIRE(lab.volume->write(kBlockBytes, block_of(100)).has_value());
    REQUIRE(read_from(*here, kBlockBytes) == block_of(100));
  }
}

TEST_CASE("a snapshot of a delegated volume is of one moment, and what is written later goes elsewhere") {
  DelegationLab lab;
  std::atomic<bool> stop = false;
  std::uint64_t last = 0;
  std::thread writer([&] { // block after block: a moment has them in order
    for (std::uint8_t stamp = 3; !stop.load() && stamp < 250; ++stamp) {
      for (std::uint64_t block = 0; block < kBlocks && !stop.load(); ++block) {
        if (!lab.volume->write(block * kBlockBytes, block_of(stamp))) return;
        ++last;
      }
    }
  });
  std::vector<std::string> names;
  for (int i = 0; i < 6; ++i) {
    names.push_back("v@now" + std::to_string(i));
    CHECK(lab.snapshot(names.back()).has_value());
    std::this_thread::sleep_for(std::chrono::milliseconds(60));
  }
  stop = true;
  writer.join();
  CHECK(last > kBlocks);
  for (const std::string& name : names) {
    const auto all = read_from(*lab.view(name), 0, kBlocks * kBlockBytes);
    INFO(name);
    bool fell = false;
    for (std::uint64_t block = 1; block < kBlocks; ++block) {
      const auto before = all[(block - 1) * kBlockBytes];
      const auto here = all[block * kBlockBytes];
      REQUIRE(std::to_integer<int>(before) - std::to_integer<int>(here) >= 0);
      REQUIRE(std::to_integer<int>(before) - std::to_integer<int>(here) <= 1);
      REQUIRE(!(fell && before != here));
      fell = fell || before != here;
    }
  }
}

TEST_CASE("what changes the map of a delegated volume is seen by those who read and write it there") {
  DelegationLab lab;
  REQUIRE(lab.volume->discard(0, 4 * kBlockBytes).has_value());
  CHECK(read_from(*lab.volume, 0) == block_of(0));
  REQUIRE(lab.volume->write(kBlockBytes, block_of(7)).has_value()); // a new place
  CHECK(read_from(*lab.volume, kBlockBytes) == block_of(7));
  REQUIRE(lab.volume->reserve(0, 2 * kMiB, true).has_value()); // larger
  CHECK(lab.volume->size_bytes() == 2 * kMiB);
  REQUIRE(lab.volume->write(2 * kMiB - kBlockBytes, block_of(8)).has_value());
  REQUIRE(lab.volume->write(2 * kMiB, block_of(9)).has_value()); // larger still
  CHECK(read_from(*lab.volume, 2 * kMiB) == block_of(9));
  REQUIRE(lab.far->resize(lab.volume->id(), kMiB, true).has_value());
  CHECK(length_at(*lab.volume, 2 * kMiB) == 0);
  REQUIRE(lab.is_taken());
  const ViewHandle here = lab.view("v");
  CHECK(here->size_bytes() == kMiB);
  CHECK(read_from(*here, kBlockBytes) == block_of(7));
  CHECK(read_from(*here, 0) == block_of(0));
}

TEST_CASE("a host whose lease has run out does not write to a delegated volume, and hears of it") {
  DelegationLab lab;
  REQUIRE(lab.volume->write(0, block_of(3)).has_value());
  lab.stop_coordinator();
  lab.env.let_pass(lab.lease_ns * 3 / 4); // young no more: what begins now waits for the coordinator
  std::thread later([&] { CHECK(refusal(lab.volume->write(0, block_of(4))).errno_value == EIO); });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  lab.env.let_pass(lab.lease_ns);
  later.join();
  CHECK(lab.volume->has_lapsed());
  std::vector<std::byte> block(kBlockBytes);
  CHECK(refusal(lab.volume->read(0, block)).errno_value == EIO);
  lab.share();
  const ViewHandle here = lab.view("v");
  CHECK(read_from(*here, 0) == block_of(3));
  CHECK(lab.held() == 0);
}

TEST_CASE("a delegated volume is returned when it is closed, and when the pool is") {
  DelegationLab lab;
  lab.volume = {};
  REQUIRE(becomes([&] { return lab.pool->delegations().empty(); }));
  lab.volume = test::open(*lab.far, "v");
  REQUIRE(lab.is_taken());
  lab.volume = {};
  lab.far.reset();
  REQUIRE(becomes([&] { return lab.pool->delegations().empty(); }));
}

TEST_CASE("a host's next process gives up what the one before had, without waiting for its lease") {
  DelegationLab lab;
  auto before = std::move(lab.far);
  const auto number = lab.pool->delegations().front().delegation.number;
  lab.far = lab.join(); // of the same host
  REQUIRE(becomes([&] { return lab.pool->delegations().empty(); }));
  const ViewHandle here = lab.view("v");
  CHECK(read_from(*here, 0) == block_of(2));
  lab.volume = test::open(*lab.far, "v");
  CHECK(lab.held() == 0); // as it is open here
  CHECK(number > 0);
}

TEST_CASE("a volume that two hosts have open is not delegated") {
  DelegationLab lab;
  const ViewHandle here = lab.view("v");
  for (int i = 0; i < 20; ++i) {
    REQUIRE(lab.volume->write(0, block_of(5)).has_value());
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
  }
  CHECK(lab.pool->delegations().empty());
}

TEST_CASE("a delegated volume that grows is changed at its old end, too, wherever that is") {
  DelegationLab lab;
  REQUIRE(lab.far->resize(lab.volume->id(), 1000, true).has_value());
  REQUIRE(lab.snapshot("v@short").has_value()); // which sees the block of that end
  REQUIRE(becomes([&] { return read_from(*lab.volume, 0, 1000).size() == 1000 && lab.held() == 1; }));
  CHECK(read_from(*lab.volume, 0, 1000) == block_of(2, 1000));
  REQUIRE(lab.volume->write(8 * kBlockBytes, block_of(5)).has_value()); // the old end gets a new place
  REQUIRE(lab.remove("v@short").has_value());
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  lab.create("other", kMiB); // which may get the place that is free now
  REQUIRE(lab.view("other")->write(0, block_of(9, kMiB)).has_value());
  CHECK(read_from(*lab.volume, 0, 1000) == block_of(2, 1000));
  CHECK(read_from(*lab.volume, 1000, kBlockBytes - 1000) == block_of(0, kBlockBytes - 1000));
  CHECK(read_from(*lab.volume, 8 * kBlockBytes) == block_of(5));
}

TEST_CASE("what is written at the end of a volume while it is given is read at once") {
  DelegationLab lab;
  std::atomic<bool> stop = false;
  std::thread others([&] { // so that it is taken back, and given, again and again
    while (!stop.load()) {
      lab.view("v");
      std::this_thread::sleep_for(std::chrono::milliseconds(15));
    }
  });
  for (std::uint64_t end = kMiB / kBlockBytes; end < kMiB / kBlockBytes + 400; ++end) {
    REQUIRE(lab.volume->write(end * kBlockBytes, block_of(static_cast<std::uint8_t>(end))).has_value());
    REQUIRE(length_at(*lab.volume, end * kBlockBytes) == kBlockBytes);
  }
  stop = true;
  others.join();
}

namespace {

// Of a volume of which nothing is mapped yet, with messages counted.
struct FirstWrites : DelegationLab {
  static constexpr std::uint64_t kFirst = kMiB / 2; // unmapped from here on

  // Space is asked for by the first write.
  [[nodiscard]] bool is_granted() {
    return becomes([&] {
      REQUIRE(volume->write(kFirst, block_of(5)).has_value());
      REQUIRE(volume->discard(kFirst, kBlockBytes).has_value());
      return is_taken() && asked_for_space() > 0;
    });
  }
  std::uint64_t asked_for_space() { return grants.load(); }
};

} // namespace

TEST_CASE("first writes to a delegated volume need no message, and whoever opens it next sees them") {
  FirstWrites lab;
  REQUIRE(lab.is_granted());
  REQUIRE(becomes([&] { // its map is fetched, and there is space
    const auto before = lab.changes.load();
    REQUIRE(lab.volume->write(lab.kFirst, block_of(6)).has_value());
    REQUIRE(lab.volume->write(lab.kFirst + 100 * kBlockBytes, block_of(6)).has_value());
    if (lab.changes.load() == before) return true;
    REQUIRE(lab.volume->discard(lab.kFirst, kMiB / 2).has_value());
    return false;
  }));
  const auto before = lab.changes.load();
  for (std::uint64_t block = 1; block < 60; ++block) {
    const auto stamp = static_cast<std::uint8_t>(block);
    REQUIRE(lab.volume->write(lab.kFirst + block * kBlockBytes, block_of(stamp)).has_value());
  }
  REQUIRE(lab.volume->write(0, block_of(7, 300)).has_value());
  CHECK(lab.changes.load() == before);
  REQUIRE(lab.volume->fsync().has_value());
  CHECK(lab.commits.load() > 0);
  REQUIRE(lab.volume->write(lab.kFirst + 70 * kBlockBytes + 10, block_of(8, 20)).has_value());
  const ViewHandle here = lab.view("v"); // takes it back
  for (std::uint64_t block = 1; block < 60; ++block)
    REQUIRE(read_from(*here, lab.kFirst + block * kBlockBytes) == block_of(static_cast<std::uint8_t>(block)));
  CHECK(read_from(*here, lab.kFirst + 70 * kBlockBytes + 10, 20) == block_of(8, 20));
  CHECK(read_from(*here, lab.kFirst + 70 * kBlockBytes, 10) == block_of(0, 10));
}

TEST_CASE("a snapshot that is taken while blocks are written for the first time shows one moment of them") {
  FirstWrites lab;
  REQUIRE(lab.is_granted());
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    for (std::uint8_t stamp = 1; !stop.load() && stamp < 250; ++stamp) {
      for (std::uint64_t block = 0; block < 128 && !stop.load(); ++block) {
        if (!lab.volume->write(lab.kFirst + block * kBlockBytes, block_of(stamp))) return;
        if (block % 40 == 0 && !lab.volume->fsync()) return;
      }
    }
  });
  for (int i = 0; i < 6; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    CHECK(lab.snapshot("v@first" + std::to_string(i)).has_value());
  }
  stop = true;
  writer.join();
  for (int i = 0; i < 6; ++i) {
    const auto all = read_from(*lab.view("v@first" + std::to_string(i)), lab.kFirst, 128 * kBlockBytes);
    INFO(i);
    bool fell = false;
    for (std::uint64_t block = 1; block < 128; ++block) {
      const auto before = std::to_integer<int>(all[(block - 1) * kBlockBytes]);
      const auto now = std::to_integer<int>(all[block * kBlockBytes]);
      REQUIRE(before - now >= 0);
      REQUIRE(before - now <= 1);
      REQUIRE(!(fell && before != now));
      fell = fell || before != now;
    }
  }
  lab.volume = {};
  lab.far.reset();
  REQUIRE(becomes([&] { return lab.pool->delegations().empty(); }));
  const auto report = lab.pool->check(true, {});
  REQUIRE(report.has_value());
  for (const Finding& finding : report->findings) FAIL_CHECK(finding.what);
}
