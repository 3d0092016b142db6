// Between a command and the daemons that it asks one after the other: each next one begins anew, and the
// command hears everything once.
//
// Invariant: ranges of a diff are handed on in order of offset, and each byte of the volume once.
// Threads: the main thread only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sync/control_handler.h"

namespace vsnap::cli {

class ResumingSink final : public ControlSink {
 public:
  explicit ResumingSink(ControlSink& inner) : inner_(inner) {}
  bool progress(std::uint64_t done, std::uint64_t total) override;
  bool diff(std::span<const DiffRange> ranges) override;
  // The command wants no more.
  [[nodiscard]] bool gave_up() const { return gave_up_; }

 private:
  ControlSink& inner_;
  std::uint64_t heard_up_to_ = 0; // offset
  bool gave_up_ = false;
};

} // namespace vsnap::cli
