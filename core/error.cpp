#include "core/error.h"

#include <fmt/format.h>
#include <system_error>

namespace vsnap {

int exit_code(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::failed:
      return 1;
    case ErrorKind::usage:
      return 2;
    case ErrorKind::not_found:
      return 3;
    case ErrorKind::busy:
      return 4;
    case ErrorKind::no_space:
      return 5;
    case ErrorKind::damaged:
      return 6;
    case ErrorKind::no_answer:
      return 7;
  }
  return 1;
}

int usual_errno(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::failed:
      return EIO;
    case ErrorKind::usage:
      return EINVAL;
    case ErrorKind::not_found:
      return ENOENT;
    case ErrorKind::busy:
      return EBUSY;
    case ErrorKind::no_space:
      return ENOSPC;
    case ErrorKind::damaged:
      return EUCLEAN;
    case ErrorKind::no_answer:
      return ETIMEDOUT;
  }
  return EIO;
}

std::string_view to_string(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::failed:
      return "failed";
    case ErrorKind::usage:
      return "usage";
    case ErrorKind::not_found:
      return "not-found";
    case ErrorKind::busy:
      return "busy";
    case ErrorKind::no_space:
      return "no-space";
    case ErrorKind::damaged:
      return "damaged";
    case ErrorKind::no_answer:
      return "no-answer";
  }
  return "failed";
}

Failure failure(ErrorKind kind, std::string message) {
  return Failure(Error{kind, usual_errno(kind), std::move(message)});
}

Failure failure(ErrorKind kind, int errno_value, std::string message) {
  return Failure(Error{kind, errno_value, std::move(message)});
}

Failure system_failure(int errno_value, std::string_view what) {
  ErrorKind kind = ErrorKind::failed;
  switch (errno_value) {
    case ENOENT:
      kind = ErrorKind::not_found;
      break;
    case EBUSY:
      kind = ErrorKind::busy;
      break;
    case ENOSPC:
    case EDQUOT:
      kind = ErrorKind::no_space;
      break;
    default:
      break;
  }
  return Failure(Error{kind, errno_value == EDQUOT ? ENOSPC : errno_value,
                       fmt::format("{}: {}", what, std::generic_category().message(errno_value))});
}

} // namespace vsnap
