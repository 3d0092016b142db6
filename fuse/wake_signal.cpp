#include "fuse/wake_signal.h"

#include <unistd.h>
#include <csignal>

namespace vsnap {
namespace {

// A real-time signal that neither the C library nor common libraries use.
int wake_signal() { return SIGRTMIN + 7; }
void ignore(int) {}

} // namespace

void install_wake_signal() {
  struct sigaction action = {};
  action.sa_handler = ignore; // a handler, not SIG_IGN, and without SA_RESTART: the read has to return
  sigemptyset(&action.sa_mask);
  ::sigaction(wake_signal(), &action, nullptr);
}

void allow_wake_signal() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, wake_signal());
  ::pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

void send_wake_signal(pid_t thread) { ::tgkill(::getpid(), thread, wake_signal()); }

} // namespace vsnap
