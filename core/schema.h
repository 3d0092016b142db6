// The tables of the catalog. man/vsnap-pool-format.5 explains them to people; `vsnap catalog dump` shows
// them.
#pragma once

namespace vsnap::schema {

inline constexpr int kVersion = 2;                // PRAGMA user_version; older ones are brought to it
inline constexpr int kApplicationId = 0x76736e70; // "vsnp"
extern const char* const kCreate;                 // of version 1
extern const char* const kAddedIn2;               // what version 2 has besides

} // namespace vsnap::schema
