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
  sort_zones();
  find_overlaps();
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
  if (read.returned_ns < zone.written_ns) {
    report(Fault::early, fmt::format("{} before {}", to_string(read), to_string(*zone.write)));
    return;
  }
  zone.reads.push_back(&read);
  if (read.returned_ns < zone.finish_ns || zone.first_finished == nullptr) zone.first_finished = &read;
  if (read.invoked_ns > zone.start_ns) zone.last_started = &read;
  zone.finish_ns = std::min(zone.finish_ns, read.returned_ns);
  zone.start_ns = std::max(zone.start_ns, read.invoked_ns);
}

void RegisterZones::sort_zones() {
  for (const auto& [value, zone] : zones_) {
    const bool is_certain = zone.write != nullptr && zone.write->outcome == Outcome::ok;
    if (zone.reads.empty() && !is_certain) continue; // it need never have been there
    (zone.is_forward() ? forward_ : backward_).push_back(&zone);
  }
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
  if (violations_.size() < kMostOfABlock) violations_.push_back({fault, std::move(what)});
}

void RegisterZones::report_order(const Zone& one, const Zone& other) {
  const auto [older, newer] = one.written_ns < other.written_ns ? std::tie(one, other) : std::tie(other, one);
  // A read: the last one of what was written first began after something was there that was written later.
  const Operation& late = *older.last_started;
  const bool was_seen = std::any_of(newer.reads.begin(), newer.reads.end(), [&](const Operation* read) {
    return read->returned_ns < late.invoked_ns;
  });
  const Fault fault = was_seen ? Fault::back : newer.reads.empty() ? Fault::lost : Fault::stale;
  const std::string before = older.write != nullptr ? to_string(*older.write) : "nothing";
  report(fault,
         fmt::format("{}; then {}; then {}", before, to_string(*newer.first_finished), to_string(late)));
}

bool RegisterZones::may_hold(std::uint64_t value, std::int64_t moment_ns) const {
  const Zone& zone = zones_.at(value);
  if (moment_ns < zone.written_ns) return false;
  // As if it had been read at that moment.
  return is_free(std::min(zone.finish_ns, moment_ns), std::max(zone.start_ns, moment_ns), zone);
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
