#include "tests/support/history.h"

#include <fmt/format.h>
#include <algorithm>
#include <deque>
#include <map>
#include <optional>
#include <unordered_map>

#include "tests/support/register_zones.h"

namespace vsnap::history {

namespace {

std::string_view to_word(const Operation& operation) {
  if (operation.outcome == Outcome::unknown) return "did not return";
  return operation.outcome == Outcome::ok ? "ok" : "failed";
}

bool is_torn(const Operation& operation) {
  return operation.first != operation.last || operation.middle != operation.first;
}

using Operations = std::vector<const Operation*>;

Operations without_repeats(const Operations& operations, std::vector<Violation>& found) {
  Operations kept;
  std::map<std::uint32_t, const Operation*> looked; // at each snapshot
  for (const Operation* operation : operations) {
    if (operation->kind == Kind::cut && operation->outcome == Outcome::ok) {
      const auto [first, is_new] = looked.try_emplace(operation->client, operation);
      if (!is_new) {
        const Operation& before = *first->second;
        if (before.first != operation->first || before.middle != operation->middle ||
            before.last != operation->last) {
          found.push_back(
              {Fault::changed, fmt::format("{}; then {}", to_string(before), to_string(*operation))});
        }
        continue;
      }
    }
    kept.push_back(operation);
  }
  return kept;
}

// When the first of the writes began that are under way at some moment; moments in order.
class UnderWay {
 public:
  explicit UnderWay(const Operations& operations) {
    for (const Operation* each : operations) {
      if (each->kind == Kind::write && each->outcome == Outcome::ok) writes_.push_back(each);
    }
    std::sort(writes_.begin(), writes_.end(), begins_before);
  }
  static bool begins_before(const Operation* a, const Operation* b) { return a->invoked_ns < b->invoked_ns; }

  std::optional<std::int64_t> since(std::int64_t moment_ns) {
    for (; next_ < writes_.size() && writes_[next_]->invoked_ns <= moment_ns; ++next_) {
      begun_.emplace(writes_[next_]->invoked_ns, writes_[next_]);
    }
    // Those that have ended; the others that were begun later are looked at in their turn.
    while (!begun_.empty() && begun_.begin()->second->returned_ns < moment_ns) begun_.erase(begun_.begin());
    if (begun_.empty()) return std::nullopt;
    return begun_.begin()->first;
  }

 private:
  Operations writes_;
  std::size_t next_ = 0;
  std::multimap<std::int64_t, const Operation*> begun_;
};

std::vector<Access> accesses_of(const Operations& operations, std::uint64_t Operation::*word) {
  std::vector<Access> accesses;
  std::unordered_map<std::uint64_t, const Operation*> answered; // writes, by value
  accesses.reserve(operations.size());
  Operations in_order = operations;
  std::stable_sort(in_order.begin(), in_order.end(), UnderWay::begins_before);
  for (const Operation* each : in_order) {
    if (each->kind == Kind::write && each->outcome == Outcome::ok) answered.emplace(each->first, each);
  }
  UnderWay under_way(operations);
  for (const Operation* each : in_order) {
    Access access{each, each->*word, each->invoked_ns, each->returned_ns};
    if (each->cached != 0 && each->kind == Kind::read) {
      access.invoked_ns = std::min(access.invoked_ns, under_way.since(each->invoked_ns).value_or(kNever_ns));
      const auto write = answered.find(access.value);
      if (write != answered.end() && write->second->invoked_ns <= each->returned_ns) {
        access.returned_ns = std::max(access.returned_ns, write->second->returned_ns);
      }
    }
    accesses.push_back(access);
  }
  return accesses;
}

// What one read saw in between: another register for each, as nobody knows which word it was.
std::vector<Access> accesses_in_between(const Operations& operations, const Operation& read) {
  Operations kept;
  for (const Operation* each : operations) {
    if (each->kind == Kind::write || each == &read) kept.push_back(each);
  }
  return accesses_of(kept, &Operation::middle);
}

struct Part { // a word of a block that has a history
  std::uint64_t block = 0;
  std::uint64_t Operation::*word = nullptr;
  RegisterZones zones;
};

class Checker {
 public:
  explicit Checker(std::span<const Operation> operations) {
    for (const Operation& operation : operations) {
      times_.push_back(operation.invoked_ns);
      if (operation.outcome == Outcome::ok) times_.push_back(operation.returned_ns);
      blocks_[operation.block].push_back(&operation);
      if (operation.kind == Kind::cut && operation.outcome == Outcome::ok) {
        cuts_[operation.client].try_emplace(operation.block, &operation);
      }
    }
    std::sort(times_.begin(), times_.end());
    times_.erase(std::unique(times_.begin(), times_.end()), times_.end());
  }

  std::vector<Violation> run() {
    for (const auto& [block, operations] : blocks_) check_block(block, operations);
    for (const auto& [number, blocks] : cuts_) check_cut(number, blocks);
    return std::move(found_);
  }

