#include "tests/support/register_zones.h"

#include <fmt/format.h>
#include <algorithm>
#include <tuple>

namespace vsnap::history {

namespace {

constexpr std::int64_t kAlways_ns = std::numeric_limits<std::int64_t>::min();

} // namespace

RegisterZones::RegisterZones(std::span<const Access> accesses) {
  Zone& initial = zones_[0];
  initial.written_ns = initial.finish_ns = initial.start_ns = kAlways_ns;
  for (const Access& access : accesses) {
    if (access.operation->kind == Kind::write) add_write(access);
  }
  for (const Access& access : accesses) {
    if (access.operation->kind != Kind::write && access.operation->outcome == Outcome::ok) add_read(access);
  }
  for (int pass = 0; pass < 2; ++pass) { // one may have to wait for another
    for (auto& [value, zone] : zones_) {
      if (zone.write != nullptr && zone.write->repeatable != 0 && zone.second == nullptr) split(zone);
    }
  }
  sort_zones();
  find_overlaps();
}

bool RegisterZones::is_right() const {
  return std::all_of(violations_.begin(), violations_.end(),
                     [](const Violation& violation) { return violation.fault == Fault::twice; });
}

void RegisterZones::add_write(const Access& access) {
  const Operation& write = *access.operation;
  const auto [found, is_new] = zones_.try_emplace(access.value);
  if (!is_new) {
    report(Fault::written_twice, to_string(write));
    return;
  }
  Zone& zone = found->second;
  zone.write = zone.last_started = zone.first_finished = &write;
  zone.written_ns = zone.start_ns = write.invoked_ns;
  zone.finish_ns = write.outcome == Outcome::ok ? write.returned_ns : kNever_ns;
}

void RegisterZones::add_read(const Access& access) {
  const Operation& read = *access.operation;
  const auto found = zones_.find(access.value);
  if (found == zones_.end()) {
    report(Fault::unwritten, fmt::format("{} saw {:x}", to_string(read), access.value));
    return;
  }
  Zone& zone = found->second;
  if (access.returned_ns < zone.written_ns) {
    report(Fault::early, fmt::format("{} before {}", to_string(read), to_string(*zone.write)));
    return;
  }
  take_read(zone, access);
}

void RegisterZones::take_read(Zone& zone, const Access& access) {
  zone.reads.push_back(access);
  if (access.returned_ns < zone.finish_ns || zone.first_finished == nullptr) {
    zone.first_finished = access.operation;
  }
  if (access.invoked_ns > zone.start_ns) zone.last_started = access.operation;
  zone.finish_ns = std::min(zone.finish_ns, access.returned_ns);
  zone.start_ns = std::max(zone.start_ns, access.invoked_ns);
}

bool RegisterZones::contradict(const Zone& one, const Zone& other) {
  if (!one.is_forward() && !other.is_forward()) return false;
  if (one.is_forward() && other.is_forward()) {
    return std::max(one.finish_ns, other.finish_ns) < std::min(one.start_ns, other.start_ns);
  }
  const Zone& outer = one.is_forward() ? one : other;
  const Zone& inner = one.is_forward() ? other : one;
  return outer.finish_ns < inner.start_ns && inner.finish_ns < outer.start_ns;
}

bool RegisterZones::contradicts_any(const Zone& zone, const Zone& but) const {
  const auto contradicts = [&](const Zone& other) { return other.counts() && contradict(zone, other); };
  return std::any_of(zones_.begin(), zones_.end(),
                     [&](const auto& each) { return &each.second != &but && contradicts(each.second); }) ||
         std::any_of(second_.begin(), second_.end(), contradicts);
}

void RegisterZones::split(Zone& zone) {
  if (zone.reads.size() < 2 || !contradicts_any(zone, zone)) return;
  std::vector<Access> reads = zone.reads;
  std::sort(reads.begin(), reads.end(),
            [](const Access& a, const Access& b) { return a.invoked_ns < b.invoked_ns; });
  for (std::size_t first_of_second = 1; first_of_second < reads.size(); ++first_of_second) {
    Zone first, second;
    first.write = second.write = first.last_started = second.last_started = zone.write;
    first.written_ns = first.start_ns = second.written_ns = second.start_ns = zone.written_ns;
    for (std::size_t i = 0; i < reads.size(); ++i) take_read(i < first_of_second ? first : second, reads[i]);
    if (contradicts_any(first, zone) || contradicts_any(second, zone) || contradict(first, second)) continue;
    report(Fault::twice, fmt::format("{}, {}; and again {}", to_string(*zone.write),
                                     to_string(*first.last_started), to_string(*second.first_finished)));
    second_.push_back(std::move(second));
    first.second = &second_.back();
    zone = std::move(first);
    return;
  }
}

void RegisterZones::sort_zones() {
  const auto add = [this](const Zone& zone) {
    if (zone.counts()) (zone.is_forward() ? forward_ : backward_).push_back(&zone);
  };
  for (const auto& [value, zone] : zones_) add(zone);
  for (const Zone& zone : second_) add(zone);
  std::sort(forward_.begin(), forward_.end(),
            [](const Zone* a, const Zone* b) { return a->finish_ns < b->finish_ns; });
  std::sort(backward_.begin(), backward_.end(),
            [](const Zone* a, const Zone* b) { return a->start_ns < b->start_ns; });
}

void RegisterZones::find_overlaps() {
  const Zone* longest = nullptr; // of those forward zones so far
  auto next = forward_.begin();
  const auto take_in = [&](std::int64_t before_ns) {
    for (; next != forward_.end() && (*next)->finish_ns < before_ns; ++next) {
      if (longest != nullptr && (*next)->finish_ns < longest->start_ns) report_order(*longest, **next);
      if (longest == nullptr || (*next)->start_ns > longest->start_ns) longest = *next;
    }
  };
  for (const Zone* zone : backward_) {
    take_in(zone->start_ns);
    if (longest != nullptr && zone->finish_ns < longest->start_ns) report_order(*longest, *zone);
  }
  take_in(kNever_ns);
}

void RegisterZones::report(Fault fault, std::string what) {
  const auto wrong = std::count_if(violations_.begin(), violations_.end(),
                                   [](const Violation& each) { return each.fault != Fault::twice; });
  if (fault == Fault::twice || static_cast<std::size_t>(wrong) < kMostOfABlock) {
    violations_.push_back({fault, std::move(what)});
  }
}

void RegisterZones::report_order(const Zone& one, const Zone& other) {
  const auto [older, newer] = one.written_ns < other.written_ns ? std::tie(one, other) : std::tie(other, one);
  // A read: the last one of what was written first began after something was there that was written later.
  const Operation& late = *older.last_started;
  const bool was_seen = std::any_of(newer.reads.begin(), newer.reads.end(), [&](const Access& read) {
    return read.operation->returned_ns < late.invoked_ns;
  });
  const Fault fault = was_seen ? Fault::back : newer.reads.empty() ? Fault::lost : Fault::stale;
  std::string before = older.write != nullptr ? to_string(*older.write) : "nothing";
  if (older.first_finished != nullptr && older.first_finished != older.write) {
    before += ", " + to_string(*older.first_finished);
  }
  std::string between = to_string(*newer.first_finished);
  if (newer.last_started != newer.first_finished) between += ", " + to_string(*newer.last_started);
  report(fault, fmt::format("{}; then {}; then {}", before, between, to_string(late)));
}

bool RegisterZones::may_hold(std::uint64_t value, std::int64_t moment_ns) const {
  // As if it had been read at that moment.
  for (const Zone* zone = &zones_.at(value); zone != nullptr; zone = zone->second) {
    if (moment_ns >= zone->written_ns &&
        is_free(std::min(zone->finish_ns, moment_ns), std::max(zone->start_ns, moment_ns), *zone)) {
      return true;
    }
  }
  return false;
}

// Whether a cluster with that zone would contradict no other.
bool RegisterZones::is_free(std::int64_t finish_ns, std::int64_t start_ns, const Zone& but) const {
  const auto from = std::min(finish_ns, start_ns);
  const auto to = std::max(finish_ns, start_ns);
  // Forward zones do not overlap: of those that begin before this one, only the last can reach into it; two,
  // where one of them is its own.
  auto forward = std::lower_bound(forward_.begin(), forward_.end(), from,
                                  [](const Zone* zone, std::int64_t at) { return zone->finish_ns < at; });
  for (int back = 0; back < 2 && forward != forward_.begin(); ++back) --forward;
  for (; forward != forward_.end() && (*forward)->finish_ns < to; ++forward) {
    if (*forward == &but) continue;
    const bool contradicts =
        finish_ns < start_ns
            ? std::max(finish_ns, (*forward)->finish_ns) < std::min(start_ns, (*forward)->start_ns)
            : (*forward)->finish_ns < start_ns && finish_ns < (*forward)->start_ns;
    if (contradicts) return false;
  }
  if (finish_ns >= start_ns) return true;
  auto backward = std::upper_bound(backward_.begin(), backward_.end(), finish_ns,
                                   [](std::int64_t at, const Zone* zone) { return at < zone->start_ns; });
  for (; backward != backward_.end() && (*backward)->start_ns < start_ns; ++backward) {
    if (*backward != &but && (*backward)->finish_ns < start_ns) return false;
  }
  return true;
}

} // namespace vsnap::history
