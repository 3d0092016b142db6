// What a mount remembers longer than the process that serves it lives.
#include "fuse/mount_state.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <set>

#include "tests/support/catch.h"

using namespace vsnap;

namespace {

// As a successor has it: the same memory, through a descriptor of its own.
std::unique_ptr<MountState> successor_of(const MountState& state) {
  auto mapped = MountState::map(::fcntl(state.descriptor(), F_DUPFD_CLOEXEC, 0));
  REQUIRE(mapped);
  return std::move(*mapped);
}

} // namespace

TEST_CASE("a successor knows the handles that were open") {
  const auto state = MountState::make().value();
  const auto first = state->add_handle(ObjectId(7), false, 100);
  const auto second = state->add_handle(ObjectId(8), true, 102);
  const auto third = state->add_handle(ObjectId(7), true, 104);
  REQUIRE((first && second && third));
  state->remove_handle(*second);
  const auto next = successor_of(*state);
  const auto handles = next->handles();
  REQUIRE(handles.size() == 2);
  CHECK(handles[0].number == *first);
  CHECK(handles[0].view == ObjectId(7));
  CHECK_FALSE(handles[0].direct);
  CHECK(handles[1].number == *third);
  CHECK(handles[1].direct);
  CHECK(next->handle_opened_by(104) == third);
  CHECK_FALSE(next->handle_opened_by(102)); // closed
  CHECK_FALSE(next->handle_opened_by(99));
}

TEST_CASE("a successor knows which handles the kernel may not have heard of") {
  const auto state = MountState::make().value();
  const auto first = state->add_handle(ObjectId(7), false, 100);
  const auto second = state->add_handle(ObjectId(7), false, 102);
  REQUIRE((first && second));
  state->confirm_handle(*first);
  state->remove_handle(*second);
  const auto third = state->add_handle(ObjectId(7), false, 104);
  state->confirm_handle(*second); // its place is another's now
  const auto handles = successor_of(*state)->handles();
  REQUIRE(handles.size() == 2);
  for (const MountState::Handle& handle : handles)
    CHECK(handle.opened_by == (handle.number == *third ? 104 : 0));
}

TEST_CASE("a number never comes again, and removing an old one does no harm") {
  const auto state = MountState::make().value();
  std::set<std::uint64_t> seen;
  for (std::uint64_t i = 1; i <= 1000; ++i) {
    const auto number = state->add_handle(ObjectId(2), false, i);
    REQUIRE(number);
    CHECK(seen.insert(*number).second);
    state->remove_handle(*number);
  }
  const auto held = state->add_handle(ObjectId(2), false, 5000);
  for (const std::uint64_t old : seen) state->remove_handle(old); // a release that comes again
  state->remove_handle(~std::uint64_t{0});
  REQUIRE(state->handles().size() == 1);
  CHECK(state->handles().front().number == *held);
}

TEST_CASE("as many handles as there is room for, and then none") {
  const auto state = MountState::make().value();
  for (std::uint32_t i = 0; i < MountState::kMaxHandles; ++i)
    REQUIRE(state->add_handle(ObjectId(2), false, i + 1));
  CHECK_FALSE(state->add_handle(ObjectId(2), false, 1));
  const auto next = successor_of(*state);
  CHECK_FALSE(next->add_handle(ObjectId(2), false, 1));
  next->remove_handle(next->handles().front().number);
  CHECK(next->add_handle(ObjectId(3), false, 1));
}

TEST_CASE("what was answered is known to those that follow") {
  const auto state = MountState::make().value();
  state->note_answer(8);
  CHECK_FALSE(state->was_answered(8)); // it does not serve yet
  state->begin_notes();
  CHECK_FALSE(state->was_answered(10));
  state->note_answer(10);
  CHECK(state->was_answered(10));
  for (int i = 0; i < 20; ++i) { // that come and do not serve
    CHECK(successor_of(*state)->was_answered(10));
  }
  auto next = successor_of(*state);
  CHECK(next->was_answered(10));
  next->begin_notes();
  next->note_answer(12); // in place of nobody else's
  CHECK(next->was_answered(10));
  const auto third = successor_of(*next);
  CHECK(third->was_answered(10));
  CHECK(third->was_answered(12));
  third->begin_notes();
  third->note_answer(14);
  third->note_answer(16);
  CHECK_FALSE(third->was_answered(14)); // the kernel had that answer before the thread went on
}

TEST_CASE("a request has the same number for those that follow, and another in another mount") {
  const auto state = MountState::make().value();
  const auto other = MountState::make().value();
  const RequestId request = state->request_id(10);
  CHECK(request.number > 0);
  CHECK(request.number >> 63 == 0);
  CHECK(successor_of(*state)->request_id(10).number == request.number);
  CHECK(state->request_id(12).number != request.number);
  CHECK(other->request_id(10).number != request.number);
}

TEST_CASE("a successor knows the copies under way, as far as they are") {
  const auto state = MountState::make().value();
  for (std::uint64_t i = 1; i <= MountState::kMaxCopies; ++i)
    REQUIRE(state->put_copy({ObjectId(2 * i), ObjectId(3), 10, 100}));
  CHECK_FALSE(state->put_copy({ObjectId(1), ObjectId(3), 10, 100}));
  CHECK(state->put_copy({ObjectId(2), ObjectId(5), 20, 200})); // in place of that of the same target
  state->set_copied(ObjectId(2), 30);
  for (std::uint64_t i = 2; i <= MountState::kMaxCopies; ++i) state->remove_copy(ObjectId(2 * i));
  state->remove_copy(ObjectId(1));
  const auto copies = successor_of(*state)->copies();
  REQUIRE(copies.size() == 1);
  CHECK(copies[0].to == ObjectId(2));
  CHECK(copies[0].from == ObjectId(5));
  CHECK(copies[0].done_bytes == 30);
  CHECK(copies[0].size_bytes == 200);
}

TEST_CASE("INIT and the numbers of directories go on") {
  const auto state = MountState::make().value();
  CHECK(state->init().empty());
  const std::array<std::byte, 3> init = {std::byte{1}, std::byte{2}, std::byte{3}};
  state->keep_init(init);
  const std::uint64_t directory = state->next_directory();
  const auto next = successor_of(*state);
  CHECK(std::equal(init.begin(), init.end(), next->init().begin(), next->init().end()));
  CHECK(next->next_directory() > directory);
}

TEST_CASE("who would answer INIT in another way is found out") {
  const auto state = MountState::make().value();
  const std::array<std::byte, 3> answer = {std::byte{1}, std::byte{2}, std::byte{3}};
  CHECK(state->agree_on(answer));
  CHECK(state->agree_on(answer));
  const auto next = successor_of(*state);
  CHECK(next->agree_on(answer));
  CHECK_FALSE(next->agree_on(std::span(answer).first<2>()));
  CHECK_FALSE(next->agree_on(std::array{std::byte{1}, std::byte{2}, std::byte{4}}));
  CHECK_FALSE(next->agree_on(std::vector<std::byte>(4096)));
}

TEST_CASE("memory of another layout is refused") {
  const int small = ::memfd_create("other", 0);
  REQUIRE(::ftruncate(small, 4096) == 0);
  const auto refused = MountState::map(small);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().message.find("another version") != std::string::npos);
  const auto state = MountState::make().value();
  const int copy = ::memfd_create("zeros", 0);
  const off_t size = ::lseek(state->descriptor(), 0, SEEK_END);
  REQUIRE(::ftruncate(copy, size) == 0);
  CHECK_FALSE(MountState::map(copy));
}
