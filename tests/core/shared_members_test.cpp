// Which files are taken for the members of a pool that somebody else has open, and what is done to them.
#include "core/shared_members.h"

#include <algorithm>
#include <cstring>
#include <future>

#include "core/log.h"
#include "core/owner_record.h"
#include "tests/core/refusal.h"
#include "tests/core/small_pool.h"

using namespace vsnap;

namespace {

constexpr std::int64_t kLookAgain_ns = std::chrono::nanoseconds(SharedMembers::kLookAgain).count();

// The other host, in this process.
class Teller final : public MemberSource {
 public:
  explicit Teller(std::unique_ptr<Pool>& pool) : pool_(pool) {}
  Result<PoolStatus> fetch_members() override {
    ++asked;
    if (refused) return *refused;
    PoolStatus status = pool_->status();
    VSNAP_TRY_ASSIGN(status.mark, pool_->mark_members());
    return status;
  }
  int asked = 0;
  std::optional<Failure> refused;

 private:
  std::unique_ptr<Pool>& pool_;
};

class MembersLab : public SmallPool {
 public:
  MembersLab() { vsnap::log::set_level(vsnap::log::Level::off); }
  SharedMembers at(std::vector<std::string> where, SharedMembers::Search search = {}) {
    return {env, pool->status().uuid, std::move(where), std::move(search)};
  }
  // As a backup of the file, restored under that path.
  void copy(const std::string& from, const std::string& to) {
    const auto& bytes = env.bytes_of(from);
    std::vector<std::byte> content(bytes.size());
    std::memcpy(content.data(), bytes.data(), bytes.size());
    static_cast<void>(env.remove_file(to));
    auto file = env.open_file(to, {.create = true, .exclusive_create = true});
    REQUIRE(file.has_value());
    REQUIRE((*file)->resize(content.size()).has_value());
    REQUIRE((*file)->write_at(0, content).has_value());
  }
  void stamp(const std::string& path, std::uint8_t stamp) {
    const auto block = block_of(stamp);
    std::memcpy(env.bytes_of(path).data() + kPlace.block() * kBlockBytes, block.data(), block.size());
  }
  static int stamp_read(SharedMembers& members) {
    std::vector<std::byte> out(kBlockBytes);
    if (const auto read = members.read(kPlace, 0, out); !read) {
      REQUIRE(read.error().kind == ErrorKind::not_found);
      return -1;
    }
    return std::to_integer<int>(out[0]);
  }
  static Result<> write(SharedMembers& members, std::uint8_t stamp, Place place = kPlace) {
    return members.write(place, 0, block_of(stamp));
  }
  int stamp_stored() {
    return std::to_integer<int>(*(env.bytes_of("/a").data() + kPlace.block() * kBlockBytes));
  }
  // Of what is done to files by that.
  std::size_t flushes(SharedMembers& members) {
    env.start_recording();
    REQUIRE(members.flush().has_value());
    const auto events = env.stop_recording();
    REQUIRE(std::all_of(events.begin(), events.end(),
                        [](const auto& event) { return event.kind == MemoryEnv::Event::flush; }));
    return events.size();
  }
  static constexpr Place kPlace{0, 7000};
  Teller teller{pool};
};

} // namespace

TEST_CASE("members of a shared pool are known by their superblocks") {
  MembersLab lab;
  SharedMembers none = lab.at({"/nothing"});
  CHECK(says(refusal(none.require(1, lab.teller)), "vsnap host join --member names where it is"));
  std::vector<std::byte> out(kBlockBytes);
  CHECK(refusal(none.read(Place(0, 100), 0, out)).errno_value == EIO);
  Uuid other = lab.pool->status().uuid;
  other[0] ^= 1;
  SharedMembers strange(lab.env, other, {"/a"});
  CHECK(refusal(strange.require(1, lab.teller)).kind == ErrorKind::not_found);
  SharedMembers right = lab.at({"/nothing", "/a"});
  REQUIRE(right.require(1, lab.teller).has_value());
  lab.stamp("/a", 4);
  CHECK(lab.stamp_read(right) == 4);
}

TEST_CASE("a copy of a member is not taken for it, whenever it was made") {
  MembersLab lab;
  lab.copy("/a", "/before");
  SharedMembers first = lab.at({"/a"});
  REQUIRE(first.require(1, lab.teller).has_value());
  lab.copy("/a", "/since"); // it has a mark of this reign
  REQUIRE(read_owner(**lab.env.open_file("/since", {.read_only = true}))->mark.number == 1);
  lab.stamp("/a", 1);
  for (const char* const path : {"/before", "/since"}) {
    SharedMembers copy = lab.at({path});
    const Error error = refusal(copy.require(1, lab.teller));
    CHECK(error.kind == ErrorKind::not_found);
    CHECK(says(error, "member 0"));
    CHECK(says(error, std::string(path) + " is a copy of it"));
    CHECK(says(error, "--member names where it is"));
    CHECK(lab.stamp_read(copy) == -1);
    SharedMembers both = lab.at({path, "/a"});
    REQUIRE(both.require(1, lab.teller).has_value());
    CHECK(lab.stamp_read(both) == 1);
  }
}

