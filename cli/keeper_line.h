// The line between a daemon and its keeper (keeper.h), and between that and the command that waits for the
// mount to work, which hears `ready` or `failed`: short messages, some with descriptors, over a socket pair.
// Either end may be of another release of vsnap than the other, so what a message says never changes its
// meaning, and unknown ones and unknown fields are ignored.
//
//   keeper ──► daemon   keep: descriptors of the mount that a predecessor served;
//                       hold: those of the members that it had open, with their locks; then
//                       start: what to serve
//   daemon ──► keeper   keep: the descriptors of its mount
//                       hold: those of its members
//                       ready: it serves; or
//                       failed: why not
//                       next: when it has ended, its successor is to be that program
//                       let_go: the mount ends; answered when the descriptors are closed
//
// Invariant: a message arrives whole or not at all; the end of the other process is seen as the end of the
// line.
// Threads: send() any; the rest one at each end.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "cli/daemon.h"
#include "core/error.h"

namespace vsnap::cli {

enum class Word : char {
  keep = 'K',
  hold = 'H',
  start = 'S',
  ready = 'R',
  failed = 'E',
  next = 'N',
  let_go = 'L',
};

struct KeeperMessage {
  Word word;
  std::string text;
  std::vector<int> descriptors; // of the receiver
};

class KeeperLine {
 public:
  explicit KeeperLine(int socket) : socket_(socket) {}
  ~KeeperLine();
  KeeperLine(KeeperLine&& other) noexcept : socket_(other.socket_) { other.socket_ = -1; }
  KeeperLine& operator=(KeeperLine&&) = delete;

  struct Ends;
  static Result<Ends> make();
  [[nodiscard]] int socket() const { return socket_; }

  // False: the other end is gone.
  bool send(Word word, const std::string& text = {}) const;
  bool send_descriptors(Word word, const std::vector<int>& descriptors) const; // as one or more of it
  void wait(std::chrono::milliseconds longest) const; // for an answer, which is not looked at
  [[nodiscard]] std::optional<KeeperMessage> receive()
      const; // nullopt: the other end is gone, or not all came

 private:
  int socket_;
};

struct KeeperLine::Ends {
  KeeperLine keeper;
  KeeperLine daemon;
};

// What `start` and `failed` say.
[[nodiscard]] Result<std::string> text_of(const DaemonOptions& options);
Result<DaemonOptions> options_of(const std::string& text);
[[nodiscard]] std::string text_of(const Error& error);
[[nodiscard]] Error error_of(const std::string& text);

} // namespace vsnap::cli
