#include "tests/support/history.h"

#include <fmt/format.h>
#include <algorithm>
#include <deque>
#include <map>

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

std::vector<Access> accesses_of(const Operations& operations, std::uint64_t Operation::*word) {
  std::vector<Access> accesses;
  accesses.reserve(operations.size());
  for (const Operation* operation : operations) accesses.push_back({operation, operation->*word});
  return accesses;
}

// What one read saw in between: another register for each, as nobody knows which word it was.
std::vector<Access> accesses_in_between(const Operations& operations, const Operation& read) {
  std::vector<Access> accesses;
  for (const Operation* operation : operations) {
    if (operation->kind == Kind::write) accesses.push_back({operation, operation->first});
  }
  accesses.push_back({&read, read.middle});
  return accesses;
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
    if (violations.empty()) parts_.push_back(std::move(part)); // others tell nothing of moments
  }

  using Cut = std::map<std::uint64_t, const Operation*>; // by block

  // The sets of moments that single blocks allow begin and end with operations, or with the command.
  void check_cut(std::uint32_t number, const Cut& blocks) {
    if (blocks.empty()) return;
    const Operation& any = *blocks.begin()->second;
    const auto from = std::lower_bound(times_.begin(), times_.end(), any.invoked_ns);
    const auto to = std::upper_bound(times_.begin(), times_.end(), any.returned_ns);
    const Part* contradicts = nullptr;
    for (auto moment = from; moment != to; ++moment) {
      const auto wrong = std::find_if(parts_.begin(), parts_.end(), [&](const Part& part) {
        const auto block = blocks.find(part.block);
        return block != blocks.end() && !part.zones.may_hold(block->second->*part.word, *moment);
      });
      if (wrong == parts_.end()) return;
      contradicts = &*wrong;
    }
    found_.push_back(
        {Fault::no_moment,
         fmt::format("snapshot {}, made from {} to {}; at the end of that not {}", number, any.invoked_ns,
                     any.returned_ns, to_string(*blocks.at(contradicts->block)))});
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

} // namespace vsnap::history
