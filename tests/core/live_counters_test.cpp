// What vsnap top reads: slots come and go, and names follow.
#include "core/live_counters.h"

#include <sys/wait.h>
#include <unistd.h>
#include <csignal>

#include "core/log.h"
#include "tests/core/refusal.h"
#include "tests/support/memory_env.h"

using namespace vsnap;

namespace {

std::string own_uuid() { return "test-" + std::to_string(::getpid()); }

} // namespace

TEST_CASE("a reader sees the counters of the views that are open") {
  const auto writer = LiveCounters::create(Env::real(), own_uuid());
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
  const auto writer = LiveCounters::create(Env::real(), own_uuid());
  REQUIRE(writer.has_value());
  (*writer)->take(ObjectId(7), "a long name of the first")->reads += 3;
  const auto again = (*writer)->take(ObjectId(9), "b");
  const auto samples = (*writer)->read();
  REQUIRE(samples.size() == 1);
  CHECK(samples[0].name == "b");
  CHECK(samples[0].reads == 0);
}

TEST_CASE("without a daemon there is nothing to read") {
  { REQUIRE(LiveCounters::create(Env::real(), own_uuid()).has_value()); }
  CHECK(refusal(LiveCounters::open(own_uuid())).kind == ErrorKind::not_found);
}

TEST_CASE("counters of daemons that were killed are removed, and those of one that lives stay") {
  log::set_level(log::Level::off);
  MemoryEnv env;
  const auto killed = LiveCounters::create(env, "a");
  const auto forgotten = LiveCounters::create(env, "b");
  REQUIRE((killed.has_value() && forgotten.has_value()));
  env.kill();
  const auto alive = LiveCounters::create(env, "c");
  REQUIRE(env.shared_memory_names("vsnap-live-").size() == 3);
  LiveCounters::remove_dead(env);
  CHECK(env.shared_memory_names("vsnap-live-") == std::vector<std::string>{"vsnap-live-c"});
}

TEST_CASE("counters in another layout are left alone, as their daemon may not hold them") {
  MemoryEnv env;
  { REQUIRE(env.make_shared_memory("vsnap-live-old", 1 << 20).has_value()); }
  { REQUIRE(env.make_shared_memory("vsnap-live-small", 4096).has_value()); }
  LiveCounters::remove_dead(env);
  CHECK(env.shared_memory_names("vsnap-live-").size() == 2);
}

TEST_CASE("the counters of a daemon that still lives are not taken from it") {
  MemoryEnv env;
  const auto first = LiveCounters::create(env, "a");
  REQUIRE(first.has_value());
  CHECK(refusal(LiveCounters::create(env, "a")).kind == ErrorKind::busy);
  CHECK(env.shared_memory_names("vsnap-live-").size() == 1);
}

TEST_CASE("who was taken for dead does not remove the counters of its successor") {
  MemoryEnv env;
  auto first = LiveCounters::create(env, "a");
  REQUIRE(first.has_value());
  env.kill();
  const auto second = LiveCounters::create(env, "a");
  REQUIRE(second.has_value());
  first->reset();
  CHECK(env.shared_memory_names("vsnap-live-").size() == 1);
}

TEST_CASE("of real processes, counters are removed once theirs has ended, and not before") {
  log::set_level(log::Level::off);
  int told[2];
  REQUIRE(::pipe(told) == 0);
  const std::string uuid = own_uuid();
  const pid_t child = ::fork();
  if (child == 0) {
    const auto counters = LiveCounters::create(Env::real(), uuid);
    static_cast<void>(::write(told[1], "x", 1) == 1);
    ::pause();
    ::_exit(0);
  }
  char byte = 0;
  REQUIRE(::read(told[0], &byte, 1) == 1);
  LiveCounters::remove_dead(Env::real());
  CHECK(LiveCounters::open(uuid).has_value());
  REQUIRE(::kill(child, SIGKILL) == 0);
  REQUIRE(::waitpid(child, nullptr, 0) == child);
  CHECK(LiveCounters::open(uuid).has_value());
  LiveCounters::remove_dead(Env::real());
  CHECK(refusal(LiveCounters::open(uuid)).kind == ErrorKind::not_found);
  ::close(told[0]);
  ::close(told[1]);
}
