// The tables of the catalog. man/vsnap-pool-format.5 explains them to people; `vsnap catalog dump` shows
// them.
#pragma once

namespace vsnap::schema {

inline constexpr int kVersion = 1;                // PRAGMA user_version
inline constexpr int kApplicationId = 0x76736e70; // "vsnp"
extern const char* const kCreate;

} // namespace vsnap::schema
