// The record of who has a pool open.
#include "core/owner_record.h"

#include "core/format.h"
#include "tests/core/memory_members.h"

using namespace vsnap;

namespace {

constexpr std::uint64_t kSize = format::kHeaderBytes;

void put(MemoryEnv& env, const std::string& text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    env.bytes_of("/m")[format::kOwnerRecordOffset + i] = static_cast<std::byte>(text[i]);
  }
}

} // namespace

TEST_CASE("an owner record comes back as it was written") {
  MemoryEnv env;
  const auto file = new_file(env, "/m", kSize);
  REQUIRE(write_owner(*file, {4711, "node-1.example", "b007-1d", "daemon"}).has_value());
  const auto owner = read_owner(*file);
  REQUIRE(owner.has_value());
  CHECK(owner->pid == 4711);
  CHECK(owner->host == "node-1.example");
  CHECK(owner->boot_id == "b007-1d");
  CHECK(owner->role == "daemon");
}

TEST_CASE("an owner record may have a mark, and one that makes no sense is none") {
  MemoryEnv env;
  const auto file = new_file(env, "/m", kSize);
  const MemberMark mark{~0ULL, 7};
  REQUIRE(write_owner(*file, {1, "h", "b", "daemon", mark}).has_value());
  CHECK(read_owner(*file)->mark == mark);
  for (const char* const lines : {"", "12\n", "x\n7\n", "12\n7x\n", "-1\n7\n"}) {
    REQUIRE(write_owner(*file, {1, "h", "b", "daemon"}).has_value());
    put(env, std::string("vsnap-owner-1\n1\nh\nb\ndaemon\n") + lines);
    const auto owner = read_owner(*file);
    REQUIRE(owner.has_value());
    CHECK(owner->role == "daemon");
    CHECK(owner->mark.number == 0);
  }
}

TEST_CASE("an owner record replaces a longer one") {
  MemoryEnv env;
  const auto file = new_file(env, "/m", kSize);
  REQUIRE(
      write_owner(*file, {123456789, std::string(200, 'h'), std::string(200, 'b'), "daemon"}).has_value());
  REQUIRE(write_owner(*file, {1, "h", "b", "command"}).has_value());
  const auto owner = read_owner(*file);
  REQUIRE(owner.has_value());
  CHECK(owner->role == "command");
}

TEST_CASE("a member that nobody has opened yet names no owner") {
  MemoryEnv env;
  CHECK_FALSE(read_owner(*new_file(env, "/m", kSize)).has_value());
}

TEST_CASE("a member that ends before the owner record names no owner") {
  MemoryEnv env;
  CHECK_FALSE(read_owner(*new_file(env, "/m", format::kOwnerRecordOffset + 100)).has_value());
}

TEST_CASE("an owner record that is cut or garbage names no owner") {
  for (const std::string text :
       {"vsnap-owner-2\n1\nh\nb\ndaemon\n", "vsnap-owner-1\n", "vsnap-owner-1\n12\nh\n",
        "vsnap-owner-1\npid\nh\nb\ndaemon\n", "vsnap-owner-1\n99999999999999999999\nh\nb\ndaemon\n"}) {
    INFO(text);
    MemoryEnv env;
    const auto file = new_file(env, "/m", kSize);
    put(env, text);
    CHECK_FALSE(read_owner(*file).has_value());
  }
}

TEST_CASE("an owner record touches nothing around it") {
  MemoryEnv env;
  const auto file = new_file(env, "/m", kSize);
  REQUIRE(write_owner(*file, {1, std::string(9000, 'h'), "b", "daemon"}).has_value());
  const auto& bytes = env.bytes_of("/m");
  const std::uint64_t end = format::kOwnerRecordOffset + format::kOwnerRecordBytes;
  CHECK(bytes[format::kOwnerRecordOffset - 1] == std::byte{0});
  CHECK(bytes[end] == std::byte{0});
}
