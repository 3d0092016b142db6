#include "tests/support/register_zones.h"

#include <fmt/format.h>
#include <algorithm>
#include <tuple>

namespace vsnap::history {

namespace {

constexpr std::int64_t kAlways_ns = std::numeric_limits<std::int64_t>::min();

Zone zone_of(const Operation& write) {
  Zone zone;
  zone.write = zone.last_started = &write;
  zone.written_ns = zone.start_ns = write.invoked_ns;
  zone.finish_ns = write.outcome == Outcome::ok ? write.returned_ns : kNever_ns;
  return zone;
}

// Of the ways in which it may have landed the one with `in_first` of its reads in the first landing. They are
// in the order of their begins, and so no other ways need be tried: where one that began earlier saw the
// second landing, and one that began later the first, the earlier one can have seen that as well.
std::vector<Zone> landings(const Zone& zone, std::size_t in_first) {
  if (in_first == zone.reads.size()) return {zone};
  std::vector<Zone> two(2, zone_of(*zone.write)); // both before it was answered
  for (std::size_t i = 0; i < zone.reads.size(); ++i) two[i < in_first ? 0 : 1].take(zone.reads[i]);
  return two;
}

// What it would be with one more read; but for the reads.
Zone seen_at(const Zone& zone, std::int64_t moment_ns) {
  Zone seen;
  seen.finish_ns = std::min(zone.finish_ns, moment_ns);
  seen.start_ns = std::max(zone.start_ns, moment_ns);
  return seen;
}

} // namespace

void Zone::take(const Access& read) {
  const auto later = [](const Access& a, const Access& b) { return a.invoked_ns < b.invoked_ns; };
  if (may_land_twice()) {
    reads.insert(std::upper_bound(reads.begin(), reads.end(), read, later), read);
  } else {
    reads.push_back(read);
  }
  if (read.returned_ns < finish_ns || first_finished == nullptr) first_finished = read.operation;
  if (read.invoked_ns > start_ns) last_started = read.operation;
  finish_ns = std::min(finish_ns, read.returned_ns);
  start_ns = std::max(start_ns, read.invoked_ns);
}

bool Zone::contradicts(const Zone& other) const {
  if (!is_forward() && !other.is_forward()) return false;
  if (is_forward() && other.is_forward())
    return std::max(finish_ns, other.finish_ns) < std::min(start_ns, other.start_ns);
  const Zone& outer = is_forward() ? *this : other;
  const Zone& inner = is_forward() ? other : *this;
  return outer.finish_ns < inner.start_ns && inner.finish_ns < outer.start_ns;
}

void ZoneOrder::sort() {
  std::sort(forward_.begin(), forward_.end(),
            [](const Zone* a, const Zone* b) { return a->finish_ns < b->finish_ns; });
  std::sort(backward_.begin(), backward_.end(),
            [](const Zone* a, const Zone* b) { return a->start_ns < b->start_ns; });
}

bool ZoneOrder::admits(const Zone& zone, const Zone* but) const {
  const auto from = std::min(zone.finish_ns, zone.start_ns);
  const auto to = std::max(zone.finish_ns, zone.start_ns);
  // Forward zones do not overlap: of those that begin before this one, only the last can reach into it; two,
  // where one of them is its own.
  auto forward = std::lower_bound(forward_.begin(), forward_.end(), from,
                                  [](const Zone* each, std::int64_t at) { return each->finish_ns < at; });
  for (int back = 0; back < 2 && forward != forward_.begin(); ++back) --forward;
  for (; forward != forward_.end() && (*forward)->finish_ns < to; ++forward) {
    if (*forward != but && zone.contradicts(**forward)) return false;
  }
  if (!zone.is_forward()) return true;
  auto backward = std::upper_bound(backward_.begin(), backward_.end(), zone.finish_ns,
                                   [](std::int64_t at, const Zone* each) { return at < each->start_ns; });
  for (; backward != backward_.end() && (*backward)->start_ns < zone.start_ns; ++backward) {
    if (*backward != but && zone.contradicts(**backward)) return false;
  }
  return true;
}

RegisterZones::RegisterZones(std::span<const Access> accesses) {
  Zone& initial = zones_[0];
  initial.written_ns = initial.finish_ns = initial.start_ns = kAlways_ns;
  for (const Access& access : accesses) {
    if (access.operation->kind == Kind::write) add_write(access);
  }
  for (const Access& access : accesses) {
    if (access.operation->kind != Kind::write && access.operation->outcome == Outcome::ok) add_read(access);
  }
  for (const auto& [value, zone] : zones_) {
    if (!zone.counts()) continue;
    if (zone.may_land_twice())
      repeatable_.push_back(&zone);
    else
      once_.add(zone);
  }
  once_.sort();
  all_ = once_;
  land_twice();
  all_.sort();
  find_overlaps();
}

bool RegisterZones::is_right() const {
  return std::all_of(violations_.begin(), violations_.end(),
                     [](const Violation& violation) { return violation.fault == Fault::twice; });
}

void RegisterZones::add_write(const Access& access) {
  const Operation& write = *access.operation;
  const auto [found, is_new] = zones_.try_emplace(access.value, zone_of(write));
  found->second.first_finished = &write;
  if (!is_new) report(Fault::written_twice, to_string(write));
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
  zone.take(access);
}

void RegisterZones::land_twice() {
  for (const Zones& group : groups(repeatable_)) {
    Landings taken;
    const bool is_explained = lands(group, nullptr, nullptr, taken);
    for (std::size_t i = 0; i < group.size(); ++i) {
      if (!is_explained || taken[i].size() == 1) {
        all_.add(*group[i]);
        continue;
      }
      const std::vector<Zone>& two = twice_[group[i]] = std::move(taken[i]);
      for (const Zone& each : two) all_.add(each);
      report(Fault::twice,
             fmt::format("{}, {}; and again {}", to_string(*group[i]->write),
                         to_string(*two.front().last_started), to_string(*two.back().first_finished)));
    }
  }
}

std::vector<RegisterZones::Zones> RegisterZones::groups(const Zones& zones) {
  std::vector<Zones> found;
  for (const Zone* zone : zones) {
    Zones joined{zone};
    const auto apart = std::partition(found.begin(), found.end(), [&](const Zones& group) {
      return std::none_of(group.begin(), group.end(),
                          [&](const Zone* each) { return zone->contradicts(*each); });
    });
    for (auto group = apart; group != found.end(); ++group)
      joined.insert(joined.end(), group->begin(), group->end());
    found.erase(apart, found.end());
    found.push_back(std::move(joined));
  }
  return found;
}

bool RegisterZones::lands(const Zones& zones, const Zone* beside, const Zone* but, Landings& taken) const {
  if (taken.size() == zones.size()) return true;
  const Zone& zone = *zones[taken.size()];
  const auto fits = [&](const Zone& part) {
    if (!once_.admits(part, but) || (beside != nullptr && part.contradicts(*beside))) return false;
    for (const auto& others : taken) {
      if (std::any_of(others.begin(), others.end(), [&](const Zone& each) { return part.contradicts(each); }))
        return false;
    }
    return true;
  };
  for (std::size_t in_first = zone.reads.size();; --in_first) {
    std::vector<Zone> parts = landings(zone, in_first);
    if (std::all_of(parts.begin(), parts.end(), fits) &&
        (parts.size() == 1 || !parts.front().contradicts(parts.back()))) {
      taken.push_back(std::move(parts));
      if (lands(zones, beside, but, taken)) return true;
      taken.pop_back();
    }
    if (in_first <= 1) return false;
  }
}

void RegisterZones::find_overlaps() {
  const Zone* longest = nullptr; // of those forward zones so far
  auto next = all_.forward().begin();
  const auto take_in = [&](std::int64_t before_ns) {
    for (; next != all_.forward().end() && (*next)->finish_ns < before_ns; ++next) {
      if (longest != nullptr && (*next)->finish_ns < longest->start_ns) report_order(*longest, **next);
      if (longest == nullptr || (*next)->start_ns > longest->start_ns) longest = *next;
    }
  };
  for (const Zone* zone : all_.backward()) {
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

// As if it had been read at that moment.
bool RegisterZones::may_hold(std::uint64_t value, std::int64_t moment_ns) const {
  const Zone& whole = zones_.at(value);
  const auto may = [&](const Zone& zone) {
    return moment_ns >= zone.written_ns && all_.admits(seen_at(zone, moment_ns), &zone);
  };
  const auto two = twice_.find(&whole);
  return two == twice_.end() ? may(whole) : std::any_of(two->second.begin(), two->second.end(), may);
}

bool RegisterZones::may_hold_again(std::uint64_t value, std::int64_t moment_ns) const {
  const Zone& zone = zones_.at(value);
  if (moment_ns < zone.written_ns) return false;
  Zones repeatable = repeatable_;
  const auto own = std::find(repeatable.begin(), repeatable.end(), &zone);
  Zone seen;
  if (own != repeatable.end()) {
    seen = zone;
    seen.take({zone.write, value, moment_ns, moment_ns});
    *own = &seen;
  } else {
    seen = seen_at(zone, moment_ns);
    if (!once_.admits(seen, &zone)) return false;
  }
  const Zone* const beside = own != repeatable.end() ? nullptr : &seen;
  const auto all = groups(repeatable);
  return std::all_of(all.begin(), all.end(), [&](const Zones& group) {
    Landings taken;
    return lands(group, beside, &zone, taken);
  });
}

} // namespace vsnap::history
