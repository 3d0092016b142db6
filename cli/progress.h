// How far a long command is, on a terminal: percentage, rate and time left on one line of standard error.
// Silent when standard error is no terminal, or with -q or --json. Threads: one thread at a time.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace vsnap::cli {

enum class ProgressUnit { bytes, extents, pages };

// "flatten lab/vm1: 42% of 10G, 210M/s, 28 s left", "check lab: 42% of 1000 extents, 90/s, 6 s left"; pure,
// for tests.
[[nodiscard]] std::string progress_line(const std::string& what, ProgressUnit unit, std::uint64_t done,
                                        std::uint64_t total, double elapsed_s);

class ProgressMeter {
 public:
  ProgressMeter(std::string what, ProgressUnit unit, bool wanted);
  ~ProgressMeter(); // clears the line
  ProgressMeter(const ProgressMeter&) = delete;
  ProgressMeter& operator=(const ProgressMeter&) = delete;
  void update(std::uint64_t done, std::uint64_t total);

 private:
  using Clock = std::chrono::steady_clock;
  const std::string what_;
  const ProgressUnit unit_;
  const bool shown_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point last_{};
  std::size_t width_ = 0; // of what stands on the line now
};

} // namespace vsnap::cli
