// An operation that is asked for again is known, if and only if it was carried out.
#include "core/request_note.h"

#include <functional>

#include "core/log.h"
#include "tests/core/small_pool.h"

using namespace vsnap;

namespace {

constexpr auto kCommand = RequestId::Source::command;
constexpr auto kFile = RequestId::Source::file;

std::optional<ObjectId> carried_out(SmallPool& lab, RequestId request) {
  const auto found = lab.pool->carried_out(request);
  REQUIRE(found.has_value());
  return *found;
}

bool exists(SmallPool& lab, const std::string& name) {
  return lab.pool->find(*parse_view_name(name)).has_value();
}

struct Operation {
  std::string name;
  std::function<bool(SmallPool&)> ask;
  std::function<bool(SmallPool&)> is_done;
};

const std::vector<Operation>& operations() {
  static const std::vector<Operation> all = {
      {"create", [](SmallPool& lab) { return lab.pool->create_volume("w", kMiB).has_value(); },
       [](SmallPool& lab) { return exists(lab, "w"); }},
      {"snapshot", [](SmallPool& lab) { return lab.snapshot("v@t").has_value(); },
       [](SmallPool& lab) { return exists(lab, "v@t"); }},
      {"clone",
       [](SmallPool& lab) {
         return lab.pool->clone({"v", "s"}, "w").has_value();
       },
       [](SmallPool& lab) { return exists(lab, "w"); }},
      {"rename",
       [](SmallPool& lab) {
         return lab.pool->rename({"v", {}}, "w").has_value();
       },
       [](SmallPool& lab) { return exists(lab, "w"); }},
      {"rename over another",
       [](SmallPool& lab) {
         return lab.pool->rename({"v", {}}, "x", true).has_value();
       },
       [](SmallPool& lab) { return !exists(lab, "v"); }},
      {"rollback",
       [](SmallPool& lab) {
         return lab.pool->rollback({"v", "s"}, false, false).has_value();
       },
       [](SmallPool& lab) { return exists(lab, "v@before-rollback-1"); }},
      {"remove", [](SmallPool& lab) { return lab.remove("v@s").has_value(); },
       [](SmallPool& lab) { return !exists(lab, "v@s"); }},
  };
  return all;
}

} // namespace

TEST_CASE("a request is noted if and only if it was carried out, killed at whichever call") {
  log::set_level(log::Level::off);
  for (const Operation& operation : operations()) {
    for (std::uint64_t nth = 1;; ++nth) {
      CAPTURE(operation.name, nth);
      SmallPool lab;
      lab.create("v", kMiB);
      lab.create("x", kMiB);
      REQUIRE(lab.view("v")->write(0, block_of(1)).has_value());
      REQUIRE(lab.snapshot("v@s").has_value());
      lab.env.kill_at(nth);
      bool answered = false;
      {
        const AskedBy asked({kCommand, 4711});
        answered = operation.ask(lab);
      }
      const bool killed = lab.env.killed();
      if (!killed) lab.env.kill();
      lab.pool.reset();
      lab.env.kill_at(std::nullopt);
      lab.open();
      const bool done = operation.is_done(lab);
      CHECK(carried_out(lab, {kCommand, 4711}).has_value() == done);
      CHECK_FALSE(carried_out(lab, {kCommand, 4712}));
      CHECK_FALSE(carried_out(lab, {kFile, 4711}));
      if (answered) CHECK(done);
      if (!killed) break;
    }
  }
}

TEST_CASE("what is refused is not noted, nor what nobody is to ask for again") {
  SmallPool lab;
  {
    const AskedBy asked({kCommand, 1});
    CHECK_FALSE(lab.snapshot("v@s").has_value());
  }
  lab.create("v", kMiB);
  CHECK_FALSE(carried_out(lab, {kCommand, 1}));
}

TEST_CASE("of a file request the object that it made is known") {
  SmallPool lab;
  ObjectId made{};
  {
    const AskedBy asked({kFile, 12});
    made = lab.pool->create_volume("v", 0)->id;
  }
  lab.create("later", 0);
  lab.reopen();
  CHECK(carried_out(lab, {kFile, 12}) == made);
  const AskedBy asked({kFile, 14});
  CHECK(lab.remove("later").has_value());
  CHECK(carried_out(lab, {kFile, 14}));
  CHECK_FALSE(carried_out(lab, {kFile, 12})); // it was answered
}

TEST_CASE("of commands as many are noted as can wait for their answer") {
  SmallPool lab;
  constexpr std::uint64_t kMore = 10;
  for (std::uint64_t i = 1; i <= request_note::kKeptCommands + kMore; ++i) {
    const AskedBy asked({kCommand, i});
    REQUIRE(lab.pool->create_volume("v", 0).has_value());
    REQUIRE(lab.remove("v").has_value()); // of the same request: it takes no other's place
  }
  CHECK_FALSE(carried_out(lab, {kCommand, kMore}));
  CHECK(carried_out(lab, {kCommand, kMore + 1}));
  CHECK(carried_out(lab, {kCommand, request_note::kKeptCommands + kMore}));
}
