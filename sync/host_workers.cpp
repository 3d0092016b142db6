#include "sync/host_workers.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "core/log.h"
#include "core/wait_listener.h"

namespace vsnap {

// While a thread waits in core, another may take its place.
class HostWorkers::Pause final : public WaitListener {
 public:
  Pause(HostWorkers& all, const Taken& taken) : all_(all), taken_(taken) {}
  void waits() noexcept override {
    if (depth_++ > 0) return;
    MutexLock lock(all_.mutex_);
    counted_off_ = all_.paused_ < kMaxPaused;
    if (!counted_off_) return;
    ++all_.paused_;
    all_.count_off(taken_);
    if (all_.waiting_ > 0) all_.call_thread();
  }
  void goes_on() noexcept override {
    if (--depth_ > 0) return;
    MutexLock lock(all_.mutex_);
    if (!std::exchange(counted_off_, false)) return;
    --all_.paused_;
    all_.count(taken_);
  }

 private:
  HostWorkers& all_;
  const Taken& taken_;
  int depth_ = 0;
  bool counted_off_ = false;
};

bool HostWorkers::put(Lane lane, std::uint64_t host, std::size_t bytes, Work work) {
  MutexLock lock(mutex_);
  if (stopped_) return true;
  if (waiting_ >= kMaxWaiting || bytes > kMaxWaitingBytes - waiting_bytes_) return false;
  Queue& queue = this->queue(lane);
  Host& asking = queue.hosts[host];
  if (asking.waiting.empty()) queue.turns.push_back(host);
  asking.waiting.push_back({bytes, std::move(work)});
  ++waiting_;
  waiting_bytes_ += bytes;
  call_thread();
  return true;
}

void HostWorkers::stop() {
  std::vector<std::thread> threads;
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    threads.swap(threads_);
    work_there_.notify_all();
  }
  for (std::thread& thread : threads) thread.join();
}

// A thread for what waits. One that finds nothing that it may take waits for the next call.
void HostWorkers::call_thread() {
  if (idle_ >= waiting_ || threads_.size() >= kMaxBusy + paused_) return work_there_.notify_one();
  if (stopped_) return;
  try {
    threads_.emplace_back([this] { run(); });
    ++idle_;
  } catch (const std::exception& e) { // the system's limit of threads: those that there are will take it
    log::warning("coordinator: {}", e.what());
  }
}

void HostWorkers::run() {
  for (;;) {
    std::optional<Taken> taken;
    {
      MutexLock lock(mutex_);
      while (!stopped_ && !(taken = take())) work_there_.wait(mutex_);
      if (stopped_) return;
      --idle_;
      if (waiting_ > 0) call_thread(); // what has ended may have let more than this begin
    }
    carry_out(*taken);
    MutexLock lock(mutex_);
    count_off(*taken);
    ++idle_;
  }
}

void HostWorkers::carry_out(const Taken& taken) {
  Pause pause(*this, taken);
  const ListenToWaits listens(pause);
  try {
    taken.work();
  } catch (const std::exception& e) {
    log::error("coordinator: {}", e.what());
  }
}

// Lasting work first: of that there is a limit, so that none of the two keeps the other out.
std::optional<HostWorkers::Taken> HostWorkers::take() {
  if (auto taken = take(Lane::lasting)) return taken;
  return take(Lane::quick);
}

std::size_t HostWorkers::places_left(Lane lane) {
  const std::size_t busy = queue(Lane::quick).busy + queue(Lane::lasting).busy;
  const std::size_t all = kMaxBusy - std::min(kMaxBusy, busy);
  if (lane == Lane::quick) return all;
  return std::min(all, kMaxLasting - std::min(kMaxLasting, queue(lane).busy));
}

std::optional<HostWorkers::Taken> HostWorkers::take(Lane lane) {
  Queue& queue = this->queue(lane);
  const std::size_t left = places_left(lane);
  if (left == 0) return std::nullopt;
  const auto may_begin = [&](std::uint64_t host) { return left > 1 || queue.hosts[host].busy == 0; };
  const auto next = std::find_if(queue.turns.begin(), queue.turns.end(), may_begin);
  if (next == queue.turns.end()) return std::nullopt;
  Taken taken{lane, *next, {}};
  queue.turns.erase(next);
  Host& host = queue.hosts[taken.host];
  Piece piece = std::move(host.waiting.front());
  host.waiting.pop_front();
  if (!host.waiting.empty()) queue.turns.push_back(taken.host);
  --waiting_;
  waiting_bytes_ -= piece.bytes;
  taken.work = std::move(piece.work);
  count(taken);
  return taken;
}

void HostWorkers::count(const Taken& taken) {
  Queue& queue = this->queue(taken.lane);
  ++queue.busy;
  ++queue.hosts[taken.host].busy;
}

void HostWorkers::count_off(const Taken& taken) {
  Queue& queue = this->queue(taken.lane);
  --queue.busy;
  const auto host = queue.hosts.find(taken.host);
  if (--host->second.busy == 0 && host->second.waiting.empty()) queue.hosts.erase(host);
}

} // namespace vsnap
