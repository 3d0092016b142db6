// The guest agent's end of the line: answers, and everything that is none.
#include "cli/guest_agent.h"

#include <atomic>

#include "tests/cli/agent_server.h"
#include "tests/support/catch.h"

using namespace vsnap;
using namespace vsnap::cli;
using std::chrono::milliseconds;

namespace {

GuestAgent::Clock::time_point in(int ms) { return GuestAgent::Clock::now() + milliseconds(ms); }

} // namespace

TEST_CASE("an agent that answers is asked to freeze, how it is, and to thaw") {
  AgentServer server([](const nlohmann::json& question) {
    const bool status = question["execute"] == "guest-fsfreeze-status";
    return AgentServer::synced(question, status ? "{\"return\": \"frozen\"}\n" : "{\"return\": 3}\n");
  });
  const auto agent = GuestAgent::connect(server.path, in(10'000));
  REQUIRE(agent.has_value());
  CHECK((*agent)->peer() == ::getpid());
  CHECK((*agent)->freeze(in(10'000)) == 3U);
  CHECK((*agent)->is_frozen(in(10'000)) == true);
  CHECK((*agent)->thaw(in(10'000)).has_value());
}

TEST_CASE("a path that is no socket, too long, or nobody's is refused") {
  const auto none = GuestAgent::connect("/nowhere/agent", in(1000));
  REQUIRE_FALSE(none.has_value());
  CHECK(none.error().errno_value == ENOENT);
  const auto long_one = GuestAgent::connect("/" + std::string(200, 'x'), in(1000));
  REQUIRE_FALSE(long_one.has_value());
  CHECK(long_one.error().kind == ErrorKind::usage);
  CHECK_FALSE(GuestAgent::connect("/dev/null", in(1000)).has_value());
}

TEST_CASE("an agent that says nothing is no answer, after the time that was given") {
  AgentServer server([](const nlohmann::json&) { return std::string("\n"); });
  const auto agent = GuestAgent::connect(server.path, in(200));
  REQUIRE_FALSE(agent.has_value());
  CHECK(agent.error().errno_value == ETIMEDOUT);
}

TEST_CASE("an answer without an end is not kept for ever") {
  AgentServer server([](const nlohmann::json&) { return std::string(200'000, 'x'); });
  const auto agent = GuestAgent::connect(server.path, in(10'000));
  REQUIRE_FALSE(agent.has_value());
  CHECK(agent.error().errno_value == EPROTO);
}

TEST_CASE("what was left of an earlier conversation is not taken for an answer") {
  AgentServer server([](const nlohmann::json& question) {
    return "{\"return\": 9}\n\xff{\"return\": 1}\n\xff{nonsense\n" +
           AgentServer::synced(question, "{\"return\": 3}\n");
  });
  const auto agent = GuestAgent::connect(server.path, in(10'000));
  REQUIRE(agent.has_value());
}

TEST_CASE("an error of the agent is told with its reason, whatever it looks like") {
  for (const char* const reply :
       {"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no room\"}}\n", "{\"error\": {\"desc\": 7}}\n",
        "{\"error\": 7}\n", "[]\n", "7\n", "{\n", "\n", "\x80\xff\x01\n"}) {
    CAPTURE(reply);
    AgentServer server([&](const nlohmann::json& question) { return AgentServer::synced(question, reply); });
    const auto agent = GuestAgent::connect(server.path, in(10'000));
    REQUIRE(agent.has_value());
    const auto frozen = (*agent)->freeze(in(10'000));
    REQUIRE_FALSE(frozen.has_value());
    CHECK(frozen.error().kind == ErrorKind::failed);
    CHECK(frozen.error().message.starts_with(server.path + ": "));
    if (std::string_view(reply).find("no room") != std::string_view::npos)
      CHECK(frozen.error().message.find("no room") != std::string::npos);
  }
}

TEST_CASE("a thaw is tried over new connections until it works") {
  std::atomic<int> thaws{0};
  AgentServer server([&](const nlohmann::json& question) {
    const bool thaw = question["execute"] == "guest-fsfreeze-thaw";
    return AgentServer::synced(question, thaw && ++thaws < 3 ? std::string() : "{\"return\": 1}\n");
  });
  const auto agent = GuestAgent::connect(server.path, in(10'000));
  REQUIRE(agent.has_value());
  REQUIRE((*agent)->thaw(in(20'000)).has_value());
  CHECK(thaws == 3);
  CHECK(server.connections == 3);
}

TEST_CASE("a thaw that never works ends with the last reason") {
  AgentServer server([](const nlohmann::json& question) {
    return AgentServer::synced(question, "{\"error\": {\"desc\": \"stuck\"}}\n");
  });
  const auto agent = GuestAgent::connect(server.path, in(10'000));
  REQUIRE(agent.has_value());
  const auto thawed = (*agent)->thaw(in(300));
  REQUIRE_FALSE(thawed.has_value());
  CHECK(thawed.error().message.find("stuck") != std::string::npos);
}
