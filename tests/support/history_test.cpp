// The checker of histories: it agrees with one that tries every order, passes what registers answer, and
// tells what they never would.
#include "tests/support/history.h"

#include <fmt/format.h>
#include <filesystem>
#include <map>
#include <set>

#include "tests/support/seed.h"
#include "tests/support/catch.h"
#include "tests/support/history_log.h"

using namespace vsnap;
using namespace vsnap::history;

namespace {

using Random = std::mt19937_64;

bool chance(Random& random, int per_cent) { return static_cast<int>(random() % 100) < per_cent; }

Operation operation(Kind kind, std::uint64_t value, std::int64_t invoked_ns, std::int64_t returned_ns,
                    std::uint64_t block = 0) {
  Operation made;
  made.block = block;
  made.first = made.middle = made.last = value;
  made.invoked_ns = invoked_ns;
  made.returned_ns = returned_ns;
  made.kind = kind;
  made.outcome = Outcome::ok;
  return made;
}
Operation wrote(std::uint64_t value, std::int64_t invoked_ns, std::int64_t returned_ns) {
  return operation(Kind::write, value, invoked_ns, returned_ns);
}
Operation saw(std::uint64_t value, std::int64_t invoked_ns, std::int64_t returned_ns) {
  return operation(Kind::read, value, invoked_ns, returned_ns);
}
Operation kept(std::uint64_t value, std::int64_t began_ns, std::int64_t ended_ns, std::uint64_t block = 0,
               std::uint32_t number = 0) {
  Operation made = operation(Kind::cut, value, began_ns, ended_ns, block);
  made.client = number;
  return made;
}
Operation with(Outcome outcome, Operation made) {
  made.outcome = outcome;
  return made;
}

std::set<Fault> faults(const std::vector<Operation>& operations) {
  std::set<Fault> found;
  for (const Violation& violation : violations(operations)) found.insert(violation.fault);
  return found;
}
using Faults = std::set<Fault>;

// Tries every order that the times allow, with the state of all blocks: Wing and Gong, "Testing and verifying
// concurrent objects", 1993. A cut is one operation on all blocks. What is repeatable may happen again, where
// that is wanted.
class EveryOrder {
 public:
  explicit EveryOrder(const std::vector<Operation>& operations, bool with_repeats = false) {
    std::map<std::uint32_t, std::size_t> cuts;
    for (const Operation& each : operations) {
      if (each.kind == Kind::read && each.outcome != Outcome::ok) continue;
      if (each.kind == Kind::cut) {
        const auto [found, is_new] = cuts.try_emplace(each.client, steps_.size());
        if (!is_new) {
          steps_[found->second].push_back(&each);
          continue;
        }
      }
      steps_.push_back({&each});
    }
    once_ = steps_.size();
    for (const Operation& each : operations) {
      if (with_repeats && each.repeatable != 0) steps_.push_back({&each});
    }
  }
  bool is_possible() { return goes_on(0, {}); }

 private:
  using State = std::map<std::uint64_t, std::uint64_t>;

  bool goes_on(std::uint32_t done, const State& state) {
    std::int64_t first_end = kNever_ns; // of those that are left
    bool all = true;
    for (std::size_t i = 0; i < steps_.size(); ++i) {
      const Operation& each = *steps_[i].front();
      if ((done >> i & 1) != 0 || i >= once_ || each.outcome != Outcome::ok) continue;
      all = false;
      first_end = std::min(first_end, each.returned_ns);
    }
    if (all) return true; // writes without an answer need not happen
    if (!seen_.emplace(done, state).second) return false;
    for (std::size_t i = 0; i < steps_.size(); ++i) {
      if ((done >> i & 1) != 0 || steps_[i].front()->invoked_ns > first_end) continue;
      if (i >= once_ && is_answered_before(*steps_[i].front(), done)) continue;
      State next = state;
      bool fits = true;
      for (const Operation* each : steps_[i]) {
        if (each->kind == Kind::write) {
          next[each->block] = each->first;
        } else {
          fits = fits && next[each->block] == each->first;
        }
      }
      if (fits && goes_on(done | 1U << i, next)) return true;
    }
    return false;
  }

