// Full-sized snapshots: whatever happens while they are copied, they show what they preserved, and nothing of
// it is lost or belongs to two. Split and refresh.
#include <atomic>
#include <thread>

#include "tests/core/full_lab.h"
#include "tests/core/refusal.h"

using namespace vsnap;

TEST_CASE("a full-sized snapshot can be read at once, and is copied piece by piece") {
  FullLab lab;
  REQUIRE(lab.full().has_value());
  CHECK(lab.info("v@f").form == ViewForm::full);
  CHECK(lab.info("v@f").state == "copying 0 %");
  lab.overwrite();
  lab.check_content("v@f");
  const std::uint64_t before = lab.pool->space().data_bytes;
  REQUIRE_FALSE(lab.copy(2));
  CHECK(lab.info("v@f").state != "copying 0 %");
  CHECK(lab.info("v@f").state.starts_with("copying "));
  lab.check_content("v@f");
  REQUIRE(lab.findings().empty());
  lab.finish();
  CHECK(lab.info("v@f").state.empty());
  CHECK(lab.info("v@f").form == ViewForm::full);
  lab.check_content("v@f");
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  // What the volume no longer has itself was copied and then freed; the rest is there twice.
  CHECK(lab.pool->space().data_bytes > before);
  REQUIRE(lab.findings().empty());
  lab.reopen();
  CHECK(lab.info("v@f").form == ViewForm::full);
  lab.check_content("v@f");
  lab.check_nothing_is_left();
}

TEST_CASE("the base may go once a full-sized snapshot was split off") {
  FullLab lab;
  REQUIRE(lab.full().has_value());
  lab.finish();
  const auto split = lab.pool->split({"v", "f"}, "w");
  REQUIRE(split.has_value());
  CHECK(split->kind == ViewKind::volume);
  CHECK(split->form == ViewForm::thin);
  CHECK_FALSE(lab.pool->find({"v", "f"}).has_value());
  REQUIRE(lab.remove("v").has_value());
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  lab.check_content("w");
  REQUIRE(lab.view("w")->write(0, block_of(99)).has_value());
  REQUIRE(lab.findings().empty());
  lab.reopen();
  REQUIRE(read_from(*lab.view("w"), 0) == block_of(99));
  lab.check_nothing_is_left();
}

TEST_CASE(
    "a snapshot that is split off before its copy is complete goes on being copied, also without its base") {
  FullLab lab;
  REQUIRE(lab.full().has_value());
  REQUIRE_FALSE(lab.copy(1));
  REQUIRE(lab.pool->split({"v", "f"}, "w").has_value());
  CHECK(lab.info("w").state.starts_with("copying "));
  REQUIRE(lab.remove("v").has_value());
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  REQUIRE_FALSE(lab.copy(1, "w"));
  ViewHandle w = lab.view("w");
  REQUIRE(w->write(0, block_of(77)).has_value());
  REQUIRE(w->write(kRegionBytes + 30 * kMiB, block_of(78)).has_value()); // before it is copied
  REQUIRE(w->discard(kRegionBytes + 29 * kMiB, kBlockBytes).has_value());
  w = ViewHandle();
  lab.reopen();
  w = lab.view("w");
  lab.finish("w");
  CHECK(lab.info("w").state.empty());
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  REQUIRE(lab.findings().empty());
  CHECK(read_from(*w, 0) == block_of(77));
  CHECK(read_from(*w, kRegionBytes + 30 * kMiB) == block_of(78));
  CHECK(read_from(*w, kRegionBytes + 29 * kMiB) == block_of(0));
  CHECK(read_from(*w, kMiB) == block_of(FullLab::stamp(kMiB)));
  w = ViewHandle();
  lab.check_nothing_is_left();
}

