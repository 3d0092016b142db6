// The one place where what happens inside a handler becomes an errno for the kernel.
//
// A body answers its request as its last act and returns success, or returns an Error without having
// answered. So every request is answered exactly once, also when something below throws.
// Threads: pure; called by the workers of a session.
#pragma once

#include <exception>

#include "core/error.h"
#include "core/log.h"
#include "fuse/kernel_api.h"
#include "fuse/operations.h"
#include "fuse/request_ring.h"

namespace vsnap {

// The errno of an Error; one that nobody can cause by what he asks for is logged, as its caller sees a number
// only.
[[nodiscard]] int errno_for(const Error& error);
void report_stray(const char* what) noexcept;

// Body: Result<>(Operations&).
template <class Body>
void answer(fuse_req_t req, Body&& body) noexcept {
  int error = EIO;
  refuse_cancellation(req);
  try {
    Operations& operations = *static_cast<Operations*>(fuse_req_userdata(req));
    const Result<> result = body(operations);
    if (result) return;
    if (operations.is_open_elsewhere(result.error())) return static_cast<void>(fuse_reply_none(req));
    error = errno_for(result.error());
  } catch (const std::bad_alloc&) {
    error = ENOMEM;
  } catch (const std::exception& stray) {
    report_stray(stray.what());
  } catch (...) {
    report_stray("unknown exception");
  }
  fuse_reply_err(req, error);
}

// An error of a file operation that needs no words: only its number reaches the caller.
[[nodiscard]] inline Failure refuse(int errno_value) { return failure(ErrorKind::failed, errno_value, {}); }

} // namespace vsnap
