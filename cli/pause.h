// How long a command held writes to volumes, as it says so (core/pause.h).
// Threads: any; pure functions.
#pragma once

#include <string>

#include "cli/output.h"
#include "sync/wire.h"

namespace vsnap::cli {

// pause_ns and hosts; null where the answer does not have them: nothing was done (-n), or the request had
// been carried out before.
void add_pause(Json& out, const wire::ControlReply& reply);
// A line for -v: "lab/v@s: I/O paused for 1.8 ms (2 hosts)". Empty where nothing was held.
[[nodiscard]] std::string pause_text(const std::string& what, const wire::ControlReply& reply);

} // namespace vsnap::cli