TEST_CASE("a copy that is paused stays paused, also when the pool is opened again, and then goes on") {
  FullLab lab;
  REQUIRE(lab.full().has_value());
  REQUIRE_FALSE(lab.copy(2));
  REQUIRE(lab.pool->set_copy({"v", "f"}, {.paused = true, .bytes_per_second = 1000}).has_value());
  const std::string state = lab.info("v@f").state;
  CHECK(state.ends_with(" %, paused"));
  lab.reopen();
  CHECK(lab.info("v@f").state == state);
  CHECK(says(refusal(lab.pool->wait_for_copy({"v", "f"}, {})), "paused"));
  REQUIRE(lab.pool->set_copy({"v", "f"}, {.paused = false, .bytes_per_second = 0}).has_value());
  lab.finish();
  lab.check_content("v@f");
  CHECK(says(refusal(lab.pool->set_copy({"v", "f"}, {.paused = true})), "complete"));
  CHECK(says(refusal(lab.pool->set_copy({"v", {}}, {.paused = true})), "no full-sized snapshot"));
}

TEST_CASE("a copy without space says so, and goes on when there is some") {
  FullLab lab(1, 16 * kMiB);
  lab.create("w", 64 * kMiB);
  REQUIRE(lab.full().has_value());
  {
    ViewHandle w = lab.view("w");
    for (std::uint64_t at = 0; w->write(at, block_of(1, 64 << 10)).has_value(); at += 64 << 10) {
    }
    for (std::uint64_t at = 60 * kMiB; w->write(at, block_of(1)).has_value(); at += kBlockBytes) {
    }
  }
  const Error error = refusal(lab.pool->wait_for_copy({"v", "f"}, {}));
  CHECK(error.kind == ErrorKind::no_space);
  CHECK(lab.info("v@f").state.ends_with(" %, paused: no space"));
  lab.check_content("v@f");
  REQUIRE(lab.findings().empty());
  CHECK(refusal(lab.full("v@g")).kind == ErrorKind::no_space);
  REQUIRE(lab.remove("w").has_value());
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  lab.finish();
  lab.check_content("v@f");
  lab.check_nothing_is_left();
}

TEST_CASE("a source that cannot be read stops the copy, which says so and is never taken for whole") {
  FullLab lab;
  REQUIRE(lab.full().has_value());
  REQUIRE_FALSE(lab.copy(1));
  lab.env.fail_once(1);
  const Error error = refusal(lab.pool->wait_for_copy({"v", "f"}, {}));
  CHECK(error.kind == ErrorKind::failed);
  CHECK(lab.info("v@f").state.ends_with(" %, paused: read error"));
  lab.finish();
  lab.check_content("v@f");
  lab.check_nothing_is_left();
}

TEST_CASE("a copy lies on the members that were named, and is refused where they have no room") {
  FullLab lab;
  REQUIRE(lab.pool->add_member({"/b", 16 * kMiB}, false).has_value());
  REQUIRE(lab.pool->add_member({"/c", 4 * kMiB}, false).has_value());
  REQUIRE(lab.view("v")->write(40 * kMiB + kBlockBytes, block_of(5, 2 * kMiB)).has_value());
  lab.paths = {"/a", "/b", "/c"};
  CHECK(refusal(lab.full("v@f", {.members = {"2"}})).kind == ErrorKind::no_space);
  CHECK(refusal(lab.full("v@f", {.members = {"/nowhere"}})).kind == ErrorKind::usage);
  CHECK(refusal(lab.full("v@f", {.members = {"3"}})).kind == ErrorKind::usage);
  REQUIRE(lab.full("v@f", {.members = {"/b"}}).has_value());
  const auto free = [&](std::size_t member) { return lab.pool->status().members[member].free_bytes; };
  const std::uint64_t copied = lab.info("v@f").used_bytes;
  const std::uint64_t on_a = free(0);
  const std::uint64_t on_b = free(1);
  REQUIRE_FALSE(lab.copy(1));
  lab.reopen();
  lab.finish();
  CHECK(on_b - free(1) == copied);
  CHECK(free(0) == on_a);
  REQUIRE(lab.remove("v@f").has_value());
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  CHECK(free(1) == on_b);
  lab.check_nothing_is_left();
}