  // Before something began that has been done.
  bool is_answered_before(const Operation& write, std::uint32_t done) const {
    if (write.outcome != Outcome::ok) return false;
    for (std::size_t i = 0; i < steps_.size(); ++i) {
      if ((done >> i & 1) != 0 && steps_[i].front()->invoked_ns > write.returned_ns) return true;
    }
    return false;
  }

  std::vector<std::vector<const Operation*>> steps_;
  std::size_t once_ = 0;                           // of those; the others are what happens again
  std::set<std::pair<std::uint32_t, State>> seen_; // from where it is not possible
};

// Few operations at few moments, so that right and wrong are both frequent.
std::vector<Operation> anything(Random& random, std::uint64_t blocks, int cuts) {
  std::vector<Operation> made;
  std::vector<std::vector<std::uint64_t>> values(blocks, {0});
  const auto times = [&](Operation& each) {
    each.invoked_ns = static_cast<std::int64_t>(random() % 12);
    each.returned_ns = each.invoked_ns + static_cast<std::int64_t>(random() % 6);
  };
  const std::size_t writes = 1 + random() % 4;
  for (std::uint64_t value = 1; value <= writes; ++value) {
    Operation each = wrote(value, 0, 0);
    times(each);
    each.block = random() % blocks;
    if (chance(random, 25)) each.outcome = chance(random, 50) ? Outcome::failed : Outcome::unknown;
    values[each.block].push_back(value);
    made.push_back(each);
  }
  for (std::size_t reads = random() % 5; reads > 0; --reads) {
    Operation each = saw(0, 0, 0);
    times(each);
    each.block = random() % blocks;
    each.first = each.middle = each.last = values[each.block][random() % values[each.block].size()];
    made.push_back(each);
  }
  for (int number = 0; number < cuts; ++number) {
    Operation each = kept(0, 0, 0, 0, static_cast<std::uint32_t>(number));
    times(each);
    for (each.block = 0; each.block < blocks; ++each.block) {
      each.first = each.middle = each.last = values[each.block][random() % values[each.block].size()];
      made.push_back(each);
    }
  }
  return made;
}

std::vector<Operation> with_repeats(Random& random, std::vector<Operation> made) {
  for (Operation& each : made) {
    if (each.kind != Kind::write || chance(random, 30)) continue;
    each.repeatable = 1;
    each.returned_ns += static_cast<std::int64_t>(random() % 6);
  }
  return made;
}

bool explained_by_repeats(const std::vector<Violation>& found) {
  return std::all_of(found.begin(), found.end(),
                     [](const Violation& each) { return each.fault == Fault::twice; });
}

std::string to_string(const std::vector<Operation>& operations) {
  std::string text;
  for (const Operation& each : operations) text += history::to_string(each) + "\n";
  return text;
}

// Clients of registers that do each operation at one moment between its begin and its end; some answers are
// lost, and writes that failed happen later, or never.
class Registers {
 public:
  Registers(Random& random, std::size_t clients, std::uint64_t blocks)
      : random_(random), clients_(clients), content_(blocks) {}

  // `deaths`: per mille of the steps, at each of which what is under way may be carried out again.
  std::vector<Operation> run(int steps, int deaths = 0) {
    for (int step = 0; step < steps; ++step) {
      ++now_;
      if (static_cast<int>(random_() % 1000) < deaths) die();
      if (!late_.empty() && chance(random_, 3)) happen_late();
      go_on(static_cast<std::uint32_t>(random_() % clients_.size()));
    }
    for (const Client& client : clients_)
      done_.insert(done_.end(), client.under_way.begin(), client.under_way.end());
    return std::move(done_);
  }

 private:
  struct Client {
    std::vector<Operation> under_way; // of a cut, one of each block
    bool happened = false;
  };

