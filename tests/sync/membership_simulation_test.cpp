// The two machines of membership against each other, over a network that loses, doubles, reorders and delays,
// with clocks of different rates, processes that stand still, and coordinators that end and begin again.
#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <vector>

#include "sync/host_session.h"
#include "sync/membership.h"
#include "tests/support/seed.h"
#include "tests/support/catch.h"

namespace vsnap {
namespace {

constexpr std::int64_t kMs = 1'000'000;
constexpr std::int64_t kLease = 3000 * kMs;
constexpr std::int64_t kStep = 10 * kMs;
constexpr Uuid kPool{1, 2, 3};

HostKey key(std::uint8_t number) {
  HostKey made{};
  made.fill(number);
  return made;
}

class World {
 public:
  explicit World(std::uint64_t seed) : random_(seed) {
    for (std::uint8_t n = 0; n < 3; ++n) hosts_.emplace_back(n, random_());
    restart();
  }
  void run(int steps) {
    for (int i = 0; i < steps; ++i) step();
    calm_ = true; // what is under way comes to an end
    for (int i = 0; i < 3000; ++i) step();
  }
  void check_end() {
    for (const Host& host : hosts_) {
      CHECK(host.machine->phase() == HostSession::Phase::normal);
      CHECK(host.answered.size() == host.asked);
    }
    CHECK(sessions_ > 3); // something happened
  }

 private:
  struct Host {
    Host(std::uint8_t number, std::uint64_t incarnation)
        : id(number + 1U),
          machine(std::make_unique<HostSession>(HostSession::Settings{incarnation | 1U, kPool})) {}
    std::uint64_t id;
    std::unique_ptr<HostSession> machine;
    std::int64_t stands_still_until = 0;
    std::uint64_t asked = 0;
    std::set<std::uint64_t> answered;
    std::uint64_t told = 0; // number of the last notice in this session
  };
  struct Flight {
    std::int64_t arrives = 0;
    std::uint64_t host = 0;
    bool to_host = false;
    LinkMessage message;
  };

  bool chance(unsigned percent) { return !calm_ && random_() % 100 < percent; }
  // One host's clock is slow, one is fast, by 2 %; all begin somewhere else.
  [[nodiscard]] std::int64_t clock_of(const Host& host) const {
    return now_ + (static_cast<std::int64_t>(host.id) - 2) * (now_ / 50) +
           static_cast<std::int64_t>(host.id) * 977 * kMs;
  }

  void restart() {
    machine_ = std::make_unique<Membership>(Membership::Settings{++epoch_, kLease, "lab", kPool});
    running_.clear();
    for (const Host& host : hosts_)
      static_cast<void>(machine_->step(
          Membership::HostAdded{{host.id, "h", key(static_cast<std::uint8_t>(host.id)), 0}}, now_));
  }
  void send(std::uint64_t host, bool to_host, const LinkMessage& message) {
    if (chance(10) || cut_off_ == host) return;
    for (int copies = chance(10) ? 2 : 1; copies > 0; --copies) {
      const std::int64_t delay = chance(5) ? static_cast<std::int64_t>(random_() % 4000) * kMs
                                           : static_cast<std::int64_t>(random_() % 30) * kMs;
      flights_.push_back({now_ + delay, host, to_host, message});
    }
  }

  void act(const Membership::Actions& actions) {
    for (const auto& action : actions) {
      if (const auto* sent = std::get_if<Membership::Send>(&action)) {
        send(static_cast<std::uint64_t>(sent->route[0] - '0'), true, sent->message);
      } else if (const auto* asked = std::get_if<Membership::Execute>(&action)) {
        INFO("request " << asked->request.id() << " of host " << asked->host.id << " in reign " << epoch_);
        REQUIRE(carried_out_.emplace(epoch_, asked->host.id, asked->request.id()).second);
        running_.push_back({asked->host.id, asked->incarnation, asked->request.id()});
      } else if (const auto* over = std::get_if<Membership::SessionOver>(&action)) {
        check_over(*over);
      } else {
        ++sessions_;
      }
    }
  }
  // The coordinator may give away what the host held: the host must not have it any more.
  void check_over(const Membership::SessionOver& over) {
    const Host& host = hosts_[over.host - 1];
    const bool still_there = host.machine->session() == over.session && host.machine->epoch() == epoch_ &&
                             host.machine->lease_left_ns(clock_of(host)) > 0;
    INFO("host " << over.host << " session " << over.session);
    REQUIRE_FALSE(still_there);
  }
  void act(Host& host, const HostSession::Actions& actions) {
    for (const auto& action : actions) {
      if (const auto* sent = std::get_if<HostSession::Send>(&action)) {
        send(host.id, false, sent->message);
      } else if (const auto* answer = std::get_if<HostSession::Answer>(&action)) {
        REQUIRE(host.answered.insert(answer->reply.id()).second);
      } else if (const auto* told = std::get_if<HostSession::Told>(&action)) {
        REQUIRE(told->notice.number() == ++host.told);
      } else if (std::holds_alternative<HostSession::Began>(action)) {
        host.told = 0;
      }
      REQUIRE_FALSE(std::holds_alternative<HostSession::Ended>(action));
    }
  }