 private:
  void check_block(std::uint64_t block, const Operations& all) {
    const Operations operations = without_repeats(all, found_);
    const bool one_is_torn = std::any_of(operations.begin(), operations.end(),
                                         [](const Operation* each) { return is_torn(*each); });
    add_part(block, operations, &Operation::first);
    if (!one_is_torn) return;
    add_part(block, operations, &Operation::last);
    for (const Operation* each : operations) {
      if (each->middle == each->first || each->middle == each->last) continue;
      const RegisterZones zones(accesses_in_between(operations, *each));
      found_.insert(found_.end(), zones.violations().begin(), zones.violations().end());
    }
  }

  void add_part(std::uint64_t block, const Operations& operations, std::uint64_t Operation::*word) {
    Part part{block, word, RegisterZones(accesses_of(operations, word))};
    const auto& violations = part.zones.violations();
    found_.insert(found_.end(), violations.begin(), violations.end());
    // Those that contradict themselves tell nothing of moments.
    if (part.zones.is_right()) parts_.push_back(std::move(part));
  }

  using Cut = std::map<std::uint64_t, const Operation*>; // by block
  struct Span {                                          // of moments
    std::int64_t first_ns = 0;
    std::int64_t last_ns = 0;
  };

  // The sets of moments that single blocks allow begin and end with operations, or with the command.
  void check_cut(std::uint32_t number, const Cut& blocks) {
    if (blocks.empty()) return;
    const Operation& any = *blocks.begin()->second;
    const auto from = std::lower_bound(times_.begin(), times_.end(), any.invoked_ns);
    const auto to = std::upper_bound(times_.begin(), times_.end(), any.returned_ns);
    std::optional<std::int64_t> again_ns; // where writes landed twice that may
    std::map<const Part*, Span> right;
    for (auto moment = from; moment != to; ++moment) {
      std::vector<const Part*> wrong;
      for (const Part& part : parts_) {
        const auto block = blocks.find(part.block);
        if (block == blocks.end()) continue;
        if (part.zones.may_hold(block->second->*part.word, *moment))
          right.try_emplace(&part, Span{*moment, *moment}).first->second.last_ns = *moment;
        else
          wrong.push_back(&part);
      }
      if (wrong.empty()) return;
      const auto may = [&](const Part* part) {
        return part->zones.may_hold_again(blocks.at(part->block)->*part->word, *moment);
      };
      if (!again_ns && std::all_of(wrong.begin(), wrong.end(), may)) again_ns = *moment;
    }
    std::string what =
        fmt::format("snapshot {}, made from {} to {}", number, any.invoked_ns, any.returned_ns);
    if (again_ns) {
      what += fmt::format(", is as it was at {} if writes landed twice", *again_ns);
    } else {
      what += told(blocks, right);
    }
    found_.push_back({again_ns ? Fault::twice : Fault::no_moment, std::move(what)});
  }

  // The blocks that contradict each other most: that says where to look.
  std::string told(const Cut& blocks, const std::map<const Part*, Span>& right) const {
    const Part *earliest = nullptr, *latest = nullptr;
    for (const Part& part : parts_) {
      if (!blocks.contains(part.block)) continue;
      const auto span = right.find(&part);
      if (span == right.end()) return fmt::format("; never {}", to_string(*blocks.at(part.block)));
      if (earliest == nullptr || span->second.last_ns < right.at(earliest).last_ns) earliest = &part;
      if (latest == nullptr || span->second.first_ns > right.at(latest).first_ns) latest = &part;
    }
    return fmt::format("; until {} {}; but from {} on {}", right.at(earliest).last_ns,
                       to_string(*blocks.at(earliest->block)), right.at(latest).first_ns,
                       to_string(*blocks.at(latest->block)));
  }

  std::vector<std::int64_t> times_; // of all that was invoked and that returned
  std::map<std::uint64_t, Operations> blocks_;
  std::map<std::uint32_t, Cut> cuts_; // by snapshot
  std::deque<Part> parts_;
  std::vector<Violation> found_;
};

} // namespace

std::vector<Violation> violations(std::span<const Operation> operations) { return Checker(operations).run(); }

std::string to_string(const Operation& operation) {
  constexpr std::string_view kKinds[] = {"reads", "writes", "snapshot has"};
  std::string words = fmt::format("{:x}", operation.first);
  if (is_torn(operation)) words += fmt::format("..{:x}..{:x}", operation.middle, operation.last);
  const std::string end = operation.outcome == Outcome::ok ? fmt::format("{}", operation.returned_ns) : "?";
  return fmt::format("[client {} {} {} in block {}, {} to {}, {}]", operation.client,
                     kKinds[static_cast<std::size_t>(operation.kind)], words, operation.block,
                     operation.invoked_ns, end, to_word(operation));
}

std::string_view to_string(Fault fault) {
  constexpr std::string_view kNames[] = {"written twice", "unwritten", "early",     "lost", "stale",
                                         "back",          "changed",   "no moment", "twice"};
  return kNames[static_cast<std::size_t>(fault)];
}

} // namespace vsnap::history
