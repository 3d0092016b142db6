// The list of pools known here.
#include <unistd.h>
#include <filesystem>
#include <fstream>

#include "cli/registry.h"
#include "core/pool.h"
#include "tests/support/catch.h"
#include "tests/sync/scratch_dir.h"

namespace vsnap::cli {
namespace {

struct Fixture {
  test::ScratchDir dir;
  test::ScopedVariable state{"VSNAP_STATE_DIR", dir / "state"};
};

TEST_CASE_METHOD(Fixture, "an entry is found as it was saved") {
  REQUIRE(registry_save({"lab", "some-uuid", {"/a", "/b c"}}, true));
  const auto entry = registry_find("lab");
  REQUIRE(entry);
  CHECK(entry->uuid == "some-uuid");
  CHECK(entry->members == std::vector<std::string>{"/a", "/b c"});
}

TEST_CASE_METHOD(Fixture, "entries are listed by name; nothing at all is an empty list") {
  CHECK(registry_list()->empty());
  REQUIRE(registry_save({"b", "u", {"/b"}}, true));
  REQUIRE(registry_save({"a", "u", {"/a"}}, true));
  std::ofstream(dir / "state/pools/a.json.77.new") << "left behind";
  CHECK(*registry_list() == std::vector<std::string>{"a", "b"});
}

TEST_CASE_METHOD(Fixture, "a name that is taken is not taken again, but can be written anew") {
  REQUIRE(registry_save({"lab", "1", {"/a"}}, true));
  const auto again = registry_save({"lab", "2", {"/b"}}, true);
  REQUIRE_FALSE(again);
  CHECK(again.error().errno_value == EEXIST);
  CHECK(registry_find("lab")->uuid == "1");
  REQUIRE(registry_save({"lab", "2", {"/b"}}, false));
  CHECK(registry_find("lab")->uuid == "2");
}

TEST_CASE_METHOD(Fixture, "a pool that is not known is not_found, with the nearest name") {
  CHECK(registry_find("lab").error().kind == ErrorKind::not_found);
  REQUIRE(registry_save({"backup", "u", {"/a"}}, true));
  CHECK(registry_find("bakcup").error().message.find("did you mean backup?") != std::string::npos);
  CHECK(registry_remove("lab").error().kind == ErrorKind::not_found);
}

TEST_CASE_METHOD(Fixture, "a path that was being added is a member where the pool has taken it") {
  const auto make = [this](const std::string& name, std::vector<MemberSpec> members) {
    CreatePoolOptions options;
    options.name = name;
    options.members = std::move(members);
    REQUIRE(Pool::create(Env::real(), options));
    return to_string(Pool::identify(Env::real(), options.members.front().path)->pool_uuid);
  };
  const std::string first = dir / "0.img";
  const std::string second = dir / "1.img";
  const std::string uuid = make("lab", {{first, 64U << 20}, {second, 64U << 20}});
  make("other", {{dir / "2.img", 64U << 20}, {dir / "3.img", 64U << 20}});
  const auto members_with = [&](const std::string& adding) {
    REQUIRE(registry_save({"lab", uuid, {first}, adding}, false));
    const auto entry = registry_find("lab");
    REQUIRE(entry);
    CHECK(entry->adding.empty());
    return entry->members;
  };
  CHECK(members_with(second) == std::vector{first, second});
  for (const std::string& other : {first, dir / "3.img", dir / "none"}) {
    CHECK(members_with(other) == std::vector{first});
  }
}

TEST_CASE_METHOD(Fixture, "a removed entry is gone") {
  REQUIRE(registry_save({"lab", "u", {"/a"}}, true));
  REQUIRE(registry_remove("lab"));
  CHECK_FALSE(registry_find("lab"));
}

TEST_CASE_METHOD(Fixture, "a name cannot lead out of the directory") {
  for (const char* name : {"../lab", "a/b", "", ".lab", "-n"}) {
    CHECK(registry_find(name).error().kind == ErrorKind::usage);
    CHECK(registry_save({name, "u", {"/a"}}, false).error().kind == ErrorKind::usage);
  }
}

TEST_CASE_METHOD(Fixture, "an entry that cannot be read says how to make it anew, cut at any byte") {
  REQUIRE(registry_save({"lab", "u", {"/a"}}, true));
  std::ifstream in(dir / "state/pools/lab.json");
  const std::string whole((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  for (std::size_t n = 0; n + 2 < whole.size(); ++n) {
    std::ofstream(dir / "state/pools/lab.json") << whole.substr(0, n);
    const auto entry = registry_find("lab");
    REQUIRE_FALSE(entry);
    CHECK(entry.error().kind == ErrorKind::damaged);
    CHECK(entry.error().message.find("vsnap pool attach") != std::string::npos);
  }
}

TEST_CASE_METHOD(Fixture, "nothing is left beside an entry") {
  REQUIRE(registry_save({"lab", "u", {"/a"}}, true));
  CHECK_FALSE(registry_save({"lab", "u", {"/a"}}, true));
  int files = 0;
  for (const auto& file : std::filesystem::directory_iterator(dir / "state/pools"))
    files += file.exists() ? 1 : 0;
  CHECK(files == 1);
}

TEST_CASE_METHOD(Fixture, "a path that is not UTF-8 is refused, not written wrongly") {
  CHECK(registry_save({"lab", "u", {"/\xff"}}, true).error().kind == ErrorKind::usage);
}

TEST_CASE_METHOD(Fixture, "an absolute path has no links in it, and may not exist yet") {
  std::filesystem::create_directory(dir / "real");
  std::filesystem::create_directory_symlink(dir / "real", dir / "link");
  CHECK(*absolute_path(dir / "link/new.img") == dir / "real/new.img");
  CHECK(absolute_path("new.img")->starts_with('/'));
  CHECK_FALSE(absolute_path(""));
}

} // namespace
} // namespace vsnap::cli
