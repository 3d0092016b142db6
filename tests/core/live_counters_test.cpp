// What vsnap top reads: slots come and go, and names follow.
#include "core/live_counters.h"

#include <unistd.h>

#include "tests/core/refusal.h"

using namespace vsnap;

namespace {

std::string own_uuid() { return "test-" + std::to_string(::getpid()); }

} // namespace

TEST_CASE("a reader sees the counters of the views that are open") {
  const auto writer = LiveCounters::create(own_uuid());
  REQUIRE(writer.has_value());
  auto a = (*writer)->take(ObjectId(7), "a");
  auto b = (*writer)->take(ObjectId(8), "b@s");
  a->reads += 3;
  b->written_bytes += 4096;
  const auto reader = LiveCounters::open(own_uuid());
  REQUIRE(reader.has_value());
  auto samples = (*reader)->read();
  REQUIRE(samples.size() == 2);
  CHECK(samples[0].name == "a");
  CHECK(samples[0].reads == 3);
  CHECK(samples[1].id == 8);
  CHECK(samples[1].written_bytes == 4096);
  (*writer)->rename(ObjectId(7), "c");
  b.reset();
  samples = (*reader)->read();
  REQUIRE(samples.size() == 1);
  CHECK(samples[0].name == "c");
}

TEST_CASE("a slot that is used anew starts from zero") {
  const auto writer = LiveCounters::create(own_uuid());
  REQUIRE(writer.has_value());
  (*writer)->take(ObjectId(7), "a long name of the first")->reads += 3;
  const auto again = (*writer)->take(ObjectId(9), "b");
  const auto samples = (*writer)->read();
  REQUIRE(samples.size() == 1);
  CHECK(samples[0].name == "b");
  CHECK(samples[0].reads == 0);
}

TEST_CASE("without a daemon there is nothing to read") {
  { REQUIRE(LiveCounters::create(own_uuid()).has_value()); }
  CHECK(refusal(LiveCounters::open(own_uuid())).kind == ErrorKind::not_found);
}
