// The signal that wakes a worker which waits for a request, so that it sees that the session is to end. It
// does nothing but interrupt that one system call. Any thread may call these.
#pragma once

#include <sys/types.h>

namespace vsnap {

void install_wake_signal();          // once for the process, before the first worker
void allow_wake_signal();            // in the thread to be woken, whatever it inherited
void send_wake_signal(pid_t thread); // a thread of this process; no harm where it is gone

} // namespace vsnap