  void die() {
    for (Client& client : clients_) {
      if (client.under_way.empty() || client.under_way.front().kind != Kind::write) continue;
      Operation& write = client.under_way.front();
      if (write.repeatable != 0) continue;
      write.repeatable = 1;
      client.happened = client.happened && chance(random_, 50);
    }
  }

  void go_on(std::uint32_t number) {
    Client& client = clients_[number];
    if (client.under_way.empty()) {
      begin(client, number);
    } else if (!client.happened) {
      const Operation& each = client.under_way.front();
      if (each.kind == Kind::write && chance(random_, 10)) {
        fail(client);
      } else {
        happen(client);
      }
    } else {
      for (Operation& each : client.under_way) {
        each.returned_ns = now_;
        each.outcome = Outcome::ok;
        done_.push_back(each);
      }
      client = {};
    }
  }

  void begin(Client& client, std::uint32_t number) {
    if (chance(random_, 2)) {
      ++cuts_;
      for (std::uint64_t block = 0; block < content_.size(); ++block) {
        client.under_way.push_back(with(Outcome::unknown, kept(0, now_, kNever_ns, block, 1000 + cuts_)));
      }
      return;
    }
    Operation each = chance(random_, 50) ? wrote(++values_, now_, kNever_ns) : saw(0, now_, kNever_ns);
    each.block = random_() % content_.size();
    each.client = number;
    client.under_way.push_back(with(Outcome::unknown, each));
  }

  void happen(Client& client) {
    for (Operation& each : client.under_way) {
      if (each.kind == Kind::write) {
        content_[each.block] = each.first;
      } else {
        each.first = each.middle = each.last = content_[each.block];
      }
    }
    client.happened = true;
  }

  void fail(Client& client) {
    Operation& each = client.under_way.front();
    each.outcome = chance(random_, 50) ? Outcome::failed : Outcome::unknown;
    each.returned_ns = now_;
    if (chance(random_, 70)) late_.push_back(each);
    done_.push_back(each);
    client = {};
  }

  void happen_late() {
    const auto which = late_.begin() + static_cast<std::ptrdiff_t>(random_() % late_.size());
    content_[which->block] = which->first;
    late_.erase(which);
  }

  Random& random_;
  std::vector<Client> clients_;
  std::vector<std::uint64_t> content_;
  std::vector<Operation> late_; // that failed and may still happen
  std::vector<Operation> done_;
  std::int64_t now_ = 0;
  std::uint64_t values_ = 0;
  std::uint32_t cuts_ = 0;
};

} // namespace

