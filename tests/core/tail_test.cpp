#include "core/tail.h"

#include "core/log.h"
#include "tests/support/catch.h"
#include "tests/support/memory_env.h"

using namespace vsnap;

namespace {

constexpr std::uint64_t kToken = 77;

struct Lab {
  Lab() { log::set_level(log::Level::off); }
  std::unique_ptr<Tail> make(std::uint64_t committed) {
    auto made = Tail::make(env, pool, kToken, committed, "/a");
    REQUIRE(made.has_value());
    return std::move(*made);
  }
  std::unique_ptr<Tail> find(std::uint64_t token = kToken, std::uint64_t applied = ~0ULL) {
    auto found = Tail::find(env, pool, token, applied);
    REQUIRE(found.has_value());
    return *found ? std::move(**found) : nullptr;
  }
  MemoryEnv env;
  Uuid pool = env.random_uuid();
};

LogRecord note() { return {}; }

} // namespace

TEST_CASE("what was appended before a kill is found, and nothing that was appended after it") {
  Lab lab;
  auto tail = lab.make(10);
  ChangeLog log(10, 1000, 1000);
  log.move_to(tail->slots(), tail->last(), tail->committed());
  for (int i = 0; i < 5; ++i) log.append(note(), false);
  lab.env.kill();
  log.append(note(), false);
  const auto found = lab.find();
  REQUIRE(found);
  const auto records = found->records(12);
  REQUIRE(records.size() == 3);
  REQUIRE(records.front().sequence == 13);
  REQUIRE(records.back().sequence == 15);
  REQUIRE(found->records(15).empty());
}

TEST_CASE("the ring goes round without losing what is not committed") {
  Lab lab;
  auto tail = lab.make(0);
  ChangeLog log(0, ChangeLog::kMaxLimit, 1000);
  log.move_to(tail->slots(), tail->last(), tail->committed());
  for (std::uint64_t lap = 0; lap < 5; ++lap) {
    for (int i = 0; i < 200'000; ++i) log.append(note(), false);
    log.draw_line();
    log.set_committed(log.line() - 100);
  }
  lab.env.kill();
  const auto records = lab.find()->records(log.committed());
  REQUIRE(records.size() == 100);
  REQUIRE(records.back().sequence == 1'000'000);
}

TEST_CASE("a tail counts for one token, one pool and one boot") {
  Lab lab;
  auto tail = lab.make(0);
  lab.env.kill();
  REQUIRE(lab.find());
  REQUIRE_FALSE(lab.find(kToken + 1));
  REQUIRE_FALSE(lab.find(0));
  const auto other = Tail::find(lab.env, lab.env.random_uuid(), kToken, 0);
  REQUIRE(other.has_value());
  REQUIRE_FALSE(other->has_value());
  lab.env.new_boot();
  REQUIRE_FALSE(lab.find());
}

TEST_CASE("nothing is made of a tail that is damaged but what comes before the damage") {
  Lab lab;
  auto tail = lab.make(0);
  ChangeLog log(0, 1000, 1000);
  log.move_to(tail->slots(), tail->last(), tail->committed());
  for (int i = 0; i < 9; ++i) log.append(note(), false);
  tail->slots()[5].sequence = 6;
  REQUIRE(tail->records(0).size() == 4);
  tail->slots()[5].sequence = 5;
  tail->slots()[3].zero = 1;
  REQUIRE(tail->records(0).size() == 2);
  tail->last() = 5'000'000;
  REQUIRE(tail->records(0).empty());
}

TEST_CASE("dead tails are removed: of before a start of the machine, and of pools that are gone") {
  Lab lab;
  const auto names = [&] { return lab.env.shared_memory_names("vsnap-tail-").size(); };
  Tail::Seen seen = Tail::Seen::other;
  const auto look = [&](const std::string& member, const Uuid& pool) {
    REQUIRE(member == "/a");
    REQUIRE(pool == lab.pool);
    return seen;
  };
  auto tail = lab.make(0);
  tail->last() = 5; // which its pool does not have
  Tail::remove_dead(lab.env, look);
  REQUIRE(names() == 1); // it is held
  lab.env.kill();
  for (const Tail::Seen there : {Tail::Seen::member, Tail::Seen::nothing}) {
    seen = there;
    Tail::remove_dead(lab.env, look);
    REQUIRE(names() == 1);
  }
  seen = Tail::Seen::other;
  Tail::remove_dead(lab.env, look);
  REQUIRE(names() == 0);

  seen = Tail::Seen::member;
  tail = lab.make(5); // nothing in it that the pool does not have; but a successor looks for it
  lab.env.kill();
  Tail::remove_dead(lab.env, look);
  REQUIRE(names() == 1);
  seen = Tail::Seen::nothing;
  Tail::remove_dead(lab.env, look);
  REQUIRE(names() == 0);
  seen = Tail::Seen::member;

  tail = lab.make(0);
  tail->last() = 5;
  lab.env.kill();
  lab.env.new_boot();
  Tail::remove_dead(lab.env, look);
  REQUIRE(names() == 0);
}

TEST_CASE("a tail counts for no older copy of its pool, and is not taken from a daemon that has it") {
  Lab lab;
  auto tail = lab.make(10);
  ChangeLog log(10, 1000, 1000);
  log.move_to(tail->slots(), tail->last(), tail->committed());
  for (int i = 0; i < 5; ++i) log.append(note(), false);
  log.draw_line();
  log.set_committed(13);
  REQUIRE_FALSE(lab.find()); // the daemon lives
  REQUIRE_FALSE(Tail::remove(lab.env, lab.pool));
  lab.env.kill();
  REQUIRE_FALSE(lab.find(kToken, 12));
  REQUIRE(lab.find(kToken, 13)->records(13).size() == 2);
  REQUIRE(Tail::remove(lab.env, lab.pool));
  REQUIRE_FALSE(lab.find());
}
