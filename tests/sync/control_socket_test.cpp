// The control socket between a real server and real clients, with well-meaning and other messages.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <atomic>
#include <future>
#include <random>
#include <thread>
#include <zmq.hpp>

#include "sync/control_client.h"
#include "sync/control_server.h"
#include "tests/support/catch.h"
#include "tests/support/model_pool.h"
#include "tests/support/seed.h"
#include "tests/sync/scratch_dir.h"

namespace vsnap {
namespace {

using namespace std::chrono_literals;

class Silent : public ControlSink {
 public:
  bool progress(std::uint64_t, std::uint64_t) override {
    ++calls;
    return go_on;
  }
  bool diff(std::span<const DiffRange> some) override {
    ranges += some.size();
    return go_on;
  }
  std::atomic<int> calls{0};
  std::atomic<std::size_t> ranges{0};
  std::atomic<bool> go_on{true};
};

struct Fixture {
  test::ScratchDir dir;
  std::unique_ptr<ModelPool> pool = ModelPool::make("lab");
  std::atomic<int> shutdowns{0};
  Silent sink;
  std::unique_ptr<ControlServer> server;

  Fixture() {
    DaemonRecord identity;
    identity.pool = "lab";
    identity.mount_point = "/mnt/lab";
    identity.pid = ::getpid();
    identity.socket_path = socket();
    auto started = ControlServer::start(*pool, {identity, [this] { ++shutdowns; }});
    REQUIRE(started);
    server = std::move(*started);
  }
  [[nodiscard]] std::string socket() const { return dir / "lab.sock"; }
  std::unique_ptr<ControlClient> connect(std::chrono::milliseconds limit = 10s) {
    auto client = ControlClient::connect({socket(), "lab", {}, limit});
    REQUIRE(client);
    return std::move(*client);
  }
  Result<wire::ControlReply> ask(wire::ControlRequest request) {
    return connect()->call(std::move(request), sink);
  }
};

wire::ControlRequest list_request() {
  wire::ControlRequest request;
  request.mutable_list();
  return request;
}

TEST_CASE_METHOD(Fixture, "a ping is answered with who serves what where") {
  wire::ControlRequest request;
  request.mutable_ping();
  const auto reply = ask(request);
  REQUIRE(reply);
  CHECK(reply->pong().pool() == "lab");
  CHECK(reply->pong().mount_point() == "/mnt/lab");
  CHECK(reply->pong().pid() == ::getpid());
}

TEST_CASE_METHOD(Fixture, "one connection serves one request after another") {
  const auto client = connect();
  for (int i = 0; i < 50; ++i) {
    wire::ControlRequest create;
    create.mutable_create_volume()->set_name("v" + std::to_string(i));
    const auto made = client->call(create, sink);
    REQUIRE(made);
    REQUIRE(made->has_view());
  }
  const auto reply = client->call(list_request(), sink);
  REQUIRE(reply);
  CHECK(reply->views().views_size() == 50);
}

TEST_CASE_METHOD(Fixture, "many clients at once each get their own answer") {
  std::vector<std::future<bool>> clients;
  for (int i = 0; i < 24; ++i) {
    clients.push_back(std::async(std::launch::async, [this, i] {
      Silent own;
      const std::string name = "v" + std::to_string(i);
      auto client = ControlClient::connect({socket(), "lab", {}, 10s});
      wire::ControlRequest create;
      create.mutable_create_volume()->set_name(name);
      const auto reply = client ? (*client)->call(create, own) : Failure(client.error());
      return reply && reply->has_view() && reply->view().name().volume() == name;
    }));
  }
  for (auto& client : clients) CHECK(client.get());
}

TEST_CASE_METHOD(Fixture, "an error of the pool is a reply, and the connection goes on") {
  const auto client = connect();
  wire::ControlRequest info;
  info.mutable_info()->mutable_name()->set_volume("nothing");
  const auto reply = client->call(info, sink);
  REQUIRE(reply);
  REQUIRE(reply->has_error());
  CHECK(wire::from_wire(reply->error()).kind == ErrorKind::not_found);
  CHECK(client->call(list_request(), sink));
}

TEST_CASE_METHOD(Fixture, "a long diff reaches the client whole") {
  REQUIRE(pool->create_volume("a", 1ULL << 30));
  const ViewName snapshot[] = {{"a", "s"}};
  REQUIRE(pool->snapshot(snapshot));
  {
    auto handle = pool->open_view(pool->find({"a", {}})->id);
    REQUIRE(handle);
    const std::vector<std::byte> block(4096, std::byte{1});
    for (std::uint64_t i = 0; i < 20'000; ++i) REQUIRE((*handle)->write(i * 8192, block));
  }
  wire::ControlRequest diff;
  *diff.mutable_diff()->mutable_from() = wire::to_wire(ViewName{"a", "s"});
  *diff.mutable_diff()->mutable_to() = wire::to_wire(ViewName{"a", {}});
  const auto reply = ask(diff);
  REQUIRE(reply);
  CHECK(reply->has_done());
  CHECK(sink.ranges == 20'000);
}

TEST_CASE_METHOD(Fixture, "a request to stop is answered and told to the daemon") {
  wire::ControlRequest request;
  request.mutable_shutdown();
  REQUIRE(ask(request));
  for (int i = 0; i < 500 && shutdowns == 0; ++i) std::this_thread::sleep_for(10ms);
  CHECK(shutdowns == 1);
}

TEST_CASE_METHOD(Fixture, "the socket is for its owner only, and goes with the server") {
  CHECK(std::filesystem::status(socket()).permissions() ==
        (std::filesystem::perms::owner_read | std::filesystem::perms::owner_write));
  server.reset();
  const auto client = ControlClient::connect({socket(), "lab", {}, 10s});
  REQUIRE_FALSE(client);
  CHECK(client.error().errno_value == ECONNREFUSED);
}

TEST_CASE_METHOD(Fixture, "malformed messages are refused or dropped, and the server goes on") {
  const auto seed = test_seed();
  CAPTURE(seed);
  std::mt19937 random(seed);
  zmq::context_t context{1};
  {
    zmq::socket_t dealer(context, ZMQ_DEALER);
    dealer.set(zmq::sockopt::linger, 1000);
    dealer.connect("ipc://" + socket());
    for (int i = 0; i < 5000; ++i) {
      std::string bytes(random() % 40, '\0');
      for (char& c : bytes) c = static_cast<char>(random());
      const bool more = random() % 8 == 0;
      dealer.send(zmq::buffer(bytes), more ? zmq::send_flags::sndmore : zmq::send_flags::none);
      zmq::message_t answer;
      while (dealer.recv(answer, zmq::recv_flags::dontwait)) {
      }
    }
    dealer.send(zmq::buffer(std::string("end")), zmq::send_flags::none);
  }
  CHECK(ask(list_request()));
}

TEST_CASE_METHOD(Fixture, "a message that cannot be parsed is answered with an error") {
  zmq::context_t context{1};
  zmq::socket_t dealer(context, ZMQ_DEALER);
  dealer.set(zmq::sockopt::linger, 0);
  dealer.set(zmq::sockopt::rcvtimeo, 5000);
  dealer.connect("ipc://" + socket());
  dealer.send(zmq::buffer(std::string("\xff\xff\xff\xff")), zmq::send_flags::none);
  zmq::message_t answer;
  REQUIRE(dealer.recv(answer));
  wire::ControlMessage message;
  REQUIRE(message.ParseFromArray(answer.data(), static_cast<int>(answer.size())));
  CHECK(message.reply().has_error());
}

TEST_CASE_METHOD(Fixture, "bytes that are not ZeroMQ at all do no harm") {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socket().copy(address.sun_path, sizeof address.sun_path - 1);
  std::mt19937 random(7);
  for (int i = 0; i < 50; ++i) {
    const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    REQUIRE(::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    std::string bytes(200, '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    CHECK(::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL) >= 0);
    ::close(fd);
  }
  CHECK(ask(list_request()));
}

TEST_CASE_METHOD(Fixture, "a request larger than any sensible one is not taken") {
  const auto client = connect(1s);
  wire::ControlRequest request;
  for (int i = 0; i < 100'000; ++i) request.mutable_remove()->add_names()->set_volume(std::string(60, 'a'));
  const auto reply = client->call(request, sink);
  REQUIRE_FALSE(reply);
  CHECK(reply.error().kind == ErrorKind::no_answer);
  CHECK(ask(list_request()));
}

TEST_CASE("where nobody listens the client says so at once") {
  const test::ScratchDir dir;
  const auto start = std::chrono::steady_clock::now();
  const auto client = ControlClient::connect({dir / "none.sock", "lab", {}, 10s});
  REQUIRE_FALSE(client);
  CHECK(client.error().kind == ErrorKind::not_found);
  CHECK(client.error().errno_value == ECONNREFUSED);
  CHECK(std::chrono::steady_clock::now() - start < 1s);
}

TEST_CASE("a stale socket of a killed daemon is replaced") {
  const test::ScratchDir dir;
  const std::string path = dir / "lab.sock";
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  REQUIRE(::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
  ::close(fd); // the file stays, as after a kill
  const auto stale = ControlClient::connect({path, "lab", {}, 10s});
  REQUIRE_FALSE(stale);
  CHECK(stale.error().errno_value == ECONNREFUSED);
  const auto pool = ModelPool::make("lab");
  DaemonRecord identity;
  identity.socket_path = path;
  const auto server = ControlServer::start(*pool, {identity, {}});
  REQUIRE(server);
  CHECK(ControlClient::connect({path, "lab", {}, 10s}));
}

// Something that accepts connections and never says a word: a daemon that is stopped.
struct Mute {
  test::ScratchDir dir;
  zmq::context_t context{1};
  zmq::socket_t router{context, ZMQ_ROUTER};
  Mute() {
    router.set(zmq::sockopt::linger, 0);
    router.bind("ipc://" + path());
  }
  [[nodiscard]] std::string path() const { return dir / "lab.sock"; }
};

TEST_CASE("silence becomes no_answer after the limit, and the connection is of no more use") {
  const Mute mute;
  Silent sink;
  auto client = ControlClient::connect({mute.path(), "lab", {}, 300ms});
  REQUIRE(client);
  const auto start = std::chrono::steady_clock::now();
  const auto reply = (*client)->call(list_request(), sink);
  REQUIRE_FALSE(reply);
  CHECK(reply.error().kind == ErrorKind::no_answer);
  CHECK(reply.error().message.find("not known") != std::string::npos);
  CHECK(std::chrono::steady_clock::now() - start >= 300ms);
  CHECK(std::chrono::steady_clock::now() - start < 3s);
  CHECK((*client)->call(list_request(), sink).error().kind == ErrorKind::no_answer);
}

TEST_CASE("a daemon that died is noticed before the limit") {
  const Mute mute;
  Silent sink;
  auto client = ControlClient::connect({mute.path(), "lab", [] { return false; }, 60s});
  REQUIRE(client);
  const auto start = std::chrono::steady_clock::now();
  CHECK((*client)->call(list_request(), sink).error().kind == ErrorKind::no_answer);
  CHECK(std::chrono::steady_clock::now() - start < 10s);
}

TEST_CASE("a daemon of another protocol version is refused, saying so") {
  Mute other;
  Silent sink;
  auto answer = std::async(std::launch::async, [&] {
    zmq::message_t peer;
    zmq::message_t body;
    if (!other.router.recv(peer) || !other.router.recv(body)) return;
    wire::ControlMessage message;
    message.set_version(wire::kProtocolVersion + 1);
    message.mutable_reply()->mutable_done();
    other.router.send(peer, zmq::send_flags::sndmore);
    other.router.send(zmq::buffer(message.SerializeAsString()), zmq::send_flags::none);
  });
  auto client = ControlClient::connect({other.path(), "lab", {}, 5s});
  REQUIRE(client);
  const auto reply = (*client)->call(list_request(), sink);
  REQUIRE_FALSE(reply);
  CHECK(reply.error().errno_value == EPROTO);
  answer.get();
}

} // namespace
} // namespace vsnap
