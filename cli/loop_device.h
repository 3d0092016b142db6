// Loop devices over files of a mounted pool.
//
// Invariants
// 1. Only devices over files under a mount of ours are listed as ours and detached.
// 2. detach() returns when the device is free, or with busy when somebody has it open; it never leaves a
//    device that will detach itself later.
// Threads: plain functions; any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/error.h"

namespace vsnap::cli {

struct LoopDevice {
  std::string device;       // /dev/loopN
  std::string backing_file; // as the kernel tells it
  bool read_only = false;
};

// Attached ones that `wanted` asks for by what sysfs tells, and whose file is seen here. Only those that it
// asks for are opened, and their files looked at: others' may be slow, or wait for a daemon that is dead.
[[nodiscard]] std::vector<LoopDevice> loop_devices(const std::function<bool(const LoopDevice&)>& wanted);

struct LoopOptions {
  std::string file;
  std::uint32_t sector_size_bytes = 512;
  bool read_only = false;
};
// The device's path. Direct I/O, so that nothing is cached twice.
Result<std::string> loop_attach(const LoopOptions& options);
Result<> loop_detach(const LoopDevice& device);

} // namespace vsnap::cli