TEST_CASE("a history is right if and only if some order of its operations explains it") {
  Random random(test_seed());
  int right = 0, wrong = 0;
  for (int turn = 0; turn < 60'000; ++turn) {
    const auto operations = anything(random, 1 + turn % 2, turn % 3 == 0 ? 1 : 0);
    const bool is_possible = EveryOrder(operations).is_possible();
    INFO(to_string(operations));
    REQUIRE(violations(operations).empty() == is_possible);
    (is_possible ? right : wrong)++;
  }
  REQUIRE(right > 5'000);
  REQUIRE(wrong > 5'000);
}

TEST_CASE("that writes were carried out twice is told if and only if nothing else explains a history") {
  Random random(test_seed());
  int right = 0, twice = 0, wrong = 0;
  for (int turn = 0; turn < 120'000; ++turn) {
    const auto operations = with_repeats(random, anything(random, 1 + turn % 2, turn % 3 == 0 ? 1 : 0));
    const auto found = violations(operations);
    INFO(to_string(operations));
    REQUIRE(explained_by_repeats(found) == EveryOrder(operations, true).is_possible());
    if (!explained_by_repeats(found)) {
      ++wrong;
      continue;
    }
    REQUIRE(found.empty() == EveryOrder(operations).is_possible());
    (found.empty() ? right : twice)++;
  }
  REQUIRE(right > 5'000);
  REQUIRE(twice > 100);
  REQUIRE(wrong > 5'000);
}

TEST_CASE("where there are several snapshots, what an order explains is right") {
  Random random(test_seed());
  int right = 0;
  for (int turn = 0; turn < 60'000; ++turn) {
    const auto operations = anything(random, 2, 2);
    if (!EveryOrder(operations).is_possible()) continue;
    INFO(to_string(operations));
    REQUIRE(violations(operations).empty());
    ++right;
  }
  REQUIRE(right > 1'000);
}

TEST_CASE("what registers answer is right, whatever fails and happens late") {
  Random random(test_seed());
  std::size_t snapshots = 0, failed = 0;
  for (int turn = 0; turn < 3'000; ++turn) {
    const auto operations = Registers(random, 1 + random() % 8, 1 + random() % 4).run(400);
    for (const Violation& violation : violations(operations)) FAIL(violation.what);
    for (const Operation& each : operations) {
      if (each.kind == Kind::cut && each.outcome == Outcome::ok) ++snapshots;
      if (each.kind == Kind::write && each.outcome == Outcome::failed) ++failed;
    }
  }
  REQUIRE(snapshots > 3'000);
  REQUIRE(failed > 3'000);
}

TEST_CASE("what registers answer is right but for repeats, where those who serve them die") {
  Random random(test_seed());
  std::size_t repeats = 0;
  for (int turn = 0; turn < 3'000; ++turn) {
    const auto operations = Registers(random, 2 + random() % 8, 1 + random() % 4).run(400, 60);
    for (const Violation& violation : violations(operations)) {
      INFO(to_string(operations));
      INFO(violation.what);
      REQUIRE(violation.fault == Fault::twice);
      ++repeats;
    }
  }
  REQUIRE(repeats > 200);
}

TEST_CASE("of a long history one wrong answer is found") {
  Random random(test_seed());
  for (int turn = 0; turn < 500; ++turn) {
    auto operations = Registers(random, 6, 4).run(4'000);
    // What was there before the block's newest write that had been answered when the read began.
    std::vector<std::size_t> candidates;
    std::map<std::uint64_t, std::vector<Operation>> answered;
    for (std::size_t i = 0; i < operations.size(); ++i) {
      const Operation& each = operations[i];
      if (each.outcome != Outcome::ok) continue;
      if (each.kind == Kind::write) answered[each.block].push_back(each);
      if (each.kind == Kind::read && answered[each.block].size() > 3) candidates.push_back(i);
    }
    REQUIRE(!candidates.empty());
    Operation& read = operations[candidates[random() % candidates.size()]];
    std::vector<Operation> over;
    for (const Operation& each : answered[read.block]) {
      if (each.returned_ns < read.invoked_ns) over.push_back(each);
    }
    // One that another one has certainly replaced: it began after that had returned.
    const Operation& newest = over.back();
    const auto old = std::find_if(over.rbegin(), over.rend(), [&](const Operation& each) {
      return each.returned_ns < newest.invoked_ns;
    });
    if (old == over.rend()) continue;
    read.first = read.middle = read.last = old->first;
    REQUIRE_FALSE(violations(operations).empty());
  }
}

TEST_CASE("each fault is told by its name") {
  const auto one = wrote(1, 10, 20), two = wrote(2, 30, 40);
  REQUIRE(faults({one, two, saw(2, 50, 60)}).empty());
  REQUIRE(faults({one, two, saw(3, 50, 60)}) == Faults{Fault::unwritten});
  REQUIRE(faults({one, two, saw(2, 21, 29)}) == Faults{Fault::early});
  REQUIRE(faults({one, two, saw(1, 50, 60)}) == Faults{Fault::lost});
  REQUIRE(faults({one, two, saw(1, 50, 60), saw(2, 70, 80)}) == Faults{Fault::stale});
  REQUIRE(faults({one, two, saw(2, 42, 44), saw(1, 50, 60)}) == Faults{Fault::back});
  REQUIRE(faults({one, saw(0, 30, 40)}) == Faults{Fault::lost});
  REQUIRE(faults({one, with(Outcome::ok, one)}) == Faults{Fault::written_twice});
}

TEST_CASE("a write that failed may land late, once, or never") {
  const auto two = wrote(2, 30, 40);
  for (const Outcome outcome : {Outcome::failed, Outcome::unknown}) {
    const auto one = with(outcome, wrote(1, 10, 20));
    REQUIRE(faults({one, two, saw(2, 50, 60)}).empty());
    REQUIRE(faults({one, two, saw(2, 50, 60), saw(1, 70, 80)}).empty());
    REQUIRE(faults({one, saw(1, 22, 24), two, saw(2, 50, 60), saw(1, 70, 80)}) == Faults{Fault::back});
    REQUIRE(faults({one, two, saw(1, 50, 60), saw(2, 70, 80)}) == Faults{Fault::stale});
    REQUIRE(faults({one, saw(1, 2, 4)}) == Faults{Fault::early});
  }
  REQUIRE(faults({with(Outcome::failed, saw(7, 1, 2))}).empty());
}

TEST_CASE("operations that are under way at once may come in any order") {
  const auto one = wrote(1, 10, 40), two = wrote(2, 20, 30);
  REQUIRE(faults({one, two, saw(1, 50, 60)}).empty());
  REQUIRE(faults({one, two, saw(2, 50, 60)}).empty());
  REQUIRE(faults({one, two, saw(2, 50, 60), saw(1, 70, 80)}) == Faults{Fault::back});
  REQUIRE(faults({one, saw(1, 12, 14), saw(0, 13, 16)}).empty());
  REQUIRE(faults({one, saw(1, 12, 14), saw(0, 15, 16)}) == Faults{Fault::back});
}

TEST_CASE("words of a block are registers of their own") {
  auto torn = saw(0, 5, 60);
  torn.first = torn.middle = 1;
  REQUIRE(faults({wrote(1, 10, 20), torn}).empty());
  torn.first = 0, torn.middle = torn.last = 1;
  REQUIRE(faults({wrote(1, 10, 20), torn, saw(1, 70, 80)}).empty());
  torn.invoked_ns = 30;
  REQUIRE_FALSE(faults({wrote(1, 10, 20), torn}).empty());
  torn.invoked_ns = 5;
  torn.middle = 9;
  REQUIRE(faults({wrote(1, 10, 20), torn}) == Faults{Fault::unwritten});
}

TEST_CASE("a cache that others go past may lag, and run ahead, as long as a write is under way") {
  const auto cached = [](Operation made) {
    made.cached = 1;
    return made;
  };
  const auto one = wrote(1, 10, 20), two = wrote(2, 30, 60);
  REQUIRE(faults({one, two, saw(2, 32, 34), saw(1, 40, 50)}) == Faults{Fault::back});
  REQUIRE(faults({one, two, saw(2, 32, 34), cached(saw(1, 40, 50))}).empty());
  REQUIRE(faults({one, two, saw(2, 32, 34), cached(saw(1, 61, 62))}) == Faults{Fault::back});
  REQUIRE(faults({one, two, cached(saw(1, 61, 62))}) == Faults{Fault::lost});
  REQUIRE(faults({one, two, cached(saw(2, 32, 34)), saw(1, 40, 50)}).empty());
  REQUIRE(faults({one, two, cached(saw(2, 32, 34)), saw(1, 61, 62)}) == Faults{Fault::back});
  REQUIRE(faults({one, two, cached(saw(2, 22, 28))}) == Faults{Fault::early});
  // Others that are under way say nothing of what has ended before.
  REQUIRE(faults({one, two, wrote(3, 70, 90), cached(saw(1, 80, 85))}) == Faults{Fault::lost});
}

TEST_CASE("a write that may be carried out twice is told from one that may not") {
  auto one = wrote(1, 10, 90);
  const auto two = wrote(2, 30, 40);
  const std::vector<Operation> reads = {saw(1, 20, 25), saw(2, 50, 55), saw(1, 80, 85)};
  const auto all = [&](std::vector<Operation> others) {
    others.insert(others.end(), {one, two});
    others.insert(others.end(), reads.begin(), reads.end());
    return faults(others);
  };
  REQUIRE(all({}) == Faults{Fault::back});
  one.repeatable = 1;
  REQUIRE(all({}) == Faults{Fault::twice});
  REQUIRE(all({saw(2, 95, 96)}).contains(Fault::back)); // the other one may not
  REQUIRE(all({wrote(3, 91, 92), saw(3, 93, 94), saw(1, 95, 96)}).contains(Fault::back)); // and it not thrice
  REQUIRE(faults({one, two, saw(1, 80, 85)}).empty());
}

TEST_CASE("a snapshot has what was answered before, and nothing that began after") {
  const auto one = wrote(1, 10, 20), two = wrote(2, 60, 70);
  REQUIRE(faults({one, two, kept(1, 30, 40)}).empty());
  REQUIRE(faults({one, two, kept(1, 30, 65)}).empty());
  REQUIRE(faults({one, two, kept(2, 30, 65)}).empty());
  REQUIRE(faults({one, two, kept(0, 30, 40)}) == Faults{Fault::lost});
  REQUIRE(faults({one, two, kept(2, 30, 40)}) == Faults{Fault::early});
  REQUIRE(faults({one, two, kept(1, 30, 40), kept(2, 30, 40)}) == Faults{Fault::changed});
}

TEST_CASE("a snapshot shows one moment of all blocks") {
  const auto first = operation(Kind::write, 1, 10, 20, 0), second = operation(Kind::write, 2, 30, 40, 1);
  const auto snapshot = [&](std::uint64_t a, std::uint64_t b) {
    return faults({first, second, kept(a, 0, 50, 0), kept(b, 0, 50, 1)});
  };
  REQUIRE(snapshot(0, 0).empty());
  REQUIRE(snapshot(1, 0).empty());
  REQUIRE(snapshot(1, 2).empty());
  REQUIRE(snapshot(0, 2) == Faults{Fault::no_moment}); // the first was answered before the second began
}

TEST_CASE("a snapshot may be of a moment at which a write was there for the second time") {
  auto one = wrote(1, 10, 90);
  const auto two = wrote(2, 30, 40), three = operation(Kind::write, 3, 57, 58, 1);
  const auto all = [&] {
    return faults({one, saw(1, 20, 25), two, saw(2, 50, 55), kept(1, 35, 100), three, kept(3, 35, 100, 1)});
  };
  REQUIRE(all() == Faults{Fault::no_moment}); // block 1 says after 57, and 0 before 50
  one.repeatable = 1;
  REQUIRE(all() == Faults{Fault::twice});
}

TEST_CASE("what a client wrote down is there after it was killed") {
  const std::string path =
      std::filesystem::temp_directory_path() / fmt::format("vsnap-history-{}", std::random_device{}());
  {
    auto log = Log::create(path);
    REQUIRE(log);
    REQUIRE_FALSE(Log::create(path)); // never two clients in one
    log->invoke(wrote(7, 0, 0));
    log->returned(Outcome::ok, 7, 7, 7);
    log->invoke(wrote(8, 0, 0));
    const auto found = read_log(path); // as of one that was killed now
    REQUIRE(found);
    REQUIRE(found->size() == 2);
    REQUIRE((*found)[0].outcome == Outcome::ok);
    REQUIRE((*found)[0].first == 7);
    REQUIRE((*found)[0].invoked_ns <= (*found)[0].returned_ns);
    REQUIRE((*found)[1].outcome == Outcome::unknown);
    REQUIRE((*found)[1].returned_ns == kNever_ns);
  }
  std::filesystem::remove(path);
  REQUIRE_FALSE(read_log(path));
}
