// A command of the administrator's that cuts a host off a pool (vsnap mount --fence): a line for /bin/sh,
// with the pool's name as $1 and the host's as $2, and as VSNAP_POOL and VSNAP_HOST. Its output goes where
// this process logs.
//
// Invariants
// 1. Only exit code 0 says that the host is fenced. Whatever else happens is in the log, and says nothing.
// 2. A command that does not end in time, or in the middle of which give_up() comes, is killed with its
// process
//    group, and has ended when run() returns.
// Threads: any; several commands may run at once.
#pragma once

#include <chrono>
#include <string>

#include "cli/descriptor.h"

namespace vsnap::cli {

class FenceCommand {
 public:
  static constexpr std::chrono::milliseconds kLongest{60'000};

  FenceCommand(std::string command, std::string pool, std::chrono::milliseconds longest = kLongest);
  FenceCommand(const FenceCommand&) = delete;
  FenceCommand& operator=(const FenceCommand&) = delete;

  [[nodiscard]] bool run(const std::string& host) const;
  // This process is about to end: what runs is killed, and nothing runs from now on.
  void give_up() const noexcept;

 private:
  const std::string command_;
  const std::string pool_;
  const std::chrono::milliseconds longest_;
  const Descriptor given_up_; // readable: yes
};

} // namespace vsnap::cli
