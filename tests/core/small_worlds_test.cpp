// Small worlds, all of them: every sequence of up to three operations (or more) on two small volumes, the
// power cut at every call of the last one (a cut in an earlier one is that of a shorter sequence), and of the
// writes that no flush had made durable by then
//   up to three: every subset lost;
//   more: all, none, each alone lost, each alone kept, and two random choices that also tear at a sector.
// In each world the pool must open without a check, have nothing to find, and show for each volume and
// snapshot what was confirmed, or, of what was not, the old or the new: promises 2, 4, 5 and 6.
//
// VSNAP_WORLDS: length of the sequences (3 in the normal run; 4 is the long run). VSNAP_WORLDS_PART=I/N: of
// those of the full length each N-th, starting with the I-th. A failure prints what repeats it.
#include <fmt/format.h>

#include <cstdlib>
#include <map>
#include <random>
#include <set>

#include "core/log.h"
#include "core/pool.h"
#include "tests/support/catch.h"
#include "tests/support/memory_env.h"

using namespace vsnap;

namespace {

constexpr std::uint64_t kMiB = 1ULL << 20;
constexpr std::uint64_t kPoolBytes = 16 * kMiB;
constexpr std::uint64_t kSector = 512;
constexpr std::uint64_t kLarge = 4 * kBlockBytes;
constexpr std::uint64_t kSmall = 2 * kBlockBytes;

enum class Op {
  write0,
  write1,
  write_part,
  discard0,
  snapshot,
  remove,
  clone,
  rollback,
  resize,
  fsync,
  other_write,
  other_fsync
};
constexpr Op kOps[] = {Op::write0,   Op::write1, Op::write_part,  Op::discard0,
                       Op::snapshot, Op::remove, Op::clone,       Op::rollback,
                       Op::resize,   Op::fsync,  Op::other_write, Op::other_fsync};
constexpr const char* kNames[] = {"write 0",  "write 1", "write part",  "discard 0",
                                  "snapshot", "remove",  "clone",       "rollback",
                                  "resize",   "fsync",   "write other", "fsync other"};

using Sectors = std::vector<std::uint8_t>; // the stamp that each sector is full of

// What a view may show.
struct Allowed {
  std::vector<Sectors> whole;                // one of these, or
  std::vector<std::set<std::uint8_t>> mixed; // of each sector one of these,
  std::set<std::size_t> sizes;               // at one of these sizes, in sectors
  bool may_be_missing = false;

  void settle(const Sectors& now) { *this = {{now}, {}, {now.size()}, false}; }
};

Sectors of_size(Sectors sectors, std::uint64_t bytes) {
  sectors.resize(bytes / kSector, 0);
  return sectors;
}

class World {
 public:
  World() {
    REQUIRE(Pool::create(env_, {.name = "lab", .members = {{"/a", kPoolBytes}}}).has_value());
    open();
    REQUIRE(pool_->create_volume("a", kLarge).has_value());
    REQUIRE(pool_->create_volume("b", kLarge).has_value());
    now_["a"] = now_["b"] = Sectors(kLarge / kSector, 0);
    write("a", 0, kBlockBytes);
    REQUIRE(handle("a")->fsync().has_value());
    for (const char* name : {"a", "b"}) allowed_[name].settle(now_[name]);
  }

  void step(Op op) {
    begin(op);
    REQUIRE(perform(op));
    settle(op);
  }

  // The last one: what it did, event by event, and what may be seen while it is under way and afterwards.
  template <class Each>
  void last_step(Op op, Each each) {
    const auto before = env_.fork();
    begin(op);
    env_.start_recording();
    REQUIRE(perform(op));
    const auto events = env_.stop_recording();
    const auto during = allowed_;
    settle(op);
    for (std::size_t done = 0; done <= events.size(); ++done)
      each(*before, std::span(events).first(done), done == events.size() ? allowed_ : during);
  }

  using Views = std::map<std::string, Allowed>;

