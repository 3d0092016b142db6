// What several clients did to the blocks of a volume, and whether one volume could have answered so.
//
// Each block is a register: linearizable (Herlihy and Wing, "Linearizability", 1990), 0 at first, every write
// of a value that no other one writes. As a value names its write, this takes no search: the method is that
// of Gibbons and Korach, "Testing shared memories" (SIAM J. Comput. 26, 1997). A write and the reads of its
// value are a cluster; its *zone* reaches from where the first of them returned to where the last one was
// invoked. If the first is earlier (a forward zone), the value was there all that time; else (backward) it
// need only have been there at one moment in between. A history is right if and only if no read returned
// before its write was invoked, no two forward zones overlap, and no backward zone lies within a forward one.
//
// - A write of which nobody knows the outcome, or that failed, may take effect once, at any time after it was
//   invoked, or never. Reads without an answer say nothing.
// - A block is not written or read in one: page caches and members copy it in parts. So its first and last
//   words are registers of their own, and of the words between one that differs from both, if any does.
// - A cache that others go past (a kernel's page cache, beside O_DIRECT or other hosts) may show what was
//   before a write, and what a write through it brings, as long as that write is under way. So a read through
//   it (`cached`) counts as one that began with the first write that is under way when it begins, and that
//   ended with the write of its value. Once no write is under way it has to be right.
// - A write that was under way when a daemon died may be carried out once more by the next one, to whom it is
//   sent again (`repeatable`), both times before it is answered. Where that alone explains what was read, or
//   what a snapshot has, it is told as Fault::twice.
// - A snapshot is a read of all blocks at one moment between begin and end of its command (Kind::cut): so it
//   has each write that was answered before, and none that was invoked after. There is such a moment for each
//   snapshot alone; that those of several fit each other is checked only as far as each block tells.
//
// Threads: plain functions.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace vsnap::history {

enum class Kind : std::uint8_t {
  read,
  write,
  cut // a block of a snapshot, whose command took from invoked_ns to returned_ns; client: its number
};
enum class Outcome : std::uint8_t {
  unknown, // has not returned
  ok,
  failed
};

inline constexpr std::int64_t kNever_ns = std::numeric_limits<std::int64_t>::max();

struct Operation {
  std::uint64_t block = 0;
  std::uint64_t first = 0; // words; a write has the same in all
  std::uint64_t middle = 0;
  std::uint64_t last = 0;
  std::int64_t invoked_ns = 0;
  std::int64_t returned_ns = kNever_ns; // counts only where the outcome is ok
  std::uint32_t client = 0;
  Kind kind = Kind::read;
  Outcome outcome = Outcome::unknown;
  std::uint8_t cached = 0;     // 1: a read through a cache that other paths to the volume go past
  std::uint8_t repeatable = 0; // 1: a write that may have been carried out twice
};

enum class Fault {
  written_twice, // the history itself: a value is not unique
  unwritten,     // a value that nobody wrote to the block
  early,         // read before its write was invoked
  lost,          // a write was answered, an older value is read later, and nobody ever read the new one
  stale,         // the same, and others have read the new one, but not before
  back,          // the same, and it had been read before
  changed,       // a snapshot reads differently than before
  no_moment,     // there is no moment at which all blocks were as a snapshot has them
  twice          // a repeatable write was carried out twice, with another one in between
};

struct Violation {
  Fault fault = Fault::unwritten;
  std::string what; // the operations that contradict each other
};

// At most kMostOfABlock of each word of a block, besides Fault::twice. The order of operations does not
// matter.
inline constexpr std::size_t kMostOfABlock = 3;
[[nodiscard]] std::vector<Violation> violations(std::span<const Operation> operations);

[[nodiscard]] std::string to_string(const Operation& operation);
[[nodiscard]] std::string_view to_string(Fault fault);

} // namespace vsnap::history
