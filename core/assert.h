// VSNAP_ASSERT checks our own invariants, also in release builds: a volume manager that has lost track of who
// owns a block must stop before it writes. It is never used on input.
#pragma once

namespace vsnap {
[[noreturn]] void assertion_failed(const char* expression, const char* file, int line) noexcept;
}

#define VSNAP_ASSERT(expression)                        \
  (static_cast<bool>(expression) ? static_cast<void>(0) \
                                 : ::vsnap::assertion_failed(#expression, __FILE__, __LINE__))