TEST_CASE("a copy that was opened as a pool of its own is told from the real one") {
  MembersLab lab;
  REQUIRE(lab.pool->mark_members().has_value());
  lab.copy("/a", "/fork");
  const auto fork = Pool::open(lab.env, {.member_paths = {"/fork"}});
  REQUIRE(fork.has_value());
  for (int i = 0; i < 10; ++i) REQUIRE((*fork)->mark_members().has_value());
  SharedMembers members = lab.at({"/fork"});
  CHECK(says(refusal(members.require(1, lab.teller)), "/fork is a copy of it"));
}

TEST_CASE("members are looked at once a session, and one that was exchanged is not read any more") {
  MembersLab lab;
  SharedMembers members = lab.at({"/a"});
  REQUIRE(members.require(3, lab.teller).has_value());
  for (const std::uint64_t session : {2, 3}) REQUIRE(members.look_in(session, lab.teller).has_value());
  CHECK(lab.teller.asked == 1);
  lab.stamp("/a", 1);
  REQUIRE(lab.pool->close().has_value());
  lab.copy("/a", "/b");
  lab.copy("/b", "/a"); // now another file
  lab.pool.reset();
  lab.open();
  lab.stamp("/a", 2);
  CHECK(lab.stamp_read(members) == 1);
  REQUIRE(members.look_in(4, lab.teller).has_value());
  CHECK(lab.teller.asked == 2);
  CHECK(lab.stamp_read(members) == 2);
}

TEST_CASE("what the other host cannot vouch for is not read here") {
  MembersLab lab;
  SharedMembers members = lab.at({"/a"});
  REQUIRE(members.require(1, lab.teller).has_value());
  lab.stamp("/a", 1);
  lab.teller.refused = failure(ErrorKind::no_answer, EIO, "nobody answers");
  CHECK(refusal(members.look_in(2, lab.teller)).kind == ErrorKind::no_answer);
  lab.teller.refused = failure(ErrorKind::no_space, ENOSPC, "no space for a mark");
  REQUIRE(members.look_in(2, lab.teller).has_value());
  CHECK(lab.stamp_read(members) == -1);
  lab.teller.refused.reset();
  REQUIRE(members.look_in(3, lab.teller).has_value());
  CHECK(lab.stamp_read(members) == 1);
}

TEST_CASE("a member that cannot be read past the page cache is left to the other host") {
  MembersLab lab;
  lab.env.no_direct_io(true);
  SharedMembers members = lab.at({"/a"});
  REQUIRE(members.require(1, lab.teller).has_value());
  CHECK(lab.stamp_read(members) == -1);
  lab.env.no_direct_io(false);
  REQUIRE(members.look_in(2, lab.teller).has_value());
  lab.stamp("/a", 1);
  CHECK(lab.stamp_read(members) == 1);
}

TEST_CASE("a member that was added is found after a while, and not looked for all the time") {
  MembersLab lab;
  int searched = 0;
  SharedMembers members = lab.at({"/a"}, [&searched] {
    ++searched;
    return std::vector<std::string>{"/b"};
  });
  REQUIRE(members.require(1, lab.teller).has_value());
  CHECK(searched == 0);
  REQUIRE(lab.pool->add_member({"/b", 16 * kMiB}, false).has_value());
  std::vector<std::byte> out(kBlockBytes);
  const Place added(1, 2000);
  const auto is_read = [&] { return members.read(added, 0, out).has_value(); };
  members.look_again(lab.teller); // too early
  CHECK_FALSE(is_read());
  lab.env.pass_time(kLookAgain_ns);
  members.look_again(lab.teller);
  CHECK(is_read());
  CHECK(searched == 1);
  for (int i = 0; i < 3; ++i) members.look_again(lab.teller);
  CHECK(lab.teller.asked == 2);
}

TEST_CASE("what is written to a member is there, and durable after a flush") {
  MembersLab lab;
  SharedMembers members = lab.at({"/a"});
  REQUIRE(members.require(1, lab.teller).has_value());
  REQUIRE(lab.pool->sync().has_value());
  REQUIRE(lab.write(members, 1).has_value());
  CHECK(lab.stamp_read(members) == 1);
  CHECK(lab.stamp_stored() == 1);
  REQUIRE(members.flush().has_value());
  REQUIRE(lab.write(members, 2).has_value());
  REQUIRE(members.write(lab.kPlace, 512, block_of(3, 512)).has_value());
  CHECK(lab.stamp_read(members) == 2);
  lab.env.power_cut([](std::size_t) -> std::size_t { return 0; }); // all that may be lost is
  CHECK(lab.stamp_stored() == 1);
}

