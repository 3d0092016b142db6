// A crash at any call while a full-sized snapshot is taken, copied, refreshed or split off: what was
// confirmed is there, whole, and every block has one owner.
#include <random>

#include "core/log.h"
#include "tests/core/full_lab.h"
#include "tests/support/seed.h"

using namespace vsnap;

namespace {

// The process dies, with or without the machine.
enum class Crash { kill, power_cut };

class CrashLab : public FullLab {
 public:
  explicit CrashLab(std::uint64_t seed) : FullLab(seed) {
    log::set_level(log::Level::off);
    REQUIRE(pool->add_member({"/b", 16 * kMiB}, false).has_value());
    REQUIRE(pool->sync().has_value());
    pool.reset();
    paths = {"/a", "/b"};
    open({.keep_tail = true});
  }
  void crash(Crash how, std::uint64_t seed) {
    if (how == Crash::power_cut)
      env.power_cut(seed);
    else if (!env.killed())
      env.kill();
    pool.reset();
    env.kill_at(std::nullopt);
    open({.keep_tail = true});
  }
  bool has(const std::string& text) { return pool->find(name(text)).has_value(); }
  bool some(const std::string& text, int pieces) {
    return pool->wait_for_copy(name(text), [&](std::uint64_t, std::uint64_t) { return --pieces >= 0; })
        .has_value();
  }
};

struct Confirmed {
  bool taken = false, refreshed = false, complete = false, split = false;
};

constexpr std::uint64_t kNew = 2 * kBlockBytes;

// So that the catalog does not have all yet of what is to be preserved.
void write_anew(CrashLab& lab) {
  const auto v = lab.pool->find({"v", {}});
  if (!v) return;
  const auto handle = lab.pool->open_view(v->id);
  for (std::uint64_t at = kNew; handle && at < kNew + 4 * kMiB; at += kMiB) {
    if (!(*handle)->write(at, block_of(77))) return;
  }
}

// All that can be done with one, until something fails.
void work(CrashLab& lab, Confirmed& confirmed) {
  const auto answered = [&](bool done) { return done && !lab.env.killed(); };
  write_anew(lab);
  // Onto a member that no flush of the catalog's reaches.
  confirmed.taken = confirmed.taken || answered(lab.full("v@f", {.members = {"1"}}).has_value());
  if (!confirmed.taken) return;
  static_cast<void>(lab.some("v@f", 2));
  if (lab.env.killed()) return;
  confirmed.refreshed = confirmed.refreshed || answered(lab.pool->refresh({"v", "f"}).has_value());
  if (!confirmed.refreshed) return;
  if (const auto v = lab.pool->find({"v", {}})) {
    if (auto handle = lab.pool->open_view(v->id)) {
      for (std::uint64_t at = 0; at < FullLab::kSize; at += kMiB)
        static_cast<void>((*handle)->write(at, block_of(250)));
      static_cast<void>((*handle)->fsync());
    }
  }
  confirmed.complete = answered(lab.pool->wait_for_copy({"v", "f"}, {}).has_value());
  if (!confirmed.complete) return;
  confirmed.split = answered(lab.pool->split({"v", "f"}, "w").has_value());
  if (!confirmed.split) return;
  static_cast<void>(lab.remove("v"));
  static_cast<void>(lab.pool->wait_for_removals({}));
}

void check_new(CrashLab& lab, const std::string& name) {
  for (std::uint64_t at = kNew; at < kNew + 4 * kMiB; at += kMiB)
    REQUIRE(read_from(*lab.view(name), at) == block_of(77));
}

void verify(CrashLab& lab, const Confirmed& confirmed) {
  const auto findings = lab.findings();
  for (const std::string& what : findings) UNSCOPED_INFO(what);
  REQUIRE(findings.empty());
  const bool is_split = lab.has("w");
  if (confirmed.taken) REQUIRE((lab.has("v@f") || is_split));
  if (confirmed.split) REQUIRE(is_split);
  if (!lab.has("v@f") && !is_split) return;
  const std::string name = is_split ? "w" : "v@f";
  lab.check_content(name);
  check_new(lab, name);
  if (confirmed.complete) REQUIRE(lab.info(name).state.empty());
  if (!lab.info(name).state.empty()) lab.finish(name);
  REQUIRE(lab.findings().empty());
  lab.check_content(name);
  check_new(lab, name);
}

std::uint64_t calls_of_work() {
  CrashLab lab(1);
  const std::uint64_t before = lab.env.calls();
  Confirmed confirmed;
  work(lab, confirmed);
  REQUIRE(confirmed.split);
  REQUIRE_FALSE(lab.has("v"));
  return lab.env.calls() - before;
}

} // namespace

#ifdef __SANITIZE_ADDRESS__
constexpr std::uint64_t kStep = 20; // sanitizers make it ten times slower; all calls are in the release build
#else
constexpr std::uint64_t kStep = 1;
#endif

TEST_CASE("a crash at any call leaves a full-sized snapshot as it was confirmed, and its copy goes on") {
  const std::uint64_t calls = calls_of_work();
  REQUIRE(calls > 50);
  for (const Crash how : {Crash::kill, Crash::power_cut}) {
    CAPTURE(int(how));
    for (std::uint64_t nth = 1; nth <= calls; nth += kStep) {
      CAPTURE(nth);
      CrashLab lab(nth);
      Confirmed confirmed;
      lab.env.kill_at(nth);
      work(lab, confirmed);
      lab.crash(how, nth);
      verify(lab, confirmed);
      lab.check_nothing_is_left();
    }
  }
}

TEST_CASE("a copy that crashes again and again comes to its end") {
  const std::uint64_t seed = test_seed();
  CAPTURE(seed);
  for (std::uint64_t round = 0; round < (kStep == 1 ? 30 : 3); ++round) {
    CAPTURE(round);
    std::mt19937_64 random(seed + round);
    CrashLab lab(seed + round);
    REQUIRE(lab.full().has_value());
    lab.overwrite();
    bool complete = false;
    for (int life = 0; !complete; ++life) {
      REQUIRE(life < 1000);
      lab.env.kill_at(1 + random() % 250); // a piece takes 70 calls
      complete = lab.some("v@f", 1000) && !lab.env.killed();
      lab.crash(random() % 2 == 0 ? Crash::kill : Crash::power_cut, random());
      REQUIRE(lab.findings().empty());
    }
    REQUIRE(lab.info("v@f").state.empty());
    lab.check_content("v@f");
    lab.check_nothing_is_left();
  }
}

TEST_CASE(
    "whichever call fails while a full-sized snapshot is copied, it is never half a copy taken for whole") {
  for (std::uint64_t nth = 1; nth <= 80; ++nth) {
    CAPTURE(nth);
    CrashLab lab(nth);
    REQUIRE(lab.full().has_value());
    lab.overwrite();
    REQUIRE(lab.pool->sync().has_value());
    lab.env.fail_once(nth);
    static_cast<void>(lab.some("v@f", 1000));
    lab.pool.reset();
    lab.env.fail_from(std::nullopt);
    lab.open_checked();
    REQUIRE(lab.findings().empty());
    lab.check_content("v@f");
    lab.finish("v@f");
    lab.check_content("v@f");
    lab.check_nothing_is_left();
  }
}
