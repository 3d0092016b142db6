// What a host keeps of pools that others coordinate; lengths of time; members that are found.
#include "cli/shared_pool.h"

#include <filesystem>
#include <fstream>

#include "cli/duration.h"
#include "cli/member_search.h"
#include "core/pool.h"
#include "tests/core/refusal.h"
#include "tests/support/catch.h"
#include "tests/sync/scratch_dir.h"

namespace vsnap::cli {
namespace {

struct Fixture {
  test::ScratchDir dir;
  test::ScopedVariable state{"VSNAP_STATE_DIR", dir / "state"};
  SharedPool lab{"lab",  Uuid{0xc8, 0xa1, 3}, "tcp://10.0.0.1:7800", HostKey{7, 8, 9},
                 "beta", {"/dev/b", "/dev/a"}};
};

TEST_CASE_METHOD(Fixture, "a pool that was joined is found as it was saved, and forgotten") {
  CHECK(shared_pool_find("lab").value() == std::nullopt);
  CHECK(check_not_guest("lab").has_value());
  REQUIRE(shared_pool_save(lab));
  CHECK(shared_pool_find("lab").value() == lab);
  CHECK(refusal(check_not_guest("lab")).kind == ErrorKind::busy);
  lab.members.clear();
  REQUIRE(shared_pool_save(lab)); // in place of the first
  CHECK(shared_pool_find("lab").value() == lab);
  REQUIRE(shared_pool_remove("lab"));
  CHECK(shared_pool_find("lab").value() == std::nullopt);
  CHECK(shared_pool_find("../lab").error().kind == ErrorKind::usage);
}

TEST_CASE_METHOD(Fixture, "an entry that cannot be read is damaged, never no entry") {
  REQUIRE(shared_pool_save(lab));
  const std::string path = dir / "state/shared/lab.json";
  std::ifstream in(path);
  const std::string good((std::istreambuf_iterator<char>(in)), {});
  for (const std::string& bad :
       {std::string(), good.substr(0, good.size() / 2), std::string("[]"),
        good.substr(0, good.find("c8a1")) + "zz" + good.substr(good.find("c8a1") + 2)}) {
    std::ofstream(path) << bad;
    CHECK(refusal(shared_pool_find("lab")).kind == ErrorKind::damaged);
    CHECK_FALSE(check_not_guest("lab").has_value());
  }
}

TEST_CASE_METHOD(Fixture, "the key of the host lies in the state directory") {
  const auto key = host_key();
  REQUIRE(key.has_value());
  CHECK(std::filesystem::exists(dir / "state/host.key"));
  CHECK(host_key().value().public_key == key->public_key);
}

TEST_CASE_METHOD(Fixture, "members that are named must be those of the pool, each once") {
  Env& env = Env::real();
  const std::string a = dir / "a.img", b = dir / "b.img", other = dir / "o.img", none = dir / "n.img";
  REQUIRE(Pool::create(env, {.name = "lab", .members = {{a, 64U << 20}, {b, 64U << 20}}}));
  REQUIRE(Pool::create(env, {.name = "two", .members = {{other, 64U << 20}}}));
  std::ofstream(none) << std::string(1U << 20, 'x');
  const Uuid uuid = Pool::identify(env, a)->pool_uuid;
  CHECK(check_members(env, uuid, {b, a}).value() == std::vector<std::string>{a, b}); // in their order
  CHECK(says(refusal(check_members(env, uuid, {a, other})), "a member of pool two"));
  CHECK(says(refusal(check_members(env, uuid, {none})), "not a member of a pool"));
  CHECK(refusal(check_members(env, uuid, {a, a})).kind == ErrorKind::usage);
  CHECK_FALSE(check_members(env, uuid, {dir / "missing"}).has_value());
  CHECK(find_members(env, Uuid{1}).empty());
}

TEST_CASE("lengths of time are read as people write them") {
  CHECK(parse_duration("500ms").value() == 500'000'000);
  CHECK(parse_duration("90").value() == 90'000'000'000);
  CHECK(parse_duration("90s").value() == 90'000'000'000);
  CHECK(parse_duration("10m").value() == 600'000'000'000);
  CHECK(parse_duration("1.5h").value() == 5'400'000'000'000);
  CHECK(parse_duration("2d").value() == 172'800'000'000'000);
  for (const char* bad :
       {"", "0", "-5s", "5x", "s", "1e3s", "nan", "inf", "1h30m", " 5s", "5 s", "1000000d"}) {
    INFO(bad);
    CHECK(refusal(parse_duration(bad)).kind == ErrorKind::usage);
  }
}

TEST_CASE("lengths of time are shown in two or three figures") {
  CHECK(format_duration(0) == "0.0s");
  CHECK(format_duration(9'870'000'000) == "9.8s");
  CHECK(format_duration(42'900'000'000) == "42s");
  CHECK(format_duration(59LL * 60'000'000'000) == "59m");
  CHECK(format_duration(23LL * 3600'000'000'000) == "23h");
  CHECK(format_duration(6LL * 86'400'000'000'000) == "6d");
}

} // namespace
} // namespace vsnap::cli