TEST_CASE("only members that were written since they were flushed are flushed again") {
  MembersLab lab;
  REQUIRE(lab.pool->add_member({"/b", 16 * kMiB}, false).has_value());
  SharedMembers members = lab.at({"/a", "/b"});
  REQUIRE(members.require(1, lab.teller).has_value());
  CHECK(lab.flushes(members) == 2); // what the process before may have written
  CHECK(lab.flushes(members) == 0);
  REQUIRE(lab.write(members, 1, Place(1, 2000)).has_value());
  REQUIRE(lab.write(members, 2, Place(1, 2001)).has_value());
  CHECK(lab.flushes(members) == 1);
  CHECK(lab.flushes(members) == 0);
  REQUIRE(lab.write(members, 3, Place(1, 2000)).has_value());
  REQUIRE(lab.write(members, 4).has_value());
  CHECK(lab.flushes(members) == 2);
}

TEST_CASE("what was written to a member that is not read any more is flushed all the same") {
  MembersLab lab;
  SharedMembers members = lab.at({"/a"});
  REQUIRE(members.require(1, lab.teller).has_value());
  REQUIRE(lab.write(members, 1).has_value());
  lab.teller.refused = failure(ErrorKind::no_space, ENOSPC, "no space for a mark");
  REQUIRE(members.look_in(2, lab.teller).has_value());
  CHECK(refusal(lab.write(members, 2)).kind == ErrorKind::not_found);
  CHECK(lab.stamp_stored() == 1);
  CHECK(lab.flushes(members) == 1);
  CHECK(lab.flushes(members) == 0);
}

TEST_CASE("after a flush that failed none succeeds, and the other host has to write") {
  MembersLab lab;
  SharedMembers members = lab.at({"/a"});
  REQUIRE(members.require(1, lab.teller).has_value());
  REQUIRE(lab.write(members, 1).has_value());
  lab.env.fail_flush_once();
  CHECK(refusal(members.flush()).errno_value == EIO);
  CHECK(refusal(members.flush()).errno_value == EIO); // though the device would say that all is well
  CHECK(refusal(lab.write(members, 2)).kind == ErrorKind::not_found);
  CHECK(lab.stamp_read(members) == 1);
  REQUIRE(members.look_in(2, lab.teller).has_value());
  CHECK(refusal(members.flush()).errno_value == EIO);
}

TEST_CASE("each of several that flush at a time hears of the flush that failed") {
  MembersLab lab;
  SharedMembers members = lab.at({"/a"});
  REQUIRE(members.require(1, lab.teller).has_value());
  lab.env.slow_flushes(true);
  REQUIRE(lab.write(members, 1).has_value());
  lab.env.fail_flush_once();
  std::vector<std::future<bool>> flushed;
  for (int i = 0; i < 4; ++i)
    flushed.push_back(std::async(std::launch::async, [&members] { return members.flush().has_value(); }));
  for (auto& one : flushed) CHECK_FALSE(one.get());
}

TEST_CASE("a write that failed is told, and leaves nothing in doubt for others") {
  MembersLab lab;
  SharedMembers members = lab.at({"/a"});
  REQUIRE(members.require(1, lab.teller).has_value());
  lab.env.no_space(true);
  CHECK(refusal(lab.write(members, 1)).kind == ErrorKind::no_space);
  lab.env.no_space(false);
  REQUIRE(lab.write(members, 2).has_value());
  REQUIRE(members.flush().has_value());
  CHECK(lab.stamp_stored() == 2);
}

TEST_CASE("a member that cannot be opened for writing is read, and written by the other host") {
  MembersLab lab;
  lab.env.read_only_files(true);
  SharedMembers members = lab.at({"/a"});
  REQUIRE(members.require(1, lab.teller).has_value());
  lab.stamp("/a", 1);
  CHECK(lab.stamp_read(members) == 1);
  CHECK(refusal(lab.write(members, 2)).kind == ErrorKind::not_found);
  CHECK(lab.stamp_stored() == 1);
}

TEST_CASE("nothing is written where no data can be, nor to a member that is not here") {
  MembersLab lab;
  SharedMembers members = lab.at({"/a"});
  REQUIRE(members.require(1, lab.teller).has_value());
  const std::uint64_t blocks = 32 * kMiB / kBlockBytes;
  CHECK(refusal(lab.write(members, 1, Place(0, format::kHeaderBlocks - 1))).kind == ErrorKind::failed);
  CHECK(refusal(lab.write(members, 1, Place(0, blocks))).kind == ErrorKind::not_found);
  CHECK(refusal(members.write(Place(0, blocks - 1), 512, block_of(1))).kind == ErrorKind::not_found);
  CHECK(refusal(lab.write(members, 1, Place(1, 2000))).kind == ErrorKind::not_found);
  CHECK(refusal(lab.write(members, 1, Place::zeros(BlockIndex(7000)))).kind == ErrorKind::not_found);
}
