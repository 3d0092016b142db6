// The QEMU guest agent of a virtual machine, over the socket of its channel: JSON, one object a line
// (qemu-ga-ref(7)). Freezes the file systems of the guest, after its freeze hooks have run.
//
// Invariants
// 1. No call takes longer than until its deadline, whatever the other end does; what it sends is bounded.
// 2. An answer is that to the last question: connections start with guest-sync-delimited, and so does
//    whatever follows an answer that did not come.
// Threads: used by one thread at a time.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "cli/descriptor.h"
#include "core/error.h"

namespace vsnap::cli {

class GuestAgent {
 public:
  using Clock = std::chrono::steady_clock;

  // Returns once it has answered.
  static Result<std::unique_ptr<GuestAgent>> connect(const std::string& socket, Clock::time_point deadline);
  // How many file systems. After an error some may be frozen: thaw().
  Result<std::uint64_t> freeze(Clock::time_point deadline);
  Result<bool> is_frozen(Clock::time_point deadline);
  // Tries again, over a new connection, until it has worked or the time has passed.
  Result<> thaw(Clock::time_point deadline);
  // Leaves the connection to a process that was forked; thaw() makes one anew.
  void disconnect() { connection_.reset(); }

  [[nodiscard]] const std::string& socket() const { return socket_; }
  [[nodiscard]] int descriptor() const { return connection_.get(); }
  // The process that listens there: QEMU itself, where it made the socket; 0: not known.
  [[nodiscard]] pid_t peer() const;

 private:
  using Json = nlohmann::json;

  explicit GuestAgent(std::string socket) : socket_(std::move(socket)) {}
  Result<> open_connection(Clock::time_point deadline);
  Result<> synchronise(Clock::time_point deadline);
  Result<Json> ask(const std::string& command, Clock::time_point deadline);
  Result<> send(std::string text, Clock::time_point deadline);
  Result<std::string> receive_until(char end, Clock::time_point deadline);
  [[nodiscard]] Failure no_answer() const;
  [[nodiscard]] Failure lost(int errno_value) const;

  const std::string socket_;
  Descriptor connection_;
  std::string received_; // and not looked at yet
  std::uint64_t syncs_ = 0;
};

} // namespace vsnap::cli