TEST_CASE("a snapshot that is removed while it is copied takes its copies with it") {
  FullLab lab;
  const std::uint64_t before = lab.pool->space().data_bytes;
  for (const bool reopened : {false, true}) {
    REQUIRE(lab.full().has_value());
    REQUIRE_FALSE(lab.copy(2));
    REQUIRE(lab.remove("v@f").has_value());
    if (reopened) lab.reopen();
    REQUIRE(lab.pool->wait_for_removals({}).has_value());
    REQUIRE(lab.pool->space().data_bytes == before);
    REQUIRE(lab.findings().empty());
  }
  CHECK(refusal(lab.pool->wait_for_copy({"v", "f"}, {})).kind == ErrorKind::not_found);
}

TEST_CASE("a clone keeps what it sees of a full-sized snapshot that is removed, copied or not") {
  for (const int pieces : {0, 2, 1000}) {
    CAPTURE(pieces);
    FullLab lab;
    REQUIRE(lab.full().has_value());
    REQUIRE(lab.pool->clone({"v", "f"}, "c").has_value());
    lab.copy(pieces);
    REQUIRE(lab.remove("v", {.recursive = true}).has_value());
    REQUIRE(lab.pool->wait_for_removals({}).has_value());
    lab.check_content("c");
    lab.reopen();
    REQUIRE(lab.pool->flatten("c", {}).has_value());
    lab.check_content("c");
    lab.check_nothing_is_left();
  }
}

TEST_CASE("what a full-sized snapshot preserves stays while its volume is rolled back beside the copying") {
  FullLab lab;
  REQUIRE(lab.snapshot("v@empty").has_value());
  REQUIRE(lab.full().has_value());
  REQUIRE_FALSE(lab.copy(1));
  lab.overwrite();
  REQUIRE(lab.pool->rollback({"v", "empty"}, true, false).has_value());
  REQUIRE(lab.remove("v@empty").has_value());
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  REQUIRE_FALSE(lab.copy(1));
  lab.reopen();
  lab.finish();
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  lab.check_content("v@f");
  REQUIRE(lab.findings().empty());
  REQUIRE(lab.pool->rollback({"v", "f"}, true, false).has_value());
  lab.check_content("v");
  lab.check_nothing_is_left();
}

TEST_CASE("only a full-sized snapshot is split off, and none that is open") {
  FullLab lab;
  REQUIRE(lab.snapshot("v@thin").has_value());
  const Error thin = refusal(lab.pool->split({"v", "thin"}, "w"));
  CHECK(thin.kind == ErrorKind::usage);
  CHECK(says(thin, "vsnap clone lab/v@thin w"));
  REQUIRE(lab.full().has_value());
  {
    const ViewHandle f = lab.view("v@f");
    CHECK(refusal(lab.pool->split({"v", "f"}, "w")).kind == ErrorKind::busy);
  }
  CHECK(refusal(lab.pool->split({"v", "f"}, "v")).errno_value == EEXIST);
  REQUIRE(lab.pool->split({"v", "f"}, "w").has_value());
  const Error flatten = refusal(lab.pool->flatten("w", {}));
  CHECK(flatten.kind == ErrorKind::busy);
  CHECK(says(flatten, "being copied"));
  lab.check_content("w");
  REQUIRE(lab.snapshot("w@s").has_value());
  CHECK(lab.info("w@s").form == ViewForm::thin);
  REQUIRE(lab.view("w")->write(0, block_of(9)).has_value());
  lab.finish("w");
  lab.check_content("w@s");
  CHECK(read_from(*lab.view("w"), 0) == block_of(9));
  lab.check_nothing_is_left();
}

