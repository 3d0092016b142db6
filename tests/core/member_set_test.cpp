// The members of a pool: which sets of files are one, and what is said of those that are not.
#include "core/member_set.h"

#include <unistd.h>

#include "core/log.h"
#include "core/pool.h"
#include "tests/core/memory_members.h"
#include "tests/core/refusal.h"

using namespace vsnap;

namespace {

constexpr std::size_t kCopyA = format::kSuperblockOffsets[0];
constexpr std::size_t kCopyB = format::kSuperblockOffsets[1];

Error open_refusal(MemoryEnv& env, const std::vector<std::string>& paths) {
  return refusal(MemberSet::open(env, paths, "command", 0));
}

void damage(MemoryEnv& env, const std::string& path, std::size_t offset) {
  env.bytes_of(path)[offset + 200] ^= std::byte{1};
}

Result<> flag_for_check(MemberSet& members) {
  return members.update_layout([](Superblock& layout) { layout.flags = format::kFlagNeedsCheck; });
}

bool opens(MemoryEnv& env, const std::vector<std::string>& paths) {
  return MemberSet::open(env, paths, "command", 0).has_value();
}

} // namespace

TEST_CASE("members that cannot be used past the page cache are used through it") {
  MemoryEnv env;
  env.no_direct_io(true);
  create_members(env, "lab", {"/a"});
  CHECK(MemberSet::open(env, {"/a"}, "command", 0, true).has_value());
}

TEST_CASE("members that were created can be opened in any order") {
  MemoryEnv env;
  const Superblock made = create_members(env, "lab", {"/a", "/b", "/c"})->layout();
  const auto members = open_members(env, {"/c", "/a", "/b"});
  CHECK(members->count() == 3);
  CHECK(members->layout().same_layout(made));
  CHECK(members->path(0) == "/a");
  CHECK(members->path(2) == "/c");
  CHECK(members->remarks().empty());
}

TEST_CASE("a mark is on all members, durably, and the next one is higher") {
  MemoryEnv env;
  const auto members = create_members(env, "lab", {"/a", "/b"});
  const auto shown = [&env](const std::string& path) {
    const auto file = env.open_file(path, {.read_only = true});
    REQUIRE(file.has_value());
    const auto owner = read_owner(**file);
    return owner ? owner->mark : MemberMark{};
  };
  members->write_owner_records(env);
  CHECK(shown("/a").number == 0);
  const auto first = members->mark_members(env);
  REQUIRE(first.has_value());
  const auto second = members->mark_members(env);
  REQUIRE(second.has_value());
  CHECK(second->is_shown_by(*second));
  CHECK(first->is_shown_by(*second));
  CHECK_FALSE(second->is_shown_by(*first));
  members->write_owner_records(env); // as after an addition
  env.power_cut(3);
  for (const char* const path : {"/a", "/b"}) CHECK(shown(path) == *second);
}

TEST_CASE("a mark that a member does not take is none") {
  MemoryEnv env;
  const auto members = create_members(env, "lab", {"/a", "/b"});
  env.fail_from(1);
  CHECK_FALSE(members->mark_members(env).has_value());
  CHECK(members->flush_failed()); // the kernel tells of what it has lost once
}

TEST_CASE("a new pool has two good superblock copies on each member") {
  MemoryEnv env;
  create_members(env, "lab", {"/a", "/b"});
  const auto members = open_members(env, {"/a", "/b"});
  const auto remarks = members->check_superblocks(false);
  REQUIRE(remarks.has_value());
  CHECK(remarks->empty());
}

TEST_CASE("bytes that were written to a member come back from it") {
  MemoryEnv env;
  const auto members = create_members(env, "lab", {"/a", "/b"});
  const std::vector<std::byte> data(1000, std::byte{7});
  REQUIRE(members->write(Place(1, 300), 96, data).has_value());
  std::vector<std::byte> back(1000);
  REQUIRE(members->read(Place(1, 300), 96, back).has_value());
  CHECK(back == data);
  CHECK(env.bytes_of("/b")[300 * kBlockBytes + 96] == std::byte{7});
}

TEST_CASE("the layout survives closing and a power cut") {
  MemoryEnv env;
  const MetadataSegment segment{MetadataFile::wal, {Place(1, 500), BlockCount(16)}};
  {
    const auto members = create_members(env, "lab", {"/a", "/b"});
    const auto stored =
        members->update_layout([&](Superblock& layout) { layout.segments.push_back(segment); });
    REQUIRE(stored.has_value());
    env.power_cut(3);
  }
  const auto segments = open_members(env, {"/a", "/b"})->layout().segments;
  REQUIRE(segments.size() == 1);
  CHECK(segments[0] == segment);
}

