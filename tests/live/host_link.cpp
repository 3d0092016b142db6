// A host that has a session with the coordinator of a pool and does nothing else, for the tests:
//
//   host_link POOL      with what vsnap host join has left in VSNAP_STATE_DIR
//
// Each thing that happens is a line on standard output: "phase normal", "began EPOCH SESSION new|reclaim",
// "lost", "ended REASON", "generation N". Lines on standard input are asked for: "create VOLUME",
// "snapshot VOLUME SNAPSHOT", "shutdown", "refused" (what was refused here) and "end"; each is answered with
// "ok ..." or "error ...". The end of input is that of the program, without a goodbye.
#include <fmt/format.h>
#include <unistd.h>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <sstream>

#include "cli/shared_pool.h"
#include "core/log.h"
#include "sync/link.h"
#include "sync/wire.h"

using namespace vsnap;

namespace {

void say(const std::string& line) {
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

class Printer final : public LinkListener {
 public:
  void phase_is(HostSession::Phase phase) override { say(fmt::format("phase {}", to_string(phase))); }
  void session_began(const HostSession::Began& session) override {
    say(fmt::format("began {} {} {}", session.epoch, session.session, session.reclaim ? "reclaim" : "new"));
  }
  void session_lost() override { say("lost"); }
  void ended(wire::RefusalReason reason) override {
    say(fmt::format("ended {}", reason == wire::REFUSED_REVOKED      ? "revoked"
                                : reason == wire::REFUSED_SUPERSEDED ? "superseded"
                                                                     : "closed"));
  }
  void told(const wire::Notice& notice) override {
    if (notice.has_generation()) say(fmt::format("generation {}", notice.generation()));
  }
};

wire::ControlRequest request_of(const std::string& line) {
  std::istringstream words(line);
  std::string verb, first, second;
  words >> verb >> first >> second;
  wire::ControlRequest request;
  if (verb == "create") {
    request.mutable_create_volume()->set_name(first);
    request.mutable_create_volume()->set_size_bytes(1 << 20);
  } else if (verb == "snapshot") {
    wire::ViewName& name = *request.mutable_snapshot()->add_names();
    name.set_volume(first);
    name.set_snapshot(second);
  } else if (verb == "shutdown") {
    request.mutable_shutdown();
  }
  return request;
}

void answer(Link& link, const std::string& line) {
  if (line == "refused") {
    const LinkStatus status = link.status();
    return say(fmt::format("ok {} {}", status.refused.total(), status.is_refused ? "at-the-gate" : "-"));
  }
  const auto reply = link.control(request_of(line), std::chrono::seconds(30));
  if (!reply) return say(fmt::format("error {}", reply.error().message));
  if (reply->has_error()) return say(fmt::format("error {}", reply->error().message()));
  say("ok");
}

} // namespace

int main(int argc, char** argv) {
  log::set_level(log::Level::off);
  const auto shared = argc == 2 ? cli::shared_pool_find(argv[1]) : std::nullopt;
  const auto key = cli::host_key();
  if (!shared || !*shared || !key) {
    fmt::print(stderr, "host_link: not a guest of that pool\n");
    return 1;
  }
  const cli::SharedPool& pool = **shared;
  Printer printer;
  auto link = Link::start(Env::real(), {pool.pool, pool.uuid, pool.address, pool.server_key, *key}, &printer);
  if (!link) {
    fmt::print(stderr, "host_link: {}\n", link.error().message);
    return 1;
  }
  for (std::string line; std::getline(std::cin, line);) {
    if (line == "end") {
      (*link)->stop();
      say("ok");
      return 0;
    }
    answer(**link, line);
  }
  std::fflush(stdout);
  ::_exit(0);
}
