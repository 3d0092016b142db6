// Messages between hosts and their coordinator, as they may come from a host that does what it likes. The
// input is a row of steps, each a byte that says what, two for a length n, and n bytes:
//
//   0  a message as it lies on the wire      1, 2  to the coordinator, from one host or another
//   3  to a host's side                      4     time passes: n milliseconds; no bytes
//   5  a request has ended                   6     a notice for everybody
//
// To the machines a message goes with its type, epoch, session and sequence as the first four bytes say, and
// the rest as its payload; so that what lies behind the checksum is reached.
//
// What is decoded is encoded to the same bytes. The coordinator never has a request of a process carried out
// that is running already; what it sends can be decoded, is numbered upwards in each session, and goes to the
// route of that host; memory stays bounded. A host's lease never lasts longer than it was told.
#include <map>
#include <set>
#include <span>
#include <tuple>
#include <vector>

#include "sync/host_session.h"
#include "sync/link_message.h"
#include "sync/membership.h"
#include "tests/fuzz/fuzz.h"

using namespace vsnap;

namespace {

constexpr std::int64_t kMillisecond = 1'000'000;
constexpr std::int64_t kLease = 1000 * kMillisecond;
constexpr Uuid kPool{1, 2, 3};

HostKey key(std::uint8_t number) {
  HostKey made{};
  made.fill(number);
  return made;
}

struct Input {
  std::span<const std::uint8_t> bytes;
  std::uint8_t byte() {
    if (bytes.empty()) return 0;
    const std::uint8_t value = bytes.front();
    bytes = bytes.subspan(1);
    return value;
  }
  std::string text(std::size_t size) {
    size = std::min(size, bytes.size());
    const std::string out(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    bytes = bytes.subspan(size);
    return out;
  }
};

void decode_any(const std::string& bytes) {
  const std::string_view parts[] = {bytes};
  const auto message = link_message::decode(parts);
  if (message) VSNAP_HOLDS(link_message::encode(*message) == bytes);
}

LinkMessage message_of(const std::string& bytes) {
  const auto at = [&](std::size_t i) { return i < bytes.size() ? static_cast<unsigned char>(bytes[i]) : 0U; };
  return {static_cast<LinkType>(at(0)), 0, at(1), at(2), at(3), bytes.size() > 4 ? bytes.substr(4) : ""};
}

struct World {
  Membership coordinator{{3, kLease, "lab", kPool}};
  HostSession host{{77, kPool}};
  std::int64_t now = 1000 * kMillisecond;
  std::set<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>> running; // host, incarnation, request
  std::map<std::uint64_t, std::uint64_t> sent;                               // by session

  World() {
    for (std::uint8_t n = 1; n <= 2; ++n)
      act(coordinator.step(Membership::HostAdded{{n, "host", key(n), 0}}, now));
  }
  void act(const Membership::Actions& actions) {
    for (const auto& action : actions) {
      if (const auto* send = std::get_if<Membership::Send>(&action)) {
        decode_any(link_message::encode(send->message));
        VSNAP_HOLDS(send->route == "1" || send->route == "2");
        if (send->message.type != LinkType::refused)
          VSNAP_HOLDS(send->message.sequence >
                      std::exchange(sent[send->message.session], send->message.sequence));
      } else if (const auto* asked = std::get_if<Membership::Execute>(&action)) {
        VSNAP_HOLDS(running.emplace(asked->host.id, asked->incarnation, asked->request.id()).second);
      }
    }
    const auto status = coordinator.status(now);
    VSNAP_HOLDS(status.size() <= 2);
    for (const HostStatus& one : status)
      VSNAP_HOLDS(one.lease_left_ns <= kLease + kLease / 20 || one.session == 0);
  }
  void to_coordinator(std::uint8_t from, const std::string& bytes) {
    act(coordinator.step(Membership::Received{{key(from), std::string(1, static_cast<char>('0' + from)), "x"},
                                              message_of(bytes)},
                         now));
  }
  void to_host(const std::string& bytes) {
    static_cast<void>(host.step(HostSession::Received{message_of(bytes)}, now));
    VSNAP_HOLDS(host.session() == 0 || host.lease_left_ns(now) > 0);
  }
  void pass(std::int64_t milliseconds) {
    for (; milliseconds > 0; milliseconds -= 200) { // as a coordinator that runs
      now += std::min<std::int64_t>(milliseconds, 200) * kMillisecond;
      act(coordinator.step(Membership::Tick{}, now));
      static_cast<void>(host.step(HostSession::Tick{}, now));
    }
  }
  void end_request() {
    if (running.empty()) return;
    const auto [id, incarnation, request] = *running.begin();
    running.erase(running.begin());
    wire::LinkReply reply;
    reply.set_id(request);
    act(coordinator.step(Membership::Answered{id, incarnation, reply}, now));
  }
};

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  World world;
  Input input{{data, size}};
  for (int steps = 0; steps < 5000 && !input.bytes.empty(); ++steps) {
    const std::uint8_t what = input.byte() % 7;
    const std::size_t length = input.byte() | static_cast<std::size_t>(input.byte()) << 8U;
    if (what == 4) {
      world.pass(static_cast<std::int64_t>(length));
      continue;
    }
    const std::string bytes = what < 4 ? input.text(length) : std::string();
    if (what == 0) decode_any(bytes);
    if (what == 1 || what == 2) world.to_coordinator(what, bytes);
    if (what == 3) world.to_host(bytes);
    if (what == 5) world.end_request();
    if (what == 6) world.act(world.coordinator.step(Membership::Tell{0, {}}, world.now));
  }
  return 0;
}
