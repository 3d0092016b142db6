// How long a configuration operation keeps hosts from writing: as an operation draws its line, or needs a
// volume back that is delegated, writes wait; whoever asked for it is told for how long.
//
// Invariants
// 1. What counts begins when the first host is told to return a volume (delegation.h), or the first gate is
//    closed, and ends when all of them are open again; where a volume was taken back, when it may be given
//    again, which is when the operation has ended. Its host may write through the coordinator before that.
// 2. A host counts once. This one counts where a gate was closed: writes of other hosts go through it, too.
// Threads: a PauseNote is of the calling thread, and operations note in that of the thread that they run in;
// where there is none, nowhere.
#pragma once

#include <cstdint>
#include <set>

#include "core/env.h"

namespace vsnap {

struct Pause {
  std::int64_t held_ns = 0; // several one after the other: their sum
  std::uint32_t hosts = 0;
  bool operator==(const Pause&) const = default;
};

// While it lives, what the calling thread's operations hold up is noted in it. They do not nest.
class PauseNote {
 public:
  PauseNote();
  ~PauseNote();
  PauseNote(const PauseNote&) = delete;
  PauseNote& operator=(const PauseNote&) = delete;
  [[nodiscard]] Pause pause() const; // of what has ended

 private:
  friend class WritesHeld;
  friend class UntilGivenAgain;
  void begin(std::int64_t now_ns, std::uint64_t host);
  void end(std::int64_t now_ns);

  std::int64_t since_ns_ = 0;
  std::int64_t held_ns_ = 0;
  unsigned depth_ = 0;            // reasons to wait, now
  bool taken_back_ = false;       // one of them
  std::set<std::uint64_t> hosts_; // by HostInfo::id; 0 is this one
};

// Lives while gates of this host are closed.
class WritesHeld {
 public:
  explicit WritesHeld(Env& env);
  ~WritesHeld();
  WritesHeld(const WritesHeld&) = delete;
  WritesHeld& operator=(const WritesHeld&) = delete;

 private:
  Env& env_;
};

// Lives as long as an operation, from before to after it has the lock without which no volume is given.
class UntilGivenAgain {
 public:
  explicit UntilGivenAgain(Env& env) : env_(env) {}
  ~UntilGivenAgain();
  UntilGivenAgain(const UntilGivenAgain&) = delete;
  UntilGivenAgain& operator=(const UntilGivenAgain&) = delete;

  // Such a host is about to be told to return a volume.
  static void told(Env& env, std::uint64_t host);

 private:
  Env& env_;
};

} // namespace vsnap