TEST_CASE("no member at all is refused as wrong usage") {
  MemoryEnv env;
  CHECK(open_refusal(env, {}).kind == ErrorKind::usage);
}

TEST_CASE("a member given twice is refused and names both") {
  MemoryEnv env;
  create_members(env, "lab", {"/a", "/b"});
  const Error error = open_refusal(env, {"/a", "/b", "/a"});
  CHECK(error.kind == ErrorKind::usage);
  CHECK(says(error, "/a: the same member as /a"));
}

TEST_CASE("a copy of a member beside it is refused") {
  MemoryEnv env;
  create_members(env, "lab", {"/a", "/b"});
  new_file(env, "/copy", format::kMinMemberBytes);
  env.bytes_of("/copy") = env.bytes_of("/a");
  const Error error = open_refusal(env, {"/a", "/b", "/copy"});
  CHECK(error.kind == ErrorKind::damaged);
  CHECK(says(error, "/copy: a copy of member /a"));
}

TEST_CASE("a missing member is refused with the uuid that was expected and the number found") {
  MemoryEnv env;
  const Superblock layout = create_members(env, "lab", {"/a", "/b", "/c"})->layout();
  const Error error = open_refusal(env, {"/a", "/c"});
  CHECK(error.kind == ErrorKind::damaged);
  CHECK(says(error, "expected uuid " + to_string(layout.roster[1].uuid)));
  CHECK(says(error, "found 2 of 3 members"));
}

TEST_CASE("a member whose file is not there is not found") {
  MemoryEnv env;
  create_members(env, "lab", {"/a"});
  CHECK(open_refusal(env, {"/a", "/nothing"}).kind == ErrorKind::damaged);
}

TEST_CASE("a member of another pool is refused with both pools named") {
  MemoryEnv env;
  const Superblock lab = create_members(env, "lab", {"/a", "/b"})->layout();
  const Superblock other = create_members(env, "other", {"/x"})->layout();
  const Error error = open_refusal(env, {"/a", "/x"});
  CHECK(error.kind == ErrorKind::damaged);
  CHECK(says(error, "/x: member of pool other (" + to_string(other.pool_uuid) + ")"));
  CHECK(says(error, "expected one of lab (" + to_string(lab.pool_uuid) + ")"));
}

TEST_CASE("a file that was never a member is told from a damaged one") {
  MemoryEnv env;
  new_file(env, "/file", format::kMinMemberBytes);
  CHECK(open_refusal(env, {"/file"}).kind == ErrorKind::damaged);
}

TEST_CASE("a member that was cut short is refused with both lengths") {
  MemoryEnv env;
  create_members(env, "lab", {"/a"});
  env.bytes_of("/a").resize(format::kMinMemberBytes - kBlockBytes);
  const Error error = open_refusal(env, {"/a"});
  CHECK(error.kind == ErrorKind::damaged);
  CHECK(says(error, "expected 4194304 bytes, found 4190208"));
}

TEST_CASE("a member cut at any block is refused") {
  MemoryEnv env;
  create_members(env, "lab", {"/a"});
  for (std::uint64_t size = format::kMinMemberBytes; size > 0;) {
    size -= kBlockBytes;
    env.bytes_of("/a").resize(size);
    if (opens(env, {"/a"})) FAIL("cut at " << size);
  }
  SUCCEED();
}

TEST_CASE("a torn newest superblock copy leaves the one before") {
  MemoryEnv env;
  {
    const auto members = create_members(env, "lab", {"/a"}); // A has sequence 2
    REQUIRE(flag_for_check(*members).has_value());           // B has sequence 3
  }
  damage(env, "/a", kCopyB);
  const auto members = open_members(env, {"/a"});
  CHECK(members->layout().sequence == 2);
  CHECK(members->layout().flags == 0);
}

TEST_CASE("a bad superblock copy is remarked with its member") {
  MemoryEnv env;
  create_members(env, "lab", {"/a", "/b"});
  damage(env, "/b", kCopyA);
  const auto remarks = open_members(env, {"/a", "/b"})->remarks();
  REQUIRE(remarks.size() == 1);
  CHECK(remarks[0].find("/b: superblock copy A") == 0);
}