 private:
  void open() {
    auto opened = Pool::open(env_, {.member_paths = {"/a"}});
    REQUIRE(opened.has_value());
    pool_ = std::move(*opened);
  }
  ViewHandle handle(const std::string& name) {
    const auto info = pool_->find(*parse_view_name(name));
    REQUIRE(info.has_value());
    auto opened = pool_->open_view(info->id);
    REQUIRE(opened.has_value());
    return std::move(*opened);
  }
  void write(const std::string& name, std::uint64_t offset, std::uint64_t length) {
    ++stamp_;
    const std::vector<std::byte> data(length, std::byte{stamp_});
    REQUIRE(handle(name)->write(offset, data).has_value());
    Sectors& sectors = now_[name];
    if (sectors.size() * kSector < offset + length) sectors.resize((offset + length) / kSector, 0);
    std::fill_n(sectors.begin() + static_cast<std::ptrdiff_t>(offset / kSector), length / kSector, stamp_);
  }

  static const char* target(Op op) { return op == Op::other_write || op == Op::other_fsync ? "b" : "a"; }

  // `after` is what the operation leads to: the view may show it already, or still not, sector by sector.
  void loosen(const std::string& name, const Sectors& after) {
    Allowed& allowed = allowed_[name];
    const std::size_t sectors = std::max(after.size(), kLarge / kSector);
    allowed.mixed.resize(sectors);
    for (std::size_t i = 0; i < sectors; ++i) {
      allowed.mixed[i].insert(i < after.size() ? after[i] : 0);
      for (const Sectors& whole : allowed.whole) allowed.mixed[i].insert(i < whole.size() ? whole[i] : 0);
    }
    allowed.sizes.insert(after.size());
  }

  [[nodiscard]] Sectors predicted(Op op) const {
    Sectors after = now_.at(target(op));
    const auto stamp = static_cast<std::uint8_t>(stamp_ + 1);
    const auto fill = [&](std::size_t from, std::size_t count, std::uint8_t value) {
      if (value != 0 && after.size() < from + count) after.resize(from + count, 0);
      for (std::size_t i = from; i < std::min(from + count, after.size()); ++i) after[i] = value;
    };
    switch (op) {
      case Op::write0:
      case Op::other_write:
        fill(0, 8, stamp);
        break;
      case Op::write1:
        fill(8, 8, stamp);
        break;
      case Op::write_part:
        fill(1, 2, stamp);
        break;
      case Op::discard0:
        fill(0, 8, 0);
        break;
      case Op::resize:
        after = of_size(after, after.size() * kSector == kLarge ? kSmall : kLarge);
        break;
      case Op::rollback:
        if (now_.contains("a@s")) after = now_.at("a@s");
        break;
      default:
        break;
    }
    return after;
  }

  void begin(Op op) {
    const bool snapshot = now_.contains("a@s");
    switch (op) {
      case Op::snapshot:
        taken_ = !snapshot;
        if (taken_) {
          // It holds what the volume has when it is taken; until it is confirmed the volume may lose that.
          allowed_["a@s"] = {{now_["a"]}, {}, {}, true};
        }
        break;
      case Op::remove:
        if (snapshot) allowed_["a@s"].may_be_missing = true;
        break;
      case Op::clone:
        if (snapshot && !now_.contains("c")) allowed_["c"] = {{now_["a@s"]}, {}, {}, true};
        break;
      case Op::fsync:
      case Op::other_fsync:
        break;
      default:
        loosen(target(op), predicted(op));
    }
  }

