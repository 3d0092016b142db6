#include "core/delegation_table.h"

#include <algorithm>

namespace vsnap {

namespace {

using Entry = DelegationTable::Entry;

void lose_entry(Entry& e) { e.losing = true; }

} // namespace

template <class Which>
std::optional<Entry> DelegationTable::first(Which which) {
  MutexLock lock(mutex_);
  const auto found = std::find_if(entries_.begin(), entries_.end(), which);
  return found == entries_.end() ? std::nullopt : std::optional(*found);
}

// True: there was one.
template <class Which, class Change>
bool DelegationTable::alter(Which which, Change change) {
  bool any = false;
  {
    MutexLock lock(mutex_);
    for (Entry& entry : entries_) {
      if (!which(entry)) continue;
      change(entry);
      any = true;
    }
    if (any) ++turn_;
  }
  if (any) changed_.notify_all();
  return any;
}

void DelegationTable::load(std::vector<Entry> entries) {
  MutexLock lock(mutex_);
  entries_ = std::move(entries);
}

bool DelegationTable::give(const Entry& entry) {
  MutexLock lock(mutex_);
  for (const Entry& other : entries_) {
    if (other.delegation.volume == entry.delegation.volume && other.stands()) return false;
  }
  entries_.push_back(entry);
  return true;
}

bool DelegationTable::stored(std::uint64_t number) {
  bool held = false;
  alter([&](const Entry& e) { return e.delegation.number == number; },
        [&](Entry& e) {
          e.storing = false;
          held = !e.recalled && !e.losing && !e.ended;
          e.ended = !held;
        });
  return held;
}

void DelegationTable::erase(std::uint64_t number) {
  {
    MutexLock lock(mutex_);
    std::erase_if(entries_, [&](const Entry& e) { return e.delegation.number == number; });
    ++turn_;
  }
  changed_.notify_all();
}

std::vector<std::uint64_t> DelegationTable::erase_all(ObjectId volume) {
  std::vector<std::uint64_t> numbers;
  MutexLock lock(mutex_);
  std::erase_if(entries_, [&](const Entry& e) {
    if (e.delegation.volume != volume) return false;
    numbers.push_back(e.delegation.number);
    return true;
  });
  return numbers;
}

bool DelegationTable::end(std::uint64_t host, std::uint64_t number) {
  return alter(
      [&](const Entry& e) { return e.delegation.number == number && e.delegation.host == host && !e.ended; },
      [](Entry& e) { e.ended = true; });
}

bool DelegationTable::end_all(std::uint64_t host) {
  return alter([&](const Entry& e) { return e.delegation.host == host && !e.ended; },
               [](Entry& e) { e.ended = true; });
}

bool DelegationTable::lose(std::uint64_t host) {
  return alter([&](const Entry& e) { return e.delegation.host == host && e.stands() && !e.losing; },
               lose_entry);
}

bool DelegationTable::lose_from_before() {
  return alter([](const Entry& e) { return e.from_before && e.stands() && !e.losing; }, lose_entry);
}

void DelegationTable::await(std::uint64_t host) {
  alter([&](const Entry& e) { return e.delegation.host == host && e.from_before; },
        [](Entry& e) { e.from_before = false; });
}

void DelegationTable::set_left(std::uint64_t number, ObjectId snapshot) {
  alter([&](const Entry& e) { return e.delegation.number == number; },
        [&](Entry& e) {
          e.left = snapshot;
          e.losing = false;
          e.trouble.clear();
        });
}

bool DelegationTable::note_trouble(std::uint64_t number, const std::string& trouble) {
  return alter([&](const Entry& e) { return e.delegation.number == number && e.trouble != trouble; },
               [&](Entry& e) { e.trouble = trouble; });
}

DelegationTable::Standing DelegationTable::recall(std::span<const ObjectId> volumes, std::uint64_t but) {
  MutexLock lock(mutex_);
  Standing standing;
  for (Entry& e : entries_) {
    const Delegation& d = e.delegation;
    if (!e.stands() || (d.host == but && !e.losing)) continue;
    if (std::find(volumes.begin(), volumes.end(), d.volume) == volumes.end()) continue;
    e.recalled = true;
    standing.entries.push_back(e);
  }
  standing.turn = turn_;
  return standing;
}

void DelegationTable::wait(std::uint64_t turn, std::chrono::milliseconds at_most) {
  MutexLock lock(mutex_);
  if (turn_ == turn) changed_.wait_for(mutex_, at_most);
}

bool DelegationTable::stands_for(BranchId branch) {
  return first([&](const Entry& e) { return e.branch == branch && e.stands() && !e.losing; }).has_value();
}

bool DelegationTable::stands_for(ObjectId volume) {
  return first([&](const Entry& e) { return e.delegation.volume == volume && e.stands(); }).has_value();
}

bool DelegationTable::is_held(ObjectId volume) {
  return first([&](const Entry& e) {
           return e.delegation.volume == volume && e.stands() && !e.storing && !e.recalled && !e.losing;
         })
      .has_value();
}

std::optional<Entry> DelegationTable::lost_of(ObjectId volume) {
  return first(
      [&](const Entry& e) { return e.delegation.volume == volume && !e.ended && (e.left || e.losing); });
}

std::optional<Entry> DelegationTable::find(std::uint64_t host, std::uint64_t number) {
  return first([&](const Entry& e) { return e.delegation.number == number && e.delegation.host == host; });
}

std::optional<Entry> DelegationTable::that_left(ObjectId snapshot) {
  return first([&](const Entry& e) { return e.left == snapshot; });
}

bool DelegationTable::is_losing() {
  return first([](const Entry& e) { return e.losing && e.stands(); }).has_value();
}

bool DelegationTable::has_ended() {
  return first([](const Entry& e) { return e.ended; }).has_value();
}

std::vector<Entry> DelegationTable::entries() {
  MutexLock lock(mutex_);
  return entries_;
}

} // namespace vsnap
