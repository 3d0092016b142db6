// Grace periods: how long a place or a map that was taken out of use must be left alone because an I/O that
// began before may still look at it. The scheme is sleepable RCU (McKenney, "Sleepable Read-Copy Update",
// 2006): counters for two epochs, spread over shards; synchronize() turns the epoch over and waits for the
// old one to run dry, twice.
//
// Invariant: an I/O that entered before synchronize() was called has left when it returns.
// Threads: any. enter() and leave() never wait. synchronize() must not be called between them.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "core/mutex.h"

namespace vsnap {

class Grace {
 public:
  struct Token {
    std::uint32_t shard = 0;
    std::uint32_t epoch = 0;
  };
  Token enter();
  void leave(Token token);
  void synchronize() VSNAP_EXCLUDES(mutex_);

  class Section { // enters, and leaves at its end
   public:
    explicit Section(Grace& grace) : grace_(grace), token_(grace.enter()) {}
    ~Section() { grace_.leave(token_); }
    Section(const Section&) = delete;
    Section& operator=(const Section&) = delete;

   private:
    Grace& grace_;
    Token token_;
  };

 private:
  static constexpr std::size_t kShards = 16;
  struct alignas(64) Shard {
    std::atomic<std::uint64_t> inside[2] = {0, 0};
  };
  void wait_for_epoch(std::uint32_t epoch);

  std::array<Shard, kShards> shards_;
  std::atomic<std::uint32_t> epoch_{0};
  Mutex mutex_; // one synchronize() at a time
};

} // namespace vsnap