  bool perform(Op op) {
    switch (op) {
      case Op::write0:
        write("a", 0, kBlockBytes);
        return true;
      case Op::write1:
        write("a", kBlockBytes, kBlockBytes);
        return true;
      case Op::write_part:
        write("a", kSector, 2 * kSector);
        return true;
      case Op::other_write:
        write("b", 0, kBlockBytes);
        return true;
      case Op::discard0:
        now_["a"] = predicted(op);
        return handle("a")->discard(0, kBlockBytes).has_value();
      case Op::snapshot: {
        const ViewName name{"a", "s"};
        if (now_.contains("a@s")) return true;
        now_["a@s"] = now_["a"];
        return pool_->snapshot(std::span(&name, 1)).has_value();
      }
      case Op::remove: {
        const ViewName name{"a", "s"};
        if (!now_.contains("a@s")) return true;
        now_.erase("a@s");
        return pool_->remove(std::span(&name, 1), {}).has_value();
      }
      case Op::clone:
        if (!now_.contains("a@s") || now_.contains("c")) return true;
        now_["c"] = now_["a@s"];
        return pool_->clone({"a", "s"}, "c").has_value();
      case Op::rollback:
        if (!now_.contains("a@s")) return true;
        now_["a"] = predicted(op);
        return pool_->rollback({"a", "s"}, true, false).has_value();
      case Op::resize:
        now_["a"] = predicted(op);
        return pool_->resize("a", now_["a"].size() * kSector, true).has_value();
      case Op::fsync:
        return handle("a")->fsync().has_value();
      case Op::other_fsync:
        return handle("b")->fsync().has_value();
    }
    return false;
  }

  // What its success confirms.
  void settle(Op op) {
    const auto confirm = [&](const std::string& name) { allowed_[name].settle(now_[name]); };
    switch (op) {
      case Op::snapshot:
        if (!taken_) break; // there was one: nothing was done
        confirm("a@s");
        confirm("a");
        break;
      case Op::remove:
        if (!now_.contains("a@s")) allowed_.erase("a@s");
        break;
      case Op::clone:
        if (now_.contains("c")) confirm("c");
        break;
      case Op::rollback:
        if (now_.contains("a@s")) confirm("a");
        break;
      case Op::resize:
      case Op::fsync:
        confirm("a");
        break;
      case Op::other_fsync:
        confirm("b");
        break;
      default:
        break;
    }
  }

  MemoryEnv env_;
  std::unique_ptr<Pool> pool_;
  std::uint8_t stamp_ = 0;
  bool taken_ = false; // by the last snapshot
  std::map<std::string, Sectors> now_;
  Views allowed_;
};

Sectors shown(Pool& pool, const ViewName& name) {
  const auto info = pool.find(name);
  REQUIRE(info.has_value());
  auto view = pool.open_view(info->id);
  REQUIRE(view.has_value());
  std::vector<std::byte> bytes((*view)->size_bytes());
  const auto read = (*view)->read(0, bytes);
  REQUIRE(read.has_value());
  REQUIRE(*read == bytes.size());
  REQUIRE(bytes.size() % kSector == 0);
  Sectors sectors;
  for (std::size_t at = 0; at < bytes.size(); at += kSector) {
    // A sector is never half old and half new.
    for (std::size_t i = 1; i < kSector; ++i) {
      if (bytes[at + i] != bytes[at]) FAIL("a sector of " << name.text() << " is torn");
    }
    sectors.push_back(static_cast<std::uint8_t>(bytes[at]));
  }
  return sectors;
}

void require_allowed(const std::string& name, const Sectors& found, const Allowed& allowed) {
  for (const Sectors& whole : allowed.whole) {
    if (found == whole) return;
  }
  CAPTURE(name, found);
  REQUIRE_FALSE(allowed.mixed.empty());
  REQUIRE(allowed.sizes.contains(found.size()));
  for (std::size_t i = 0; i < found.size(); ++i) {
    CAPTURE(i);
    REQUIRE(allowed.mixed[i].contains(found[i]));
  }
}

void verify(MemoryEnv& env, const World::Views& allowed) {
  auto opened = Pool::open(env, {.member_paths = {"/a"}});
  INFO((opened ? "" : opened.error().message));
  REQUIRE(opened.has_value());
  Pool& pool = **opened;
  for (const auto& [name, what] : allowed) {
    const ViewName view = *parse_view_name(name);
    CAPTURE(name);
    if (pool.find(view).has_value()) {
      require_allowed(name, shown(pool, view), what);
    } else {
      REQUIRE(what.may_be_missing);
    }
  }
  for (const ViewInfo& info : pool.list()) REQUIRE(allowed.contains(info.name.text()));
  const auto report = pool.check(false, {});
  REQUIRE(report.has_value());
  for (const Finding& finding : report->findings) FAIL(finding.what);
}

class Explorer {
 public:
  void explore(std::span<const Op> sequence) {
    std::string text;
    for (const Op op : sequence) text += fmt::format("{}; ", kNames[static_cast<std::size_t>(op)]);
    CAPTURE(text);
    World world;
    for (const Op op : sequence.first(sequence.size() - 1)) world.step(op);
    world.last_step(sequence.back(), [&](const MemoryEnv& before, std::span<const MemoryEnv::Event> done,
                                         const World::Views& allowed) {
      CAPTURE(done.size());
      const auto cut = before.fork();
      for (const MemoryEnv::Event& event : done) cut->replay(event);
      lose(*cut, allowed);
    });
  }
  [[nodiscard]] std::uint64_t worlds() const { return worlds_; }