  void deliver() {
    std::vector<Flight> arrived;
    std::erase_if(flights_, [&](Flight& flight) {
      const bool waits =
          flight.to_host ? hosts_[flight.host - 1].stands_still_until > now_ : stands_still_until_ > now_;
      if (flight.arrives > now_ || waits) return false;
      arrived.push_back(std::move(flight));
      return true;
    });
    std::shuffle(arrived.begin(), arrived.end(), random_);
    for (Flight& flight : arrived) {
      Host& host = hosts_[flight.host - 1];
      if (flight.to_host) {
        act(host, host.machine->step(HostSession::Received{std::move(flight.message)}, clock_of(host)));
      } else {
        const LinkPeer peer{key(static_cast<std::uint8_t>(host.id)), std::to_string(host.id), "x"};
        act(machine_->step(Membership::Received{peer, std::move(flight.message)}, now_));
      }
    }
  }
  void end_some_requests() {
    if (running_.empty() || random_() % 5 != 0) return;
    std::swap(running_[random_() % running_.size()], running_.back());
    const auto [host, incarnation, request] = running_.back();
    running_.pop_back();
    wire::LinkReply reply;
    reply.set_id(request);
    act(machine_->step(Membership::Answered{host, incarnation, reply}, now_));
  }

  void step() {
    now_ += kStep;
    if (random_() % 300 == 0 || calm_) cut_off_ = calm_ || random_() % 2 == 0 ? 0 : 1 + random_() % 3;
    if (!calm_ && random_() % 1500 == 0) restart();
    if (!calm_ && random_() % 700 == 0)
      stands_still_until_ = now_ + static_cast<std::int64_t>(random_() % 4000) * kMs;
    deliver();
    if (stands_still_until_ <= now_) {
      act(machine_->step(Membership::Tick{}, now_));
      if (chance(2)) act(machine_->step(Membership::Tell{0, {}}, now_));
      end_some_requests();
    }
    for (Host& host : hosts_) {
      if (!calm_ && random_() % 700 == 0)
        host.stands_still_until = now_ + static_cast<std::int64_t>(random_() % 6000) * kMs;
      if (host.stands_still_until > now_) continue;
      act(host, host.machine->step(HostSession::Tick{}, clock_of(host)));
      if (!chance(2) || host.asked - host.answered.size() > 20) continue;
      ++host.asked;
      act(host, host.machine->step(HostSession::Ask{}, clock_of(host)));
    }
  }

  std::mt19937_64 random_;
  std::int64_t now_ = 1'000'000 * kMs;
  bool calm_ = false;
  std::uint64_t epoch_ = 0;
  std::unique_ptr<Membership> machine_;
  std::int64_t stands_still_until_ = 0; // the coordinator
  std::uint64_t cut_off_ = 0;           // that host; 0: none
  std::vector<Host> hosts_;
  std::vector<Flight> flights_;
  std::vector<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>> running_; // host, incarnation, request
  std::set<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>> carried_out_; // reign, host, request
  int sessions_ = 0;
};

TEST_CASE("no lease is over at the coordinator before it is at the host, and all is done once") {
  const std::uint64_t seed = test_seed();
  const char* const given = std::getenv("VSNAP_MEMBERSHIP_WORLDS");
  const std::uint64_t worlds = given != nullptr ? std::strtoull(given, nullptr, 10) : 500;
  for (std::uint64_t i = 0; i < worlds; ++i) {
    INFO("world " << i << " of seed " << seed);
    World world(seed + i);
    world.run(6000);
    world.check_end();
  }
}

} // namespace
} // namespace vsnap
