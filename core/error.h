// What went wrong, as a value. `core` never throws across its interface: every call that can fail returns
// Result<T>.
//
// An Error carries one line for a person ("what was asked: what is wrong (what to do next)"), the errno that
// a file operation answers with, and its kind, from which the exit code of a command follows (see
// exit_code()).
#pragma once

#include <cerrno>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

namespace vsnap {

enum class ErrorKind {
  failed,    // it could not be done; nothing changed
  usage,     // wrong usage, a bad name or size
  not_found, // no such pool, volume or snapshot
  busy,      // in use, held, or locked by another process or host
  no_space,
  damaged,   // damage found, or the pool refuses to open because of it
  no_answer, // the outcome is unknown
};

struct [[nodiscard]] Error {
  ErrorKind kind = ErrorKind::failed;
  int errno_value = EIO;
  std::string message;
};

template <class T = void>
using Result = tl::expected<T, Error>;
using Failure = tl::unexpected<Error>;

// Exit code of a command that ends with this error: 1 to 7, as in vsnap(1).
[[nodiscard]] int exit_code(ErrorKind kind);
// The kind's usual errno: EIO, EINVAL, ENOENT, EBUSY, ENOSPC, EUCLEAN, ETIMEDOUT.
[[nodiscard]] int usual_errno(ErrorKind kind);
[[nodiscard]] std::string_view to_string(ErrorKind kind);

[[nodiscard]] Failure failure(ErrorKind kind, std::string message);
[[nodiscard]] Failure failure(ErrorKind kind, int errno_value, std::string message);
// "WHAT: strerror(errno_value)", with the kind that fits the errno. One that is out of quota has no space:
// EDQUOT itself is SnapshotLimit's, and nothing else may answer it.
[[nodiscard]] Failure system_failure(int errno_value, std::string_view what);

} // namespace vsnap

// VSNAP_TRY(expr): returns the error of expr from the enclosing function, if it is one.
#define VSNAP_JOIN2(a, b) a##b
#define VSNAP_JOIN(a, b) VSNAP_JOIN2(a, b)
#define VSNAP_TRY(...) VSNAP_TRY_NAMED(VSNAP_JOIN(vsnap_result_, __COUNTER__), __VA_ARGS__)
#define VSNAP_TRY_NAMED(name, ...)                      \
  do {                                                  \
    if (auto name = (__VA_ARGS__); !name) {             \
      return ::vsnap::Failure(std::move(name).error()); \
    }                                                   \
  } while (false)

// VSNAP_TRY_ASSIGN(declaration, expr): the same, and keeps the value.
#define VSNAP_TRY_ASSIGN(declaration, ...) \
  VSNAP_TRY_ASSIGN_NAMED(VSNAP_JOIN(vsnap_value_, __COUNTER__), declaration, __VA_ARGS__)
#define VSNAP_TRY_ASSIGN_NAMED(name, declaration, ...) \
  auto name = (__VA_ARGS__);                           \
  if (!name) {                                         \
    return ::vsnap::Failure(std::move(name).error());  \
  }                                                    \
  declaration = std::move(*name)