TEST_CASE("a member with an older layout takes that of the others") {
  MemoryEnv env;
  {
    const auto members = create_members(env, "lab", {"/a", "/b"});
    REQUIRE(flag_for_check(*members).has_value());
  }
  damage(env, "/a", kCopyB);
  CHECK(open_members(env, {"/a", "/b"})->layout().flags == format::kFlagNeedsCheck);
}

TEST_CASE("members that were not last used together are refused") {
  MemoryEnv env;
  create_members(env, "lab", {"/a", "/b", "/c"});
  const auto keep = [&](const std::string& path) { return env.bytes_of(path); };
  const auto old_a = keep("/a");
  const auto old_b = keep("/b");
  const auto old_c = keep("/c");
  REQUIRE(open_members(env, {"/a", "/b", "/c"})->mark_opened().has_value());
  SECTION("the first is one step older: no crash leaves it so") {
    env.bytes_of("/a") = old_a;
    const Error refusal = open_refusal(env, {"/a", "/b", "/c"});
    CHECK(refusal.kind == ErrorKind::damaged);
    CHECK(refusal.message.find("/a: not from the same moment") == 0);
  }
  SECTION("one in the middle is older") {
    env.bytes_of("/b") = old_b;
    CHECK(open_refusal(env, {"/a", "/b", "/c"}).kind == ErrorKind::damaged);
  }
  SECTION("the last is one step older: as after a crash, unless the catalog knows better") {
    env.bytes_of("/c") = old_c;
    const auto members = open_members(env, {"/a", "/b", "/c"});
    CHECK(members->check_together(2).has_value());
    REQUIRE_FALSE(members->check_together(3).has_value());
    CHECK(members->check_together(3).error().kind == ErrorKind::damaged);
  }
  SECTION("two steps are too many") {
    REQUIRE(open_members(env, {"/a", "/b", "/c"})->mark_opened().has_value());
    env.bytes_of("/c") = old_c;
    CHECK(open_refusal(env, {"/a", "/b", "/c"}).kind == ErrorKind::damaged);
  }
  SECTION("all from an earlier moment are one pool") {
    env.bytes_of("/a") = old_a;
    env.bytes_of("/b") = old_b;
    env.bytes_of("/c") = old_c;
    CHECK(open_members(env, {"/a", "/b", "/c"})->check_together(2).has_value());
  }
  SECTION("cut short on the way from member to member") {
    env.bytes_of("/b") = old_b;
    env.bytes_of("/c") = old_c;
    CHECK(open_members(env, {"/a", "/b", "/c"})->check_together(2).has_value());
  }
}

TEST_CASE("a member with both superblock copies damaged is refused as damaged") {
  MemoryEnv env;
  create_members(env, "lab", {"/a"});
  damage(env, "/a", kCopyA);
  damage(env, "/a", kCopyB);
  CHECK(open_refusal(env, {"/a"}).kind == ErrorKind::damaged);
}

TEST_CASE("members that contradict each other under one sequence are refused") {
  MemoryEnv env;
  create_members(env, "lab", {"/a", "/b"});
  const SparseBytes before = env.bytes_of("/b");
  REQUIRE(flag_for_check(*open_members(env, {"/a", "/b"})).has_value());
  env.bytes_of("/b") = before;
  // /b gets a sequence 3 of its own, as if it had been used without /a.
  auto file = env.open_file("/b", {});
  REQUIRE(file.has_value());
  auto own = newest_superblock(**file, "/b", nullptr);
  REQUIRE(own.has_value());
  own->sequence = 3;
  own->segments.push_back({MetadataFile::wal, {Place(0, 300), BlockCount(16)}});
  REQUIRE((*file)->write_at(kCopyB, encode(*own)).has_value());
  const Error error = open_refusal(env, {"/a", "/b"});
  CHECK(error.kind == ErrorKind::damaged);
  CHECK(says(error, "contradicts"));
}

TEST_CASE("a locked member is refused with its owner named") {
  MemoryEnv env;
  create_members(env, "lab", {"/a"});
  auto first = MemberSet::open(env, {"/a"}, "daemon", 0);
  REQUIRE(first.has_value());
  (*first)->write_owner_records(env);
  const Error error = open_refusal(env, {"/a"});
  CHECK(error.kind == ErrorKind::busy);
  CHECK(says(error, "vsnap daemon with pid " + std::to_string(::getpid()) + " on host host"));
}

