// Flatten and diff: what may happen beside them, and what a flatten leaves that does not come to its end.
#include <chrono>
#include <future>
#include <thread>

#include "tests/core/refusal.h"
#include "tests/core/small_pool.h"

using namespace vsnap;

namespace {

constexpr std::uint64_t kRegionBytes = kRegionBlocks * kBlockBytes;

// v@s and its clone c, with a block in each of two regions: progress is told after each.
class Cloned : public SmallPool {
 public:
  Cloned() {
    create("v", 2 * kRegionBytes);
    ViewHandle v = view("v");
    REQUIRE(v->write(0, block_of(1)).has_value());
    REQUIRE(v->write(kRegionBytes, block_of(2)).has_value());
    REQUIRE(snapshot("v@s").has_value());
    REQUIRE(pool->clone({"v", "s"}, "c").has_value());
  }
  // Flattens, and calls `body` once when the first region is done.
  template <class Body>
  Result<> flatten_with(const std::string& name, Body body) {
    bool called = false;
    auto done = pool->flatten(name, [&](std::uint64_t, std::uint64_t) {
      if (!called) body();
      called = true;
      return true;
    });
    REQUIRE(called);
    return done;
  }
};

} // namespace

TEST_CASE("a volume that is being flattened is neither removed nor rolled back") {
  Cloned lab;
  REQUIRE(lab.snapshot("c@t").has_value());
  const auto flattened = lab.flatten_with("c", [&] {
    for (const bool even_if_open : {false, true}) {
      const Error error = refusal(lab.remove("c", {.recursive = true, .even_if_open = even_if_open}));
      CHECK(error.kind == ErrorKind::busy);
      CHECK(says(error, "being flattened"));
    }
    for (const bool discard : {false, true}) {
      const Error error = refusal(lab.pool->rollback({"c", "t"}, discard, false));
      CHECK(error.kind == ErrorKind::busy);
      CHECK(says(error, "being flattened"));
    }
  });
  REQUIRE(flattened.has_value());
  REQUIRE(lab.remove("v", {.recursive = true}).has_value());
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  for (const char* name : {"c", "c@t"}) {
    REQUIRE(read_from(*lab.view(name), 0) == block_of(1));
    REQUIRE(read_from(*lab.view(name), kRegionBytes) == block_of(2));
  }
  REQUIRE(lab.findings().empty());
  REQUIRE(lab.remove("c", {.recursive = true}).has_value());
}

TEST_CASE("nothing is renamed over a volume that is being flattened") {
  Cloned lab;
  lab.create("w", kMiB);
  const auto flattened = lab.flatten_with("c", [&] {
    const Error error = refusal(lab.pool->rename({"w", {}}, "c", true));
    CHECK(error.kind == ErrorKind::busy);
    CHECK(says(error, "being flattened"));
  });
  REQUIRE(flattened.has_value());
  REQUIRE(lab.findings().empty());
}

TEST_CASE("snapshots of a volume that is being flattened come and go") {
  Cloned lab;
  REQUIRE(lab.snapshot("c@old").has_value());
  const auto flattened = lab.flatten_with("c", [&] {
    REQUIRE(lab.remove("c@old").has_value());
    REQUIRE(lab.snapshot("c@new").has_value());
    REQUIRE(lab.view("c")->write(0, block_of(3)).has_value());
  });
  REQUIRE(flattened.has_value());
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  REQUIRE(read_from(*lab.view("c@new"), 0) == block_of(1));
  REQUIRE(read_from(*lab.view("c"), 0) == block_of(3));
  REQUIRE(lab.findings().empty());
}

TEST_CASE("of two volumes of which one starts from the other only one is flattened at a time") {
  Cloned lab;
  REQUIRE(lab.snapshot("c@s").has_value());
  REQUIRE(lab.pool->clone({"c", "s"}, "d").has_value());
  REQUIRE(lab.pool->clone({"v", "s"}, "sister").has_value());
  for (const auto& [first, second] : {std::pair("c", "d"), std::pair("d", "c")}) {
    INFO(first << ", then " << second);
    const auto given_up = lab.pool->flatten(first, [&, second = second](std::uint64_t, std::uint64_t) {
      const Error error = refusal(lab.pool->flatten(second, {}));
      CHECK(error.kind == ErrorKind::busy);
      CHECK(says(error, "being flattened"));
      return false;
    });
    REQUIRE(refusal(given_up).errno_value == ECANCELED);
  }
  REQUIRE(lab.flatten_with("c", [&] { REQUIRE(lab.pool->flatten("sister", {}).has_value()); }).has_value());
  REQUIRE(lab.pool->flatten("d", {}).has_value());
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  REQUIRE(lab.findings().empty());
}

TEST_CASE("copies that a crash left under newer data go with a sweep") {
  Cloned lab;
  const auto cut = lab.flatten_with("c", [&] {
    ViewHandle c = lab.view("c");
    REQUIRE(c->write(0, block_of(3)).has_value());
    REQUIRE(c->fsync().has_value());
    lab.env.power_cut(7);
  });
  REQUIRE_FALSE(cut.has_value());
  lab.pool.reset();
  lab.open();
  REQUIRE(lab.findings().empty());
  REQUIRE(read_from(*lab.view("c"), 0) == block_of(3));
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  REQUIRE(lab.findings().empty());
  REQUIRE(lab.pool->space().data_bytes == 3 * kBlockBytes);
  REQUIRE(lab.view("c")->discard(0, kBlockBytes).has_value());
  REQUIRE(read_from(*lab.view("c"), 0) == block_of(0));
}

TEST_CASE("the receiver of a diff may take its time: commits go on") {
  Cloned lab;
  ViewHandle v = lab.view("v");
  REQUIRE(v->write(0, block_of(5)).has_value());
  REQUIRE(v->write(4 * kBlockBytes, block_of(5)).has_value());
  bool committed = false;
  std::thread other;
  const auto listed = lab.pool->diff({"v", "s"}, {"v", {}}, [&](const DiffRange& range) {
    if (range.offset > 0) return true;
    std::promise<void> done;
    auto ended = done.get_future();
    other = std::thread([&v, done = std::move(done)]() mutable {
      // Frees a place, which is used anew only after everybody who could look at it has gone.
      static_cast<void>(v->write(kBlockBytes, block_of(6)));
      static_cast<void>(v->discard(kBlockBytes, kBlockBytes));
      static_cast<void>(v->fsync());
      done.set_value();
    });
    committed = ended.wait_for(std::chrono::seconds(10)) == std::future_status::ready;
    return true;
  });
  other.join();
  REQUIRE(listed.has_value());
  REQUIRE(committed);
}

TEST_CASE("a diff of views that share nothing is refused") {
  Cloned lab;
  lab.create("w", kMiB);
  const Error error = refusal(lab.pool->diff({"v", "s"}, {"w", {}}, [](const DiffRange&) { return true; }));
  CHECK(error.errno_value == EXDEV);
}
