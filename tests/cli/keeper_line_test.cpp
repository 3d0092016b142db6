// What a daemon and its keeper say to each other arrives as it was sent.
#include "cli/keeper_line.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/support/catch.h"

using namespace vsnap;
using namespace vsnap::cli;

namespace {

KeeperLine::Ends both() {
  auto made = KeeperLine::make();
  REQUIRE(made);
  return std::move(*made);
}

} // namespace

TEST_CASE("words and their texts come in order, and the end of the other end is seen") {
  auto ends = both();
  REQUIRE(ends.daemon.send(Word::ready));
  REQUIRE(ends.daemon.send(Word::next, "/usr/bin/vsnap"));
  { const KeeperLine gone = std::move(ends.daemon); }
  const auto first = ends.keeper.receive();
  REQUIRE(first);
  CHECK(first->word == Word::ready);
  CHECK(first->text.empty());
  const auto second = ends.keeper.receive();
  REQUIRE(second);
  CHECK(second->word == Word::next);
  CHECK(second->text == "/usr/bin/vsnap");
  CHECK_FALSE(ends.keeper.receive());
  CHECK_FALSE(ends.keeper.send(Word::let_go));
}

TEST_CASE("many descriptors arrive, all of them and in order") {
  auto ends = both();
  std::vector<int> sent;
  for (int i = 0; i < 260; ++i) {
    sent.push_back(::memfd_create("test", MFD_CLOEXEC));
    REQUIRE(::ftruncate(sent.back(), i + 1) == 0);
  }
  REQUIRE(ends.daemon.send_descriptors(Word::keep, sent));
  REQUIRE(ends.daemon.send(Word::ready));
  std::vector<int> got;
  for (;;) {
    const auto message = ends.keeper.receive();
    REQUIRE(message);
    if (message->word == Word::ready) break;
    CHECK(message->word == Word::keep);
    got.insert(got.end(), message->descriptors.begin(), message->descriptors.end());
  }
  REQUIRE(got.size() == sent.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    CHECK(::lseek(got[i], 0, SEEK_END) == static_cast<off_t>(i + 1));
    CHECK((::fcntl(got[i], F_GETFD) & FD_CLOEXEC) != 0);
    ::close(got[i]);
    ::close(sent[i]);
  }
}

TEST_CASE("options go over as they are, and unknown ones are left out") {
  DaemonOptions options;
  options.pool = "lab";
  options.members = {"/srv/a b.img", "/dev/disk/by-id/x"};
  options.uuid = "c8a178d1-b545-4215-8037-3c6f076a0fbe";
  options.mount_point = "/mnt/lab";
  options.allow_other = options.debug = options.direct = options.degraded = options.background = true;
  options.restart = false;
  options.threads = 64;
  options.cache_bytes = 1ULL << 33;
  options.listen = "tcp://10.0.0.1:7800";
  options.lease_ns = 5'000'000'000;
  options.fence = "off \"$2\" && true";
  options.joined = true;
  options.only = {"vm1@monday", "vm2"};
  options.descriptors = 66;
  options.held_members = 3;
  options.keeper_pid = 4711;
  std::string text = text_of(options).value();
  text.insert(1, "\"of_a_later_release\":[1,2],");
  const DaemonOptions got = options_of(text).value();
  CHECK(text_of(got).value() == text_of(options).value());
  CHECK(got.members == options.members);
  CHECK_FALSE(got.restart);
  CHECK(got.cache_bytes == options.cache_bytes);
  CHECK(got.listen == options.listen);
  CHECK(got.lease_ns == options.lease_ns);
  CHECK(got.fence == options.fence);
  CHECK(got.joined);
  CHECK(got.only == options.only);
  CHECK_FALSE(options_of("nonsense"));
  CHECK_FALSE(options_of("{}"));
  options.mount_point = "/mnt/\xff";
  const auto refused = text_of(options);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().kind == ErrorKind::usage);
}

TEST_CASE("an error keeps its kind and its words") {
  const Error error =
      error_of(text_of(Error{ErrorKind::damaged, EIO, "lab: page 3 is damaged (vsnap check)"}));
  CHECK(error.kind == ErrorKind::damaged);
  CHECK(error.message == "lab: page 3 is damaged (vsnap check)");
}