TEST_CASE("a wait for a locked member takes as long as it is told, however the wall clock jumps") {
  MemoryEnv env;
  create_members(env, "lab", {"/a"});
  const auto first = open_members(env, {"/a"});
  const bool wild = GENERATE(true, false);
  env.wild_wall_clock(wild);
  for (int i = 0; i < 5; ++i) {
    const std::int64_t begin_ns = env.monotonic_ns();
    CHECK(refusal(MemberSet::open(env, {"/a"}, "command", 5)).kind == ErrorKind::busy);
    const std::int64_t took_ns = env.monotonic_ns() - begin_ns;
    CHECK(took_ns >= 5'000'000);
    CHECK(took_ns < 10'000'000);
  }
}

TEST_CASE("a locked member without an owner record is refused as busy") {
  MemoryEnv env;
  create_members(env, "lab", {"/a"});
  const auto first = open_members(env, {"/a"});
  CHECK(open_refusal(env, {"/a"}).kind == ErrorKind::busy);
}

TEST_CASE("closing the members lets go of their locks") {
  MemoryEnv env;
  create_members(env, "lab", {"/a"});
  open_members(env, {"/a"}).reset();
  CHECK(opens(env, {"/a"}));
}

TEST_CASE("an opening that is refused keeps no lock") {
  MemoryEnv env;
  create_members(env, "lab", {"/a", "/b"});
  REQUIRE_FALSE(opens(env, {"/a"}));
  CHECK(opens(env, {"/a", "/b"}));
}

TEST_CASE("an added member belongs to the pool from then on") {
  MemoryEnv env;
  {
    const auto members = create_members(env, "lab", {"/a"});
    const auto index = members->add(env, "/new", new_file(env, "/new", format::kMinMemberBytes));
    REQUIRE(index.has_value());
    CHECK(*index == 1);
    CHECK(members->count() == 2);
    env.power_cut(5);
  }
  CHECK(open_members(env, {"/new", "/a"})->count() == 2);
  CHECK(says(open_refusal(env, {"/a"}), "missing"));
}

TEST_CASE("an addition that one member did not take at once is undone") {
  MemoryEnv env;
  const auto members = create_members(env, "lab", {"/a", "/b"});
  auto file = new_file(env, "/new", format::kMinMemberBytes);
  env.fail_once(6); // see below
  CHECK_FALSE(members->add(env, "/new", std::move(file)).has_value());
  CHECK_FALSE(members->addition_cut_short());
  CHECK(members->add(env, "/new", std::move(*env.open_file("/new", {}))).has_value());
}

TEST_CASE("an addition that fails at any call leaves a pool that opens") {
  bool added = false;
  for (std::uint64_t nth = 1; !added; ++nth) {
    MemoryEnv env;
    {
      const auto members = create_members(env, "lab", {"/a", "/b"});
      auto file = new_file(env, "/new", format::kMinMemberBytes);
      env.fail_once(nth);
      added = members->add(env, "/new", std::move(file)).has_value();
    }
    env.power_cut(nth);
    INFO("call " << nth);
    env.fail_from(std::nullopt);
    REQUIRE((opens(env, {"/a", "/b"}) || opens(env, {"/a", "/b", "/new"})));
  }
}

TEST_CASE("a file that is a member already cannot be claimed again") {
  MemoryEnv env;
  create_members(env, "lab", {"/a"});
  const auto members = open_members(env, {"/a"});
  auto again = env.open_file("/a", {});
  REQUIRE(again.has_value());
  CHECK(refusal(members->claim(env, "/a", **again, 0)).kind == ErrorKind::usage);
}

TEST_CASE("a failed flush stays failed") {
  MemoryEnv env;
  const auto members = create_members(env, "lab", {"/a"});
  REQUIRE(members->write(Place(0, 300), 0, std::vector<std::byte>(512)).has_value());
  env.fail_flush_once();
  CHECK_FALSE(members->flush_data().has_value());
  CHECK_FALSE(members->flush_data().has_value());
  CHECK(members->flush_failed());
}

TEST_CASE("the flag for a check stands after a change of the layout that was cut short at any call") {
  log::set_level(log::Level::off);
  const auto count = GENERATE(std::size_t{1}, std::size_t{2}, std::size_t{3});
  const std::vector<std::string> paths = std::vector<std::string>{"/a", "/b", "/c"};
  const std::vector<std::string> used(paths.begin(), paths.begin() + static_cast<std::ptrdiff_t>(count));
  const bool power_cut = GENERATE(false, true);
  std::uint64_t nth = 0;
  for (bool failed = true; failed;) {
    CAPTURE(++nth, count, power_cut);
    MemoryEnv env;
    const MetadataSegment segment{MetadataFile::wal, {Place(0, 500), BlockCount(16)}};
    {
      const auto members = create_members(env, "lab", used);
      env.fail_once(nth);
      failed = !members->update_layout([&](Superblock& layout) { layout.segments.push_back(segment); });
      env.fail_from(std::nullopt);
      REQUIRE(members->mark_needs_check());
      if (power_cut) env.power_cut(nth);
    }
    REQUIRE(open_members(env, used)->needs_check());
  }
  CHECK(nth == 2 * count + 1);
}

