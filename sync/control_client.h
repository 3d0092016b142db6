// A command's end of the control socket: one connection, one request at a time.
//
// Invariants
// 1. call() returns within the silence limit after the daemon's last sign of life, or soon after its process
//    is gone, or does not listen any more.
// 2. An error of kind no_answer says whether anybody can be asked again what became of the request:
//    ECONNRESET where the daemon is gone, ETIMEDOUT where it may still be at work.
// 3. After an error of kind no_answer the connection is of no more use: a late reply could be taken for the
//    next one's.
//
// Threads: used by one thread.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "sync/control_handler.h"

namespace vsnap {

class ControlClient {
 public:
  struct Options {
    std::string socket_path;
    std::string pool;                      // for messages
    std::function<bool()> daemon_is_alive; // asked when nothing is heard; empty: not known
    std::chrono::milliseconds silence_limit{10'000};
  };
  // Nobody listens there: not_found with ECONNREFUSED, at once.
  static Result<std::unique_ptr<ControlClient>> connect(Options options);
  virtual ~ControlClient() = default;
  // Sets the request's version. What the daemon answers, also an error of its own, is the reply; an Error is
  // one of the connection. When sink.progress() says false the daemon is asked to give up, and its answer is
  // waited for.
  virtual Result<wire::ControlReply> call(wire::ControlRequest request, ControlSink& sink) = 0;
};

} // namespace vsnap
