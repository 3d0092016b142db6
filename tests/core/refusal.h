// What a call that must fail says.
#pragma once

#include "core/error.h"
#include "tests/support/catch.h"

namespace vsnap {

template <class T>
Error refusal(const Result<T>& result) {
  REQUIRE_FALSE(result.has_value());
  return result.error();
}

inline bool says(const Error& error, std::string_view words) {
  UNSCOPED_INFO(error.message);
  return error.message.find(words) != std::string::npos;
}

} // namespace vsnap