TEST_CASE("a refreshed snapshot has another id, and the content of now; clones of the old one keep theirs") {
  FullLab lab;
  for (const bool is_full : {false, true}) {
    CAPTURE(is_full);
    if (is_full)
      REQUIRE(lab.full("v@s").has_value());
    else
      REQUIRE(lab.snapshot("v@s").has_value());
    REQUIRE(lab.pool->clone({"v", "s"}, "c").has_value());
    const auto old = read_from(*lab.view("v"), 0);
    REQUIRE(lab.view("v")->write(0, block_of(is_full ? 98 : 97)).has_value());
    {
      const ViewHandle s = lab.view("v@s");
      CHECK(refusal(lab.pool->refresh({"v", "s"})).kind == ErrorKind::busy);
    }
    if (is_full) REQUIRE_FALSE(lab.copy(1, "v@s"));
    const ObjectId before = lab.info("v@s").id;
    const auto fresh = lab.pool->refresh({"v", "s"});
    REQUIRE(fresh.has_value());
    CHECK(fresh->id != before);
    CHECK(fresh->form == (is_full ? ViewForm::full : ViewForm::thin));
    CHECK(read_from(*lab.view("v@s"), 0) == block_of(is_full ? 98 : 97));
    CHECK(read_from(*lab.view("c"), 0) == old);
    REQUIRE(lab.remove("c").has_value());
    lab.reopen();
    if (is_full) lab.finish("v@s");
    REQUIRE(lab.pool->wait_for_removals({}).has_value());
    REQUIRE(lab.findings().empty());
    CHECK(read_from(*lab.view("v@s"), 0) == block_of(is_full ? 98 : 97));
    REQUIRE(lab.remove("v@s").has_value());
  }
  CHECK(refusal(lab.pool->refresh({"v", "s"})).kind == ErrorKind::not_found);
  lab.check_nothing_is_left();
}

TEST_CASE("after a failed flush a full-sized snapshot never read before shows what it preserves") {
  FullLab lab;
  ViewHandle v = lab.view("v");
  REQUIRE(v->write(0, block_of(91)).has_value());
  REQUIRE(v->discard(kMiB, kBlockBytes).has_value());
  REQUIRE(lab.full().has_value());
  REQUIRE(v->write(0, block_of(2)).has_value());
  lab.env.fail_flush_once();
  REQUIRE_FALSE(v->fsync().has_value());
  ViewHandle f = lab.view("v@f");
  CHECK(read_from(*f, 0) == block_of(91));
  CHECK(read_from(*f, kMiB) == block_of(0));
  CHECK(read_from(*f, kRegionBytes) == block_of(200));
}

TEST_CASE("copies are made beside writes, snapshots and removals") {
  FullLab lab(1, 96 * kMiB);
  lab.pool.reset();
  lab.open({.background = true});
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    ViewHandle v = lab.view("v");
    for (std::uint64_t i = 0; !stop; ++i) {
      static_cast<void>(v->write(kMiB * (i % 64) + kBlockBytes * (2 + i % 7), block_of(3)));
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  for (int round = 0; round < 2; ++round) {
    REQUIRE(lab.full("v@f").has_value());
    REQUIRE(lab.full("v@g").has_value());
    REQUIRE(lab.snapshot("v@s").has_value());
    if (round % 2 == 0) REQUIRE(lab.pool->refresh({"v", "g"}).has_value());
    if (round % 2 == 1) REQUIRE(lab.remove("v@g").has_value());
    REQUIRE(lab.pool->split({"v", "f"}, "w").has_value());
    REQUIRE(lab.view("w")->write(kMiB + kBlockBytes, block_of(4)).has_value());
    const auto done = lab.pool->wait_for_copy({"w", {}}, {});
    INFO((done ? "" : done.error().message));
    if (!done) REQUIRE(done.error().errno_value == EINVAL); // it has ended already
    CHECK(read_from(*lab.view("w"), 0) == block_of(FullLab::stamp(0)));
    CHECK(read_from(*lab.view("w"), kMiB + kBlockBytes) == block_of(4));
    REQUIRE(lab.findings().empty());
    REQUIRE(lab.remove("w").has_value());
    REQUIRE(lab.remove("v@s").has_value());
    if (round % 2 == 0) REQUIRE(lab.remove("v@g").has_value());
  }
  stop = true;
  writer.join();
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  lab.check_nothing_is_left();
}
