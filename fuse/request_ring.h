// FUSE over io_uring: instead of one queue behind /dev/fuse the kernel keeps a ring for each CPU, and hands a
// request over with the answer to the one before (Linux 6.14, libfuse 3.18.2).
//
// Invariants
// 1. Whoever asks for it and cannot have it gets a mount over /dev/fuse all the same, and one line in the log
//    that says why.
// 2. A request from a ring is answered by the thread that got it, before it waits for the next one: in
//    libfuse 3.18 a thread must not submit to a ring whose own thread may be about to. So nothing is answered
//    later, and no handle is cached: a write beside one has to wait for the kernel to drop its pages.
// Threads: negotiate_ring() in the thread that answers INIT; the rest by any worker.
#pragma once

#include <pthread.h>
#include <cstddef>
#include <span>

#include "fuse/kernel_api.h"

namespace vsnap {

// What libfuse and the mount have to be asked for it; nothing where this libfuse does not know it.
[[nodiscard]] const char* ring_mount_option();
// Takes the kernel's offer where it is wanted. False: requests come over /dev/fuse.
[[nodiscard]] bool negotiate_ring(fuse_conn_info& connection, bool wanted);

// Where the answer to a read is to lie, if the request came from a ring and has room for it; else empty.
inline std::span<std::byte> reply_space([[maybe_unused]] fuse_req_t req) {
#if VSNAP_FUSE_OVER_IO_URING
  char* bytes = nullptr;
  std::size_t size = 0;
  if (fuse_req_is_uring(req) && fuse_req_get_payload(req, &bytes, &size, nullptr) == 0) {
    return std::as_writable_bytes(std::span(bytes, size));
  }
#endif
  return {};
}

// libfuse ends the threads of its rings by cancelling them, wherever they are. They end by themselves too.
inline void refuse_cancellation([[maybe_unused]] fuse_req_t req) {
#if VSNAP_FUSE_OVER_IO_URING
  thread_local bool refused = false;
  if (refused || !fuse_req_is_uring(req)) return;
  ::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, nullptr);
  refused = true;
#endif
}

} // namespace vsnap
