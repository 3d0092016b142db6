// Preserve: old handles go on with the first image, new ones with the second; and nobody sees a block go
// back.
#include <atomic>
#include <random>
#include <thread>

#include "tests/core/small_pool.h"
#include "tests/support/seed.h"

using namespace vsnap;

namespace {

ViewInfo preserve(SmallPool& lab, const std::string& name) {
  const auto made = lab.pool->preserve(*parse_view_name(name));
  INFO((made ? "" : made.error().message));
  REQUIRE(made.has_value());
  return *made;
}

ViewInfo info(SmallPool& lab, const std::string& name) { return *lab.pool->find(*parse_view_name(name)); }

void write(View& view, std::uint64_t block, std::uint8_t stamp) {
  REQUIRE(view.write(block * kBlockBytes, block_of(stamp)).has_value());
}

bool shows(View& view, std::uint64_t block, std::uint8_t stamp) {
  return read_from(view, block * kBlockBytes) == block_of(stamp);
}

// In a pool whose daemon has no thread in the background, what that would do.
void finish(SmallPool& lab) { lab.reopen(); }

} // namespace

TEST_CASE("a volume that nobody has open is preserved as a final snapshot at once") {
  SmallPool lab;
  lab.create("v", 8 * kMiB);
  write(*lab.view("v"), 1, 1);
  const ObjectId before = info(lab, "v").id;
  const ViewInfo image = preserve(lab, "v@a");
  REQUIRE(image.kind == ViewKind::snapshot);
  REQUIRE(image.id == before);
  REQUIRE(image.state.empty());
  REQUIRE(info(lab, "v").id != before);
  write(*lab.view("v"), 1, 2);
  REQUIRE(shows(*lab.view("v@a"), 1, 1));
  REQUIRE(lab.findings().empty());
}

TEST_CASE(
    "old handles write the first image, later ones the second, and late writes show where it has no block") {
  SmallPool lab;
  lab.create("v", 64 * kMiB);
  ViewHandle old_handle = lab.view("v");
  write(*old_handle, 0, 1);
  write(*old_handle, 1, 1);
  write(*old_handle, 2, 1);
  REQUIRE(preserve(lab, "v@a").state == "draining");
  ViewHandle second = lab.view("v");
  REQUIRE(second->id() != old_handle->id());
  REQUIRE(shows(*second, 0, 1));
  write(*second, 1, 2);
  REQUIRE(second->discard(2 * kBlockBytes, kBlockBytes).has_value());
  write(*old_handle, 0, 3);
  write(*old_handle, 1, 3);
  write(*old_handle, 2, 3);
  write(*old_handle, 40 * kMiB / kBlockBytes, 3); // of a region that neither had
  REQUIRE(shows(*second, 0, 3));
  REQUIRE(shows(*second, 1, 2));
  REQUIRE(shows(*second, 2, 0));
  REQUIRE(shows(*second, 40 * kMiB / kBlockBytes, 3));
  REQUIRE(second->seek_data(32 * kMiB).value() == 40 * kMiB);
  REQUIRE(second->seek_hole(0).value() == 2 * kBlockBytes);
  ViewHandle late = lab.view("v@a");
  REQUIRE(shows(*late, 1, 3));
  REQUIRE_FALSE(late->writable());
  REQUIRE(late->write(0, block_of(9)).error().errno_value == EROFS);
  REQUIRE(lab.findings().empty());
}

TEST_CASE("a part of a block that the second image writes keeps the rest of the first") {
  SmallPool lab;
  lab.create("v", 8 * kMiB);
  ViewHandle old_handle = lab.view("v");
  write(*old_handle, 5, 1);
  preserve(lab, "v@a");
  ViewHandle second = lab.view("v");
  REQUIRE(second->write(5 * kBlockBytes + 100, block_of(2, 700)).has_value());
  auto expected = block_of(1);
  std::fill_n(expected.begin() + 100, 700, std::byte{2});
  REQUIRE(read_from(*second, 5 * kBlockBytes) == expected);
  write(*old_handle, 5, 3); // the block is the second's own now
  REQUIRE(read_from(*second, 5 * kBlockBytes) == expected);
  REQUIRE(shows(*old_handle, 5, 3));
}