 private:
  void lose(const MemoryEnv& cut, const World::Views& allowed) {
    const std::size_t count = cut.unsynced();
    const auto with = [&](const char* what, const MemoryEnv::Fates& fates) {
      CAPTURE(what, count);
      const auto world = cut.fork();
      world->power_cut(fates);
      verify(*world, allowed);
      ++worlds_;
    };
    if (count <= 3) {
      for (std::uint64_t kept = 0; kept < 1ULL << count; ++kept) {
        CAPTURE(kept);
        with("a subset", [&](std::size_t i) { return (kept >> i & 1U) != 0 ? MemoryEnv::kKept : 0; });
      }
    } else {
      with("all lost", [](std::size_t) { return std::size_t{0}; });
      with("all kept", [](std::size_t) { return MemoryEnv::kKept; });
      for (std::size_t one = 0; one < count; ++one) {
        CAPTURE(one);
        with("one lost", [&](std::size_t i) { return i == one ? 0 : MemoryEnv::kKept; });
        with("one kept", [&](std::size_t i) { return i == one ? MemoryEnv::kKept : 0; });
      }
    }
    for (std::uint64_t seed = 0; count > 0 && seed < 2; ++seed) {
      CAPTURE(seed);
      std::mt19937_64 random(worlds_ * 2 + seed);
      with("torn", [&](std::size_t) { return random() % 9; });
    }
  }
  std::uint64_t worlds_ = 0;
};

} // namespace

TEST_CASE("after every short sequence, cut off at every point, there is what was confirmed") {
  log::set_level(log::Level::off);
  const char* const length_text = std::getenv("VSNAP_WORLDS");
  const std::size_t length = length_text != nullptr ? std::strtoull(length_text, nullptr, 10) : 3;
  std::uint64_t first = 0, every = 1;
  if (const char* const part = std::getenv("VSNAP_WORLDS_PART")) {
    char* end = nullptr;
    first = std::strtoull(part, &end, 10);
    every = *end == '/' ? std::max<std::uint64_t>(std::strtoull(end + 1, nullptr, 10), 1) : 1;
  }
  Explorer explorer;
  std::uint64_t sequences = 0;
  std::vector<Op> sequence;
  for (std::size_t size = 1; size <= length; ++size) {
    std::uint64_t total = 1;
    for (std::size_t i = 0; i < size; ++i) total *= std::size(kOps);
    const std::uint64_t step = size < length ? 1 : every;
    for (std::uint64_t number = size < length ? 0 : first; number < total; number += step) {
      sequence.clear();
      for (std::uint64_t rest = number; sequence.size() < size; rest /= std::size(kOps))
        sequence.push_back(kOps[rest % std::size(kOps)]);
      INFO("VSNAP_WORLDS=" << size << " VSNAP_WORLDS_PART=" << number << "/" << total);
      explorer.explore(sequence);
      ++sequences;
    }
  }
  std::printf("%llu sequences, %llu worlds\n", static_cast<unsigned long long>(sequences),
              static_cast<unsigned long long>(explorer.worlds()));
}
