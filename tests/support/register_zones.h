// The clusters and zones of one register: tests/support/history.h says what they are.
//
// Times are compared such that what returned when another one was invoked is concurrent with it.
// Threads: plain values.
#pragma once

#include <span>
#include <unordered_map>
#include <utility>
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

// Of the operations of one value; of one that landed twice, of those that saw one landing.
struct Zone {
  const Operation* write = nullptr; // nullptr: nobody's, the 0 at first
  std::int64_t written_ns = 0;      // invoked
  std::int64_t finish_ns = kNever_ns;
  std::int64_t start_ns = 0;
  const Operation* first_finished = nullptr;
  const Operation* last_started = nullptr;
  std::vector<Access> reads = {};

  void take(const Access& read);
  // Whether it must have been there at all.
  [[nodiscard]] bool counts() const {
    return !reads.empty() || (write != nullptr && write->outcome == Outcome::ok);
  }
  [[nodiscard]] bool is_forward() const { return finish_ns < start_ns; }
  [[nodiscard]] bool may_land_twice() const { return write != nullptr && write->repeatable != 0; }
  [[nodiscard]] bool contradicts(const Zone& other) const;
};

// Many zones, to be compared with one.
class ZoneOrder {
 public:
  void add(const Zone& zone) { (zone.is_forward() ? forward_ : backward_).push_back(&zone); }
  void sort(); // before the rest, and after all was added
  // Whether it contradicts none but `but`. Only where the forward ones do not overlap.
  [[nodiscard]] bool admits(const Zone& zone, const Zone* but) const;
  [[nodiscard]] const std::vector<const Zone*>& forward() const { return forward_; }   // by finish
  [[nodiscard]] const std::vector<const Zone*>& backward() const { return backward_; } // by start

 private:
  std::vector<const Zone*> forward_;
  std::vector<const Zone*> backward_;
};

class RegisterZones {
 public:
  // Of writes and reads; cuts count as reads.
  explicit RegisterZones(std::span<const Access> accesses);
  RegisterZones(RegisterZones&&) = default;

  [[nodiscard]] const std::vector<Violation>& violations() const { return violations_; }
  [[nodiscard]] bool is_right() const; // where writes may land twice that are said to
  // Whether the register can have had that value at that moment; no further write landing twice than those
  // that violations() tells. Only where it is right, and for a value that is read somewhere.
  [[nodiscard]] bool may_hold(std::uint64_t value, std::int64_t moment_ns) const;
  // The same, if any write lands twice that may. Takes longer.
  [[nodiscard]] bool may_hold_again(std::uint64_t value, std::int64_t moment_ns) const;

 private:
  using Zones = std::vector<const Zone*>;
  using Landings = std::vector<std::vector<Zone>>; // of each zone one, or two

  void add_write(const Access& access);
  void add_read(const Access& access);
  void land_twice(); // what has to
  // Those that contradict one another, directly or by others, in one.
  static std::vector<Zones> groups(const Zones& zones);
  // How all of them could have landed beside `beside`, and beside what lands once but `but`; whole, if so.
  [[nodiscard]] bool lands(const Zones& zones, const Zone* beside, const Zone* but, Landings& taken) const;
  void find_overlaps();
  void report(Fault fault, std::string what);
  // Two of which each would have to be there before the other.
  void report_order(const Zone& one, const Zone& other);

  std::unordered_map<std::uint64_t, Zone> zones_; // by value
  Zones repeatable_;
  std::unordered_map<const Zone*, std::vector<Zone>> twice_; // the landings of those that take two
  ZoneOrder once_;                                           // what is not repeatable
  ZoneOrder all_;                                            // and the rest, as it lands
  std::vector<Violation> violations_;
};

} // namespace vsnap::history
