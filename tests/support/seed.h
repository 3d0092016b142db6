// The seed of a random test: VSNAP_TEST_SEED, or a new one; printed, so that a failure can be run again.
// packaging/run-tests sets it, or searches with new ones.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

namespace vsnap {

inline std::uint64_t test_seed() {
  const char* const given = std::getenv("VSNAP_TEST_SEED");
  const std::uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
  std::printf("VSNAP_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  return seed;
}

} // namespace vsnap