TEST_CASE("a change of the layout after one that was cut short leaves a pool that opens, at whichever call") {
  log::set_level(log::Level::off);
  const std::vector<std::string> paths = {"/a", "/b", "/c"};
  const auto with = [](std::uint64_t block) {
    return [block](Superblock& layout) {
      layout.segments.push_back({MetadataFile::wal, {Place(0, block), BlockCount(16)}});
    };
  };
  for (std::uint64_t first = 1; first <= 6; first += 2) { // the write to each member in turn
    bool killed = true;
    for (std::uint64_t second = 1; killed; ++second) {
      CAPTURE(first, second);
      MemoryEnv env;
      {
        const auto members = create_members(env, "lab", paths);
        env.fail_once(first);
        REQUIRE_FALSE(members->update_layout(with(500)).has_value());
        env.kill_at(second);
        killed = !members->update_layout(with(600));
        env.kill_at(std::nullopt);
      }
      const auto segments = open_members(env, paths)->layout().segments;
      REQUIRE(segments.size() <= 1); // the one that was there before, or one of the two
      if (!killed) REQUIRE(segments.front().run.start == Place(0, 600));
    }
  }
}

TEST_CASE("an addition after one that was cut short is refused") {
  MemoryEnv env;
  const auto members = create_members(env, "lab", {"/a", "/b"});
  auto file = new_file(env, "/new", format::kMinMemberBytes);
  // The header and two calls of the new member, two of the first: the second takes nothing any more.
  env.fail_from(6);
  CHECK_FALSE(members->add(env, "/new", std::move(file)).has_value());
  CHECK(members->addition_cut_short());
  env.fail_from(std::nullopt);
  auto other = new_file(env, "/other", format::kMinMemberBytes);
  CHECK(says(refusal(members->add(env, "/other", std::move(other))), "cut short"));
  REQUIRE(members->update_layout([](Superblock&) {}).has_value());
  CHECK(members->layout().roster.size() == 2);
  CHECK(members->add(env, "/more", new_file(env, "/more", format::kMinMemberBytes)).has_value());
}

TEST_CASE("a flush with nothing written since the last one asks nothing of the members") {
  MemoryEnv env;
  const auto members = create_members(env, "lab", {"/a", "/b"});
  REQUIRE(members->write(Place(0, 300), 0, std::vector<std::byte>(512)).has_value());
  REQUIRE(members->flush_data().has_value());
  const std::uint64_t calls = env.calls();
  REQUIRE(members->flush_data().has_value());
  CHECK(env.calls() == calls);
}

TEST_CASE("checking superblocks names a bad copy and mends it on demand") {
  MemoryEnv env;
  create_members(env, "lab", {"/a"});
  const auto members = open_members(env, {"/a"});
  damage(env, "/a", kCopyB);
  CHECK(members->check_superblocks(true)->size() == 1);
  CHECK(members->check_superblocks(false)->empty());
}

TEST_CASE("members whose headers were erased are members no longer") {
  MemoryEnv env;
  create_members(env, "lab", {"/a"});
  REQUIRE(open_members(env, {"/a"})->erase_headers().has_value());
  CHECK(open_refusal(env, {"/a"}).kind == ErrorKind::damaged);
}

TEST_CASE("a look at a member tells its pool, and who has it open while somebody has") {
  MemoryEnv env;
  create_members(env, "lab", {"/a", "/b"});
  const auto owner = [&] {
    const auto look = Pool::look(env, "/b");
    REQUIRE(look.has_value());
    REQUIRE(look->identity.has_value());
    CHECK(look->identity->pool_name == "lab");
    CHECK(look->identity->member_count == 2);
    return look->owner;
  };
  CHECK_FALSE(owner());
  {
    const auto members = open_members(env, {"/a", "/b"});
    members->write_owner_records(env);
    REQUIRE(owner());
    CHECK(owner()->role == "command");
  }
  CHECK_FALSE(owner());            // the record is still there: its process ended without clearing it
  CHECK(opens(env, {"/a", "/b"})); // the look keeps no lock
}
