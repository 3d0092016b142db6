// Full-sized snapshots: whatever happens while they are copied, they show what they preserved, and nothing of
// it is lost or belongs to two.
#include <random>

#include "tests/core/refusal.h"
#include "tests/core/seed.h"
#include "tests/core/small_pool.h"

using namespace vsnap;

namespace {

constexpr std::uint64_t kRegionBytes = kRegionBlocks * kBlockBytes;

// v, with a block in every MiB of two regions and 2 MiB next to each other, preserved as v@f; then
// overwritten.
class Full : public SmallPool {
 public:
  static constexpr std::uint64_t kSize = 2 * kRegionBytes;
  explicit Full(std::uint64_t seed = 1, std::uint64_t pool_bytes = 48 * kMiB) : SmallPool(pool_bytes, seed) {
    create("v", kSize);
    ViewHandle v = view("v");
    for (std::uint64_t at = 0; at < kSize; at += kMiB) REQUIRE(v->write(at, block_of(stamp(at))).has_value());
    REQUIRE(v->write(kRegionBytes, block_of(200, 2 * kMiB)).has_value());
    REQUIRE(v->reserve(kRegionBytes + 5 * kMiB + kBlockBytes, kBlockBytes, false).has_value());
  }
  static std::uint8_t stamp(std::uint64_t at) { return static_cast<std::uint8_t>(1 + at / kMiB); }
  static ViewName name(const std::string& text) { return *parse_view_name(text); }
  Result<> full(const std::string& text = "v@f", Pool::FullSnapshotOptions options = {}) {
    return pool->snapshot_full(name(text), options);
  }
  // Up to so many pieces; whether the copy is complete then.
  bool copy(int pieces, const std::string& text = "v@f") {
    int left = pieces;
    const auto done =
        pool->wait_for_copy(name(text), [&](std::uint64_t, std::uint64_t) { return --left >= 0; });
    if (!done) REQUIRE(done.error().errno_value == ECANCELED);
    return done.has_value();
  }
  void finish(const std::string& text = "v@f") {
    const auto done = pool->wait_for_copy(name(text), {});
    INFO((done ? "" : done.error().message));
    REQUIRE(done.has_value());
  }
  void overwrite() {
    ViewHandle v = view("v");
    for (std::uint64_t at = 0; at < kSize; at += kMiB) REQUIRE(v->write(at, block_of(250)).has_value());
  }
  void check_content(const std::string& text) {
    ViewHandle f = view(text);
    for (std::uint64_t at = 0; at < kSize; at += kMiB) {
      CAPTURE(at);
      const bool in_run = at >= kRegionBytes && at < kRegionBytes + 2 * kMiB;
      REQUIRE(read_from(*f, at) == block_of(in_run ? 200 : stamp(at)));
      REQUIRE(read_from(*f, at + kBlockBytes) == block_of(in_run ? 200 : 0));
    }
  }
  ViewInfo info(const std::string& text) {
    const auto found = pool->find(name(text));
    REQUIRE(found.has_value());
    return *found;
  }
  // Nothing is lost to all: with the last volume every block of data goes.
  void check_nothing_is_left() {
    for (const ViewInfo& view : pool->list()) {
      if (view.kind == ViewKind::volume) REQUIRE(remove(view.name.volume, {.recursive = true}).has_value());
    }
    REQUIRE(pool->wait_for_removals({}).has_value());
    REQUIRE(pool->space().data_bytes == 0);
    REQUIRE(findings().empty());
  }
};

} // namespace

TEST_CASE("a full-sized snapshot can be read at once, and is copied piece by piece") {
  Full lab;
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
  Full lab;
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
  Full lab;
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
  CHECK(read_from(*w, kMiB) == block_of(Full::stamp(kMiB)));
  w = ViewHandle();
  lab.check_nothing_is_left();
}
