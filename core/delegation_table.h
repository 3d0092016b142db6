// Which delegations (core/delegation.h) there are, in memory, and waiting for their return.
//
//   give() ──► being given ──stored()──► held ──recall()──► recalled ──lose()──► losing ──set_left()──► lost
//                                          └── lose() ──────────────────────────────▲
//   from any of them: end(), as soon as the host says that nothing of it is under way; then erase(), once its
//   row is gone
//
// Invariants
// 1. Of a volume one at most stands between give() and set_left() or end(), but for those that a process
//    before this one gave.
// 2. What end() has marked never stands in anybody's way again.
// Threads: any; a leaf lock. Those that wait hold the configuration lock, perhaps, and no lock that end()
// takes.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "core/delegation.h"
#include "core/mutex.h"

namespace vsnap {

inline constexpr const char* kLostTag = "lost"; // of the hold on what a lost host has left

class DelegationTable {
 public:
  struct Entry {
    Delegation delegation;
    std::int64_t since_ns = 0;
    BranchId branch;              // of the volume, as it is as long as this stands
    std::optional<ObjectId> left; // lost: the snapshot
    bool from_before = false;     // given by a process before this one
    bool storing = false;         // not durable yet: the host has not heard of it
    bool recalled = false;
    bool losing = false; // its lease is over, and there is no snapshot yet
    bool ended = false;
    std::string trouble = {}; // what kept from making the snapshot, or from letting it go, last time
    // The host may write to the head's places, as far as anybody here knows.
    [[nodiscard]] bool stands() const { return !ended && !left; }
    // What its host has written is still its to hand over.
    [[nodiscard]] bool takes_changes() const { return stands() && !losing && !storing; }
  };
  static constexpr std::uint64_t kNobody = 0; // the id of no host

  void load(std::vector<Entry> entries) VSNAP_EXCLUDES(mutex_);
  // False: one of that volume stands.
  [[nodiscard]] bool give(const Entry& entry) VSNAP_EXCLUDES(mutex_);
  // It is durable. False: it was recalled or ended meanwhile, and is ended now.
  [[nodiscard]] bool stored(std::uint64_t number) VSNAP_EXCLUDES(mutex_);
  void erase(std::uint64_t number) VSNAP_EXCLUDES(mutex_);
  std::vector<std::uint64_t> erase_all(ObjectId volume) VSNAP_EXCLUDES(mutex_); // their numbers
  // True: there was something to mark.
  bool end(std::uint64_t host, std::uint64_t number) VSNAP_EXCLUDES(mutex_);
  bool end_all(std::uint64_t host) VSNAP_EXCLUDES(mutex_);
  bool lose(std::uint64_t host) VSNAP_EXCLUDES(mutex_);
  bool lose_from_before() VSNAP_EXCLUDES(mutex_);
  // What a process before this one gave to the host is as what this one gave.
  void await(std::uint64_t host) VSNAP_EXCLUDES(mutex_);
  void set_left(std::uint64_t number, ObjectId snapshot) VSNAP_EXCLUDES(mutex_);
  // False: that is known.
  bool note_trouble(std::uint64_t number, const std::string& trouble) VSNAP_EXCLUDES(mutex_);

  struct Standing {
    std::vector<Entry> entries;
    std::uint64_t turn = 0; // for wait()
  };
  // Those of the volumes that stand in the way of whoever is not the host `but`; recalled from now on. One
  // that is being lost stands in the way of its own host as well.
  [[nodiscard]] Standing recall(std::span<const ObjectId> volumes, std::uint64_t but) VSNAP_EXCLUDES(mutex_);
  // Until something has changed since that turn, or so long.
  void wait(std::uint64_t turn, std::chrono::milliseconds at_most) VSNAP_EXCLUDES(mutex_);

  [[nodiscard]] bool stands_for(BranchId branch) VSNAP_EXCLUDES(mutex_); // but for one that is being lost
  [[nodiscard]] bool is_held(ObjectId volume) VSNAP_EXCLUDES(mutex_);    // and not recalled
  [[nodiscard]] bool stands_for(ObjectId volume) VSNAP_EXCLUDES(mutex_);
  // That was lost, or is about to be, and not ended.
  [[nodiscard]] std::optional<Entry> lost_of(ObjectId volume) VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] std::optional<Entry> find(std::uint64_t host, std::uint64_t number) VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] std::optional<Entry> that_left(ObjectId snapshot) VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] bool is_losing() VSNAP_EXCLUDES(mutex_); // some
  [[nodiscard]] bool has_ended() VSNAP_EXCLUDES(mutex_);
  [[nodiscard]] std::vector<Entry> entries() VSNAP_EXCLUDES(mutex_); // by number

 private:
  template <class Which>
  [[nodiscard]] std::optional<Entry> first(Which which) VSNAP_EXCLUDES(mutex_);
  template <class Which, class Change>
  bool alter(Which which, Change change) VSNAP_EXCLUDES(mutex_);

  Mutex mutex_;
  CondVar changed_;
  std::uint64_t turn_ VSNAP_GUARDED_BY(mutex_) = 0;
  std::vector<Entry> entries_ VSNAP_GUARDED_BY(mutex_); // by number
};

} // namespace vsnap
