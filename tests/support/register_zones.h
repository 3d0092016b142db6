// The clusters and zones of one register: tests/support/history.h says what they are.
//
// Times are compared such that what returned when another one was invoked is concurrent with it.
// Threads: plain values.
#pragma once

#include <deque>
#include <optional>
#include <unordered_map>
#include <vector>

#include "tests/support/history.h"

namespace vsnap::history {

// An operation, as this register sees it.
struct Access {
  const Operation* operation = nullptr;
  std::uint64_t value = 0;
  std::int64_t invoked_ns = 0; // as it counts
  std::int64_t returned_ns = 0;
};

class RegisterZones {
 public:
  // Of writes and reads; cuts count as reads.
  explicit RegisterZones(std::span<const Access> accesses);

  [[nodiscard]] const std::vector<Violation>& violations() const { return violations_; }
  [[nodiscard]] bool is_right() const; // where writes may land twice that are said to
  // Whether the register can have had that value at that moment. Only where it is right, and for a value
  // that is read somewhere.
  [[nodiscard]] bool may_hold(std::uint64_t value, std::int64_t moment_ns) const;

 private:
  struct Zone {
    const Operation* write = nullptr; // nullptr: nobody's, the 0 at first
    std::int64_t written_ns = 0;      // invoked
    std::int64_t finish_ns = kNever_ns;
    std::int64_t start_ns = 0;
    const Operation* first_finished = nullptr;
    const Operation* last_started = nullptr;
    std::vector<Access> reads = {};
    const Zone* second = nullptr; // of the same value, where it landed twice
    // Whether it must have been there at all.
    [[nodiscard]] bool counts() const {
      return !reads.empty() || (write != nullptr && write->outcome == Outcome::ok);
    }
    [[nodiscard]] bool is_forward() const { return finish_ns < start_ns; }
  };
  void add_write(const Access& access);
  void add_read(const Access& access);
  static void take_read(Zone& zone, const Access& access);
  static bool contradict(const Zone& one, const Zone& other);
  [[nodiscard]] bool contradicts_any(const Zone& zone, const Zone& but) const;
  void split(Zone& zone); // in two, if that helps
  void sort_zones();
  void find_overlaps();
  void report(Fault fault, std::string what);
  // Two of which each would have to be there before the other.
  void report_order(const Zone& one, const Zone& other);
  [[nodiscard]] bool is_free(std::int64_t finish_ns, std::int64_t start_ns, const Zone& but) const;

  std::unordered_map<std::uint64_t, Zone> zones_; // by value
  std::deque<Zone> second_;
  std::vector<const Zone*> forward_;  // by finish
  std::vector<const Zone*> backward_; // by start
  std::vector<Violation> violations_;
};

} // namespace vsnap::history
