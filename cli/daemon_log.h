// The log of a daemon in the background and its keeper.
// Threads: the main thread, before another writes messages.
#pragma once

#include <string>

namespace vsnap::cli {

// From now on nobody looks at the terminal: standard error goes to the pool's log, whose lines have the time.
void leave_terminal(const std::string& pool);
// Of a process that may have inherited the log as its standard error: then its lines have the time, too.
void know_log(const std::string& pool);

} // namespace vsnap::cli