TEST_CASE("the image is final when its last old handle is closed, whatever later ones are open") {
  SmallPool lab;
  lab.create("v", 8 * kMiB);
  lab.pool.reset();
  lab.open({.background = true});
  std::optional<ViewHandle> one = lab.view("v");
  std::optional<ViewHandle> two = lab.view("v");
  write(**one, 0, 1);
  preserve(lab, "v@a");
  ViewHandle late = lab.view("v@a");
  ViewHandle second = lab.view("v");
  write(*second, 1, 2);
  write(**two, 1, 1);
  one.reset();
  REQUIRE(info(lab, "v@a").state == "draining");
  two.reset();
  for (int tries = 0; !info(lab, "v@a").state.empty(); ++tries) {
    REQUIRE(tries < 1000);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  REQUIRE(shows(*second, 0, 1));
  REQUIRE(shows(*second, 1, 2));
  REQUIRE(shows(*late, 1, 1));
  write(*second, 0, 4);
  REQUIRE(shows(*late, 0, 1));
  REQUIRE(shows(*lab.view("v@a"), 0, 1));
  REQUIRE(lab.snapshot("v@b").has_value());
  REQUIRE(lab.findings().empty());
}

TEST_CASE("as long as an image drains, nothing is done that would need it to stand still") {
  SmallPool lab;
  lab.create("v", 8 * kMiB);
  write(*lab.view("v"), 0, 1);
  REQUIRE(lab.snapshot("v@before").has_value());
  ViewHandle old_handle = lab.view("v");
  preserve(lab, "v@a");
  REQUIRE(lab.snapshot("v@b").error().kind == ErrorKind::busy);
  REQUIRE(lab.remove("v@a").error().kind == ErrorKind::busy);
  REQUIRE(lab.remove("v", {.recursive = true}).error().kind == ErrorKind::busy);
  REQUIRE(lab.pool->rollback({"v", "before"}, false, false).error().kind == ErrorKind::busy);
  REQUIRE(lab.pool->rollback({"v", "a"}, false, false).error().kind == ErrorKind::busy);
  REQUIRE(lab.pool->clone({"v", "a"}, "c").error().kind == ErrorKind::busy);
  REQUIRE(lab.pool->rename({"v", "a"}, "b").error().kind == ErrorKind::busy);
  REQUIRE(lab.pool->flatten("v", {}).error().kind == ErrorKind::busy);
  REQUIRE(lab.pool->diff({"v", "before"}, {"v", {}}, [](const DiffRange&) { return true; }).error().kind ==
          ErrorKind::busy);
  // What does not, is: earlier snapshots go, the volume gets another name.
  REQUIRE(lab.remove("v@before").has_value());
  REQUIRE(lab.pool->rename({"v", {}}, "w").has_value());
  REQUIRE(info(lab, "w@a").state == "draining");
  write(*old_handle, 3, 3);
  REQUIRE(shows(*lab.view("w"), 3, 3));
  REQUIRE(lab.findings().empty());
}

TEST_CASE("earlier snapshots belong to the second image, with their content") {
  SmallPool lab;
  lab.create("v", 8 * kMiB);
  ViewHandle old_handle = lab.view("v");
  write(*old_handle, 0, 1);
  REQUIRE(lab.snapshot("v@s").has_value());
  write(*old_handle, 0, 2);
  preserve(lab, "v@a");
  write(*old_handle, 0, 3);
  REQUIRE(shows(*lab.view("v@s"), 0, 1));
  { const ViewHandle closed = std::move(old_handle); }
  finish(lab);
  REQUIRE(info(lab, "v@a").state.empty());
  REQUIRE(shows(*lab.view("v@s"), 0, 1));
  REQUIRE(shows(*lab.view("v@a"), 0, 3));
  REQUIRE(lab.pool->rollback({"v", "s"}, false, false).has_value());
  REQUIRE(shows(*lab.view("v"), 0, 1));
  REQUIRE(lab.findings().empty());
}

TEST_CASE("preserves that overlap make a line of images, final from the oldest on") {
  SmallPool lab;
  lab.create("v", 8 * kMiB);
  std::optional<ViewHandle> first = lab.view("v");
  write(**first, 0, 1);
  preserve(lab, "v@a");
  std::optional<ViewHandle> second = lab.view("v");
  write(**second, 1, 2);
  preserve(lab, "v@b");
  ViewHandle third = lab.view("v");
  write(*third, 2, 3);
  write(**first, 3, 1);
  write(**first, 1, 1);
  write(**second, 2, 2);
  REQUIRE(shows(*third, 0, 1));
  REQUIRE(shows(*third, 1, 2));
  REQUIRE(shows(*third, 2, 3));
  REQUIRE(shows(*third, 3, 1));
  second.reset(); // not final: the first still shows through it
  lab.pool->settle();
  REQUIRE(info(lab, "v@b").state == "draining");
  write(**first, 4, 1);
  REQUIRE(shows(*lab.view("v@b"), 4, 1));
  first.reset();
  { const ViewHandle closed = std::move(third); }
  finish(lab);
  REQUIRE(info(lab, "v@a").state.empty());
  REQUIRE(info(lab, "v@b").state.empty());
  REQUIRE(shows(*lab.view("v@a"), 1, 1));
  REQUIRE(shows(*lab.view("v@a"), 2, 0));
  REQUIRE(shows(*lab.view("v@b"), 1, 2));
  REQUIRE(shows(*lab.view("v@b"), 2, 2));
  REQUIRE(shows(*lab.view("v"), 2, 3));
  REQUIRE(shows(*lab.view("v"), 4, 1));
  REQUIRE(lab.findings().empty());
  REQUIRE(lab.remove("v@a").has_value());
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  REQUIRE(shows(*lab.view("v@b"), 0, 1));
  REQUIRE(lab.findings().empty());
}

TEST_CASE(
    "an old handle shrinks and grows the first image: the second sees zeros there, and keeps its own size") {
  SmallPool lab;
  lab.create("v", 8 * kMiB);
  ViewHandle old_handle = lab.view("v");
  write(*old_handle, 3, 1);
  write(*old_handle, 4, 1);
  preserve(lab, "v@a");
  ViewHandle second = lab.view("v");
  REQUIRE(lab.pool->resize(old_handle->id(), 4 * kBlockBytes - 10, true).has_value());
  REQUIRE(second->size_bytes() == 8 * kMiB);
  auto cut = block_of(1);
  std::fill(cut.end() - 10, cut.end(), std::byte{0});
  REQUIRE(read_from(*second, 3 * kBlockBytes) == cut);
  REQUIRE(shows(*second, 4, 0));
  REQUIRE(old_handle->write(16 * kMiB, block_of(1)).has_value());
  REQUIRE(second->size_bytes() == 8 * kMiB);
  { const ViewHandle one = std::move(old_handle); }
  { const ViewHandle two = std::move(second); }
  finish(lab);
  REQUIRE(info(lab, "v@a").size_bytes == 16 * kMiB + kBlockBytes);
  REQUIRE(info(lab, "v").size_bytes == 8 * kMiB);
  REQUIRE(read_from(*lab.view("v"), 3 * kBlockBytes) == cut);
  REQUIRE(lab.findings().empty());
}

TEST_CASE("what old handles wrote behind the end of the second image does not show when it grows") {
  SmallPool lab;
  lab.create("v", 4 * kBlockBytes);
  ViewHandle old_handle = lab.view("v");
  preserve(lab, "v@a");
  ViewHandle second = lab.view("v");
  write(*old_handle, 5, 1);
  write(*old_handle, 9, 1);
  write(*second, 6, 2); // grows over block 5
  REQUIRE(shows(*second, 5, 0));
  { const ViewHandle one = std::move(old_handle); }
  { const ViewHandle two = std::move(second); }
  finish(lab);
  REQUIRE(lab.pool->resize("v", kMiB, false).has_value());
  REQUIRE(shows(*lab.view("v"), 9, 0));
  REQUIRE(shows(*lab.view("v@a"), 9, 1));
  REQUIRE(lab.findings().empty());
}

TEST_CASE("a power cut makes a draining image final, with what was confirmed; whichever call it comes at") {
  for (std::uint64_t nth = 0;; ++nth) {
    SmallPool lab(16 * kMiB, nth + 1);
    lab.create("v", 4 * kMiB);
    bool preserved = false;
    bool confirmed = false;
    {
      ViewHandle old_handle = lab.view("v");
      write(*old_handle, 0, 1);
      REQUIRE(old_handle->fsync().has_value());
      lab.env.kill_at(nth);
      preserved = lab.pool->preserve({"v", "a"}).has_value();
      const auto found = lab.pool->find({"v", {}});
      if (preserved && found) {
        auto second = lab.pool->open_view(found->id);
        if (second) {
          confirmed = (*second)->write(kBlockBytes, block_of(2)).has_value() &&
                      old_handle->write(2 * kBlockBytes, block_of(3)).has_value() &&
                      (*second)->fsync().has_value();
        }
      }
    }
    const bool killed = lab.env.killed();
    static_cast<void>(lab.pool->close());
    lab.pool.reset();
    lab.env.kill_at(std::nullopt);
    lab.env.power_cut(nth);
    lab.open();
    INFO("call " << nth);
    REQUIRE(lab.findings().empty());
    REQUIRE(shows(*lab.view("v"), 0, 1));
    if (preserved) {
      REQUIRE(info(lab, "v@a").state.empty());
      REQUIRE(shows(*lab.view("v@a"), 0, 1));
    }
    if (confirmed) {
      REQUIRE(shows(*lab.view("v"), 1, 2));
      REQUIRE(shows(*lab.view("v"), 2, 3));
      REQUIRE(shows(*lab.view("v@a"), 1, 0));
      REQUIRE(shows(*lab.view("v@a"), 2, 3));
    }
    if (!killed) break;
  }
}

TEST_CASE("a successor goes on with the old handles of a draining image") {
  SmallPool lab;
  lab.pool.reset();
  lab.open({.keep_tail = true});
  lab.create("v", 8 * kMiB);
  ObjectId first;
  {
    ViewHandle old_handle = lab.view("v");
    first = old_handle->id();
    write(*old_handle, 0, 1);
    preserve(lab, "v@a");
    ViewHandle second = lab.view("v");
    write(*second, 1, 2);
    write(*old_handle, 2, 1);
    lab.env.kill();
  }
  lab.pool.reset();
  lab.open({.keep_tail = true, .takes_over = true, .still_open = {first}});
  REQUIRE(info(lab, "v@a").state == "draining");
  auto old_handle = lab.pool->open_view(first);
  REQUIRE(old_handle.has_value());
  REQUIRE((*old_handle)->writable());
  ViewHandle second = lab.view("v");
  REQUIRE(shows(*second, 1, 2));
  REQUIRE(shows(*second, 2, 1));
  write(**old_handle, 3, 1);
  REQUIRE(shows(*second, 3, 1));
  REQUIRE_FALSE(lab.view("v@a")->writable()); // one that is opened now is a later one
  REQUIRE(lab.findings().empty());
}

// Every value that the second image showed was there at some moment: so a counter that the first image counts
// up never seems to go back, and what the second writes stays.
TEST_CASE("threads on both images at once: no block goes back") {
  SmallPool lab(64 * kMiB);
  lab.create("v", 8 * kMiB);
  constexpr std::uint64_t kBlocks = 64;
  const std::uint64_t seed = test_seed();
  INFO("seed " << seed);
  for (int round = 0; round < 20; ++round) {
    ViewHandle old_handle = lab.view("v");
    for (std::uint64_t block = 0; block < kBlocks; ++block) write(*old_handle, block, 0);
    preserve(lab, "v@" + std::to_string(round));
    ViewHandle second = lab.view("v");
    std::atomic<bool> stop{false};
    std::atomic<std::uint64_t> wrong{0};
    std::thread writer([&] { // the first image: bytes 0 to 511 of a block count up
      for (std::uint8_t count = 1; count < 250; ++count) {
        for (std::uint64_t block = 0; block < kBlocks; ++block)
          if (!old_handle->write(block * kBlockBytes, block_of(count, 512))) ++wrong;
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
      stop = true;
    });
    std::thread second_writer([&] { // the second: other bytes, so that each block is copied up once
      std::mt19937_64 random(seed + static_cast<std::uint64_t>(round));
      for (std::uint64_t i = 0; i < kBlocks; ++i) {
        const std::uint64_t block = random() % kBlocks;
        if (!second->write(block * kBlockBytes + 1024, block_of(200, 512))) ++wrong;
        std::this_thread::sleep_for(std::chrono::microseconds(100));
      }
    });
    std::vector<std::uint8_t> seen(kBlocks, 0);
    while (!stop) {
      for (std::uint64_t block = 0; block < kBlocks; ++block) {
        std::vector<std::byte> out(1);
        if (!second->read(block * kBlockBytes, out)) ++wrong;
        const auto value = std::to_integer<std::uint8_t>(out[0]);
        if (value < seen[block]) ++wrong;
        seen[block] = value;
      }
    }
    writer.join();
    second_writer.join();
    REQUIRE(wrong == 0);
  }
}
