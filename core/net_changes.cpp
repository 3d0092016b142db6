#include "core/net_changes.h"

#include <algorithm>
#include <iterator>

#include "core/assert.h"

namespace vsnap {
namespace {

bool has_place(const MapChange& c) { return c.kind != BlockKind::hole; }
bool takes_space(const MapChange& c) { return has_place(c) && c.place.in_pool(); }

// The part of `c` that starts at `start` and has `count` blocks.
MapChange part(const MapChange& c, BlockIndex start, BlockCount count) {
  MapChange p = c;
  p.start = start;
  p.count = count;
  if (start != c.start) p.may_join = true; // nobody has looked
  if (has_place(c)) p.place = c.place + (start - c.start);
  return p;
}

bool continues(const MapChange& a, const MapChange& b) {
  return a.start + a.count == b.start && region_of(a.start) == region_of(b.start) && a.kind == b.kind &&
         a.fresh == b.fresh && a.keep_hole == b.keep_hole && a.born == b.born && a.floor == b.floor &&
         a.saves == b.saves && (!has_place(a) || a.place + a.count == b.place);
}

} // namespace

void NetChanges::add(const MapChange& change) {
  VSNAP_ASSERT(change.count.value() > 0);
  mapped_change[change.branch] += change.mapped_change;
  if (change.saves)
    put_first(change);
  else
    put(change);
}

void NetChanges::put_first(const MapChange& save) {
  const auto& pieces = by_version[{save.branch, save.born}];
  const BlockIndex end = save.start + save.count;
  for (BlockIndex from = save.start; from < end;) {
    const auto after = pieces.upper_bound(from);
    BlockIndex to = after == pieces.end() ? end : std::min(after->first, end);
    const bool saved = after != pieces.begin() &&
                       from < std::prev(after)->first + std::prev(after)->second.count;
    if (saved) {
      const MapChange& first = std::prev(after)->second;
      VSNAP_ASSERT(first.saves);
      to = std::min(first.start + first.count, end);
      if (takes_space(save)) overtaken.push_back({save.place + (from - save.start), to - from});
    } else {
      put(part(save, from, to - from));
    }
    from = to;
  }
}

void NetChanges::put(const MapChange& change) {
  auto& pieces = by_version[{change.branch, change.born}];
  const BlockIndex end = change.start + change.count;
  MapChange placed_change = change;
  auto at = pieces.upper_bound(change.start);
  if (at != pieces.begin()) --at;
  while (at != pieces.end() && at->first < end) {
    const MapChange old = at->second;
    const BlockIndex old_end = old.start + old.count;
    if (old_end <= change.start) {
      ++at;
      continue;
    }
    at = pieces.erase(at);
    // What the overtaken piece had to cut in the catalog, this one has to cut now.
    if (!old.fresh) placed_change.fresh = false;
    const BlockIndex from = std::max(old.start, change.start);
    const BlockIndex to = std::min(old_end, end);
    // A reserved place that is written becomes data where it is: the same place, still owned.
    const bool kept = has_place(old) && has_place(change) &&
                      old.place + (from - old.start) == change.place + (from - change.start);
    if (takes_space(old) && !kept) overtaken.push_back({old.place + (from - old.start), to - from});
    if (old.start < from) pieces.emplace(old.start, part(old, old.start, from - old.start));
    if (to < old_end) at = pieces.emplace(to, part(old, to, old_end - to)).first;
  }
  auto placed = pieces.emplace(change.start, placed_change).first;
  const auto join = [&pieces](auto left, auto right) {
    if (!continues(left->second, right->second)) return false;
    left->second.count = left->second.count + right->second.count;
    pieces.erase(right);
    return true;
  };
  if (placed != pieces.begin() && join(std::prev(placed), placed))
    placed = std::prev(pieces.upper_bound(change.start));
  if (std::next(placed) != pieces.end()) join(placed, std::next(placed));
}

std::uint64_t NetChanges::size() const {
  std::uint64_t sum = 0;
  for (const auto& [version, changes] : by_version) sum += changes.size();
  return sum;
}

} // namespace vsnap
