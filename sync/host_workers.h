// The threads that carry out what the hosts of a shared pool ask for.
//
// Invariants
// 1. kMaxBusy pieces of work are carried out at once, and kMaxLasting of them, half, may be of those that can
//    last for minutes: however many commands hosts give, reads go on, and the other way round.
// 2. Within a lane hosts take turns, and the last place that is free is for one that has nothing under way
//    there. The work of one host is begun in the order in which it came.
// 3. Work that waits in core for something that may last (core/wait_listener.h) is not counted while it
//    waits, as long as kMaxPaused others do not: another piece is begun in its place. When it goes on, more
//    than kMaxBusy may be under way for a while.
// 4. Bounded: kMaxWaiting pieces, or kMaxWaitingBytes, wait; kMaxBusy + kMaxPaused threads.
// Threads: put() from any, also with locks held; work is called without. stop() by the owner.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <thread>
#include <vector>

#include "core/mutex.h"

namespace vsnap {

class HostWorkers {
 public:
  static constexpr std::size_t kMaxBusy = 8;
  static constexpr std::size_t kMaxLasting = kMaxBusy / 2;
  static constexpr std::size_t kMaxPaused = 48;
  static constexpr std::size_t kMaxWaiting = 1024;
  static constexpr std::size_t kMaxWaitingBytes = 32U << 20;
  enum class Lane { quick, lasting };
  using Work = std::function<void()>;

  HostWorkers() = default;
  ~HostWorkers() { stop(); }
  HostWorkers(const HostWorkers&) = delete;
  HostWorkers& operator=(const HostWorkers&) = delete;

  // `host`: whose turn it takes. False: too much waits already. After stop() it is forgotten.
  [[nodiscard]] bool put(Lane lane, std::uint64_t host, std::size_t bytes, Work work) VSNAP_EXCLUDES(mutex_);
  // What nobody has begun is forgotten; returns when what was begun has ended.
  void stop() VSNAP_EXCLUDES(mutex_);

 private:
  struct Piece {
    std::size_t bytes = 0;
    Work work;
  };
  struct Host {
    std::deque<Piece> waiting;
    std::size_t busy = 0;
  };
  struct Queue {                         // of a lane
    std::map<std::uint64_t, Host> hosts; // of which something waits or is under way
    std::deque<std::uint64_t> turns;     // those of which something waits, the next one first
    std::size_t busy = 0;
  };
  struct Taken {
    Lane lane = Lane::quick;
    std::uint64_t host = 0;
    Work work;
  };
  class Pause;
  void run() VSNAP_EXCLUDES(mutex_); // a thread
  void carry_out(const Taken& taken) VSNAP_EXCLUDES(mutex_);
  std::optional<Taken> take() VSNAP_REQUIRES(mutex_);
  std::optional<Taken> take(Lane lane) VSNAP_REQUIRES(mutex_);
  void count(const Taken& taken) VSNAP_REQUIRES(mutex_);
  void count_off(const Taken& taken) VSNAP_REQUIRES(mutex_);
  void call_thread() VSNAP_REQUIRES(mutex_);
  [[nodiscard]] std::size_t places_left(Lane lane) VSNAP_REQUIRES(mutex_);
  Queue& queue(Lane lane) VSNAP_REQUIRES(mutex_) { return queues_[static_cast<std::size_t>(lane)]; }

  Mutex mutex_; // a leaf
  CondVar work_there_;
  std::array<Queue, 2> queues_ VSNAP_GUARDED_BY(mutex_);
  std::size_t waiting_ VSNAP_GUARDED_BY(mutex_) = 0; // in both
  std::size_t waiting_bytes_ VSNAP_GUARDED_BY(mutex_) = 0;
  std::size_t paused_ VSNAP_GUARDED_BY(mutex_) = 0;
  std::size_t idle_ VSNAP_GUARDED_BY(mutex_) = 0; // threads, with those that have not begun yet
  bool stopped_ VSNAP_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_ VSNAP_GUARDED_BY(mutex_);
};

} // namespace vsnap
