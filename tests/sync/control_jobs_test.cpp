// Long requests: heartbeats, giving up, clients that vanish, and a server that ends while jobs run.
#include <future>
#include <zmq.hpp>

#include "sync/control_client.h"
#include "sync/control_server.h"
#include "tests/support/catch.h"
#include "tests/sync/scratch_dir.h"
#include "tests/sync/slow_pool.h"

namespace vsnap {
namespace {

using namespace std::chrono_literals;

class Listener final : public ControlSink {
 public:
  bool progress(std::uint64_t, std::uint64_t) override {
    ++calls;
    return go_on;
  }
  bool diff(std::span<const DiffRange>) override { return true; }
  std::atomic<int> calls{0};
  std::atomic<bool> go_on{true};
};

struct Fixture {
  test::ScratchDir dir;
  test::SlowPool pool;
  std::unique_ptr<ControlServer> server;

  Fixture() {
    DaemonRecord identity;
    identity.pool = "lab";
    identity.socket_path = dir / "lab.sock";
    auto started = ControlServer::start(pool, {identity, {}});
    REQUIRE(started);
    server = std::move(*started);
    REQUIRE(pool.create_volume("a", 4096));
  }
  ~Fixture() { pool.release = true; }
  Result<wire::ControlReply> ask(wire::ControlRequest request, ControlSink& sink,
                                 std::chrono::milliseconds limit = 10s) {
    auto client = ControlClient::connect({dir / "lab.sock", "lab", {}, limit});
    if (!client) return Failure(client.error());
    return (*client)->call(std::move(request), sink);
  }
  static bool becomes_true(const std::atomic<bool>& flag) {
    for (int i = 0; i < 1000 && !flag; ++i) std::this_thread::sleep_for(10ms);
    return flag;
  }
};

wire::ControlRequest check_request() {
  wire::ControlRequest request;
  request.mutable_check();
  return request;
}

wire::ControlRequest flatten_request() {
  wire::ControlRequest request;
  request.mutable_flatten()->set_volume("a");
  return request;
}

TEST_CASE_METHOD(Fixture,
                 "a job that takes longer than the limit of silence is waited for, and tells how far it is") {
  Listener sink;
  auto reply = std::async(std::launch::async, [&] { return ask(check_request(), sink, 1500ms); });
  std::this_thread::sleep_for(3s);
  pool.release = true;
  const auto got = reply.get();
  REQUIRE(got);
  CHECK(got->has_check());
  CHECK(sink.calls >= 5);
}

TEST_CASE_METHOD(Fixture, "short requests are answered while long ones run") {
  Listener sink;
  std::vector<std::future<Result<wire::ControlReply>>> longs;
  for (int i = 0; i < 4; ++i) {
    longs.push_back(std::async(std::launch::async, [&] { return ask(check_request(), sink); }));
  }
  REQUIRE(becomes_true(pool.running));
  Listener own;
  wire::ControlRequest list;
  list.mutable_list();
  CHECK(ask(list, own, 3s));
  pool.release = true;
  for (auto& one : longs) CHECK(one.get());
}

TEST_CASE_METHOD(Fixture, "more jobs than workers wait their turn, with heartbeats") {
  std::vector<std::future<Result<wire::ControlReply>>> jobs;
  Listener sink;
  for (std::size_t i = 0; i < ControlServer::kMaxWorkers + 4; ++i) {
    jobs.push_back(std::async(std::launch::async, [&] { return ask(check_request(), sink, 2s); }));
  }
  std::this_thread::sleep_for(
      3s); // longer than the limit: only heartbeats keep those without a worker waiting
  pool.release = true;
  for (auto& job : jobs) CHECK(job.get());
}

TEST_CASE_METHOD(Fixture, "a client that gives up is answered when the job has stopped") {
  Listener sink;
  auto reply = std::async(std::launch::async, [&] { return ask(check_request(), sink); });
  REQUIRE(becomes_true(pool.running));
  sink.go_on = false;
  const auto got = reply.get();
  REQUIRE(got);
  REQUIRE(got->has_error());
  CHECK(got->error().errno_value() == ECANCELED);
}

// Sends and goes away.
void send_and_vanish(const std::string& path, wire::ControlRequest request, const std::atomic<bool>& until) {
  zmq::context_t context{1};
  zmq::socket_t dealer(context, ZMQ_DEALER);
  dealer.set(zmq::sockopt::linger, 0);
  dealer.connect("ipc://" + path);
  request.set_version(wire::kProtocolVersion);
  dealer.send(zmq::buffer(request.SerializeAsString()), zmq::send_flags::none);
  REQUIRE(Fixture::becomes_true(until));
}

TEST_CASE_METHOD(Fixture, "a change whose client vanished is made all the same") {
  send_and_vanish(dir / "lab.sock", flatten_request(), pool.running);
  std::this_thread::sleep_for(2500ms); // some heartbeats that nobody takes
  pool.release = true;
  CHECK(becomes_true(pool.finished));
}

TEST_CASE_METHOD(Fixture, "a check whose client vanished is given up") {
  send_and_vanish(dir / "lab.sock", check_request(), pool.running);
  server->stop(); // returns only when no job runs
  SUCCEED();
}

TEST_CASE_METHOD(Fixture, "a server that stops tells its clients how their jobs ended") {
  Listener sink;
  auto reply = std::async(std::launch::async, [&] { return ask(flatten_request(), sink); });
  REQUIRE(becomes_true(pool.running));
  server->stop();
  const auto got = reply.get();
  REQUIRE(got);
  CHECK(got->has_error());
}

TEST_CASE_METHOD(Fixture, "a server that hands over sends its clients to its successor") {
  Listener sink;
  auto reply = std::async(std::launch::async, [&] { return ask(flatten_request(), sink); });
  REQUIRE(becomes_true(pool.running));
  server->stop(ControlServer::Stop::hand_over);
  const auto got = reply.get();
  REQUIRE(got);
  REQUIRE(got->has_error());
  const Error error = wire::from_wire(got->error());
  CHECK(error.kind == ErrorKind::busy);
  CHECK(error.errno_value == EAGAIN);
}

TEST_CASE_METHOD(Fixture, "what its client gave up is not for the successor") {
  Listener sink;
  sink.go_on = false;
  auto reply = std::async(std::launch::async, [&] { return ask(flatten_request(), sink); });
  const auto got = reply.get();
  server->stop(ControlServer::Stop::hand_over);
  REQUIRE(got);
  REQUIRE(got->has_error());
  CHECK(got->error().errno_value() == ECANCELED);
}

} // namespace
} // namespace vsnap
