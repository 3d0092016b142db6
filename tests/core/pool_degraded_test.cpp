// A pool that is opened without one of its members: what is left of it, and what must not be touched.
#include <array>
#include <cerrno>
#include <set>

#include "core/log.h"
#include "tests/core/refusal.h"
#include "tests/support/seed.h"
#include "tests/core/small_pool.h"

using namespace vsnap;

namespace {

constexpr std::uint64_t kBlocks = 24;
constexpr std::uint64_t kStride = 64 * kBlockBytes; // one block in each
constexpr std::uint64_t kSize = kBlocks * kStride;

// Which block it is, and the how-manieth content: so that another block's data is told from an old one.
std::uint64_t word_of(std::uint64_t block, std::uint64_t content) { return (block + 1) << 32U | content; }

std::vector<std::byte> content_of(std::uint64_t block, std::uint64_t content) {
  std::vector<std::byte> out(kBlockBytes);
  const std::uint64_t word = word_of(block, content);
  for (std::size_t at = 0; at < out.size(); at += sizeof word) std::memcpy(&out[at], &word, sizeof word);
  return out;
}

class Lab {
 public:
  enum class Made { whole, grown }; // grown: with one member at first
  Lab(std::uint32_t members, Made how, std::uint64_t seed = 1) : env(seed) {
    log::set_level(log::Level::off);
    std::vector<MemberSpec> specs;
    for (std::uint32_t i = 0; i < members; ++i) {
      paths.push_back("/" + std::string(1, static_cast<char>('a' + i)));
      specs.push_back({paths.back(), 24 * kMiB});
    }
    if (how == Made::whole) {
      REQUIRE(Pool::create(env, {.name = "lab", .members = specs}).has_value());
    } else {
      REQUIRE(Pool::create(env, {.name = "lab", .members = {specs[0]}}).has_value());
      open({.member_paths = {paths[0]}});
      for (std::uint32_t i = 1; i < members; ++i) REQUIRE(pool->add_member(specs[i], false).has_value());
      close();
    }
    open();
  }
  void open(OpenPoolOptions options = {}) {
    if (options.member_paths.empty()) options.member_paths = paths;
    auto opened = Pool::open(env, options);
    INFO((opened ? "" : opened.error().message));
    REQUIRE(opened.has_value());
    pool = std::move(*opened);
  }
  void close() {
    REQUIRE(pool->close().has_value());
    pool.reset();
  }
  // As if nothing were at the path of that member.
  Result<std::unique_ptr<Pool>> open_without(std::uint32_t lost) {
    std::vector<std::string> left = paths;
    left[lost] = "/gone";
    return Pool::open(env, {.member_paths = left, .degraded = true});
  }
  void write(std::uint64_t block, std::uint64_t content) {
    REQUIRE(view(*pool, "v")->write(block * kStride, content_of(block, content)).has_value());
  }
  void write_all(std::uint64_t content) {
    for (std::uint64_t block = 0; block < kBlocks; ++block) write(block, content);
  }
  void snapshot(const std::string& text) {
    const ViewName name = *parse_view_name(text);
    REQUIRE(pool->snapshot(std::span(&name, 1)).has_value());
  }
  static ViewHandle view(Pool& pool, const std::string& text) {
    const auto info = pool.find(*parse_view_name(text));
    REQUIRE(info.has_value());
    auto handle = pool.open_view(info->id);
    INFO((handle ? "" : handle.error().message));
    REQUIRE(handle.has_value());
    return std::move(*handle);
  }
  std::vector<SparseBytes> bytes() {
    std::vector<SparseBytes> out;
    for (const std::string& path : paths) out.push_back(env.bytes_of(path));
    return out;
  }
  std::vector<std::string> findings() {
    const auto report = pool->check(false, {});
    if (!report) return {report.error().message};
    std::vector<std::string> what;
    for (const Finding& finding : report->findings) what.push_back(finding.what);
    return what;
  }

  MemoryEnv env;
  std::vector<std::string> paths;
  std::unique_ptr<Pool> pool;
};

struct Read {
  std::uint64_t right = 0, failed = 0;
};

// Each block that can be read has one of the contents [from, to]; 0: nothing.
Read check_view(Pool& pool, const std::string& text, std::uint64_t from, std::uint64_t to) {
  Read count;
  const ViewHandle view = Lab::view(pool, text);
  for (std::uint64_t block = 0; block < kBlocks; ++block) {
    CAPTURE(text, block, from, to);
    std::vector<std::byte> out(kBlockBytes);
    const auto read = view->read(block * kStride, out);
    if (!read) {
      REQUIRE(read.error().errno_value == EIO);
      ++count.failed;
      continue;
    }
    ++count.right;
    for (std::size_t at = 0; at < out.size(); at += sizeof(std::uint64_t)) {
      std::uint64_t word = 0;
      std::memcpy(&word, &out[at], sizeof word);
      if (word == 0 && from == 0) continue;
      CAPTURE(word);
      REQUIRE((word >= word_of(block, std::max<std::uint64_t>(from, 1)) && word <= word_of(block, to)));
    }
  }
  return count;
}

bool leaves_out(Pool& pool) { return pool.status().health.find("is not shown") != std::string::npos; }

// v and v@f, a full-sized snapshot with its copy on member 1; v was overwritten since.
void preserve(Lab& lab) {
  REQUIRE(lab.pool->create_volume("v", kSize).has_value());
  lab.write_all(1);
  REQUIRE(lab.pool->snapshot_full({"v", "f"}, {.members = {"1"}}).has_value());
  REQUIRE(lab.pool->wait_for_copy({"v", "f"}, {}).has_value());
  lab.write_all(2);
  REQUIRE(lab.pool->sync().has_value());
}

void require_back(Lab& lab, const std::vector<SparseBytes>& before) {
  REQUIRE((lab.bytes() == before));
  lab.open();
  CHECK(check_view(*lab.pool, "v", 2, 2).right == kBlocks);
  CHECK(check_view(*lab.pool, "v@f", 1, 1).right == kBlocks);
  CHECK(lab.findings().empty());
  lab.close();
}

} // namespace

TEST_CASE("a full-sized snapshot outlives each member that it has no block on") {
  for (const std::uint32_t members : {2U, 3U}) {
    Lab lab(members, Lab::Made::whole);
    preserve(lab);
    lab.close();
    for (std::uint32_t lost = 0; lost < members; ++lost) {
      CAPTURE(members, lost);
      const auto before = lab.bytes();
      auto opened = lab.open_without(lost);
      INFO((opened ? "" : opened.error().message));
      REQUIRE(opened.has_value());
      Pool& pool = **opened;
      const Read v = check_view(pool, "v", 2, 2);
      const Read f = check_view(pool, "v@f", 1, 1);
      CHECK(v.right + v.failed == kBlocks);
      if (lost == 1)
        CHECK(f.failed == kBlocks);
      else
        CHECK(f.right == kBlocks);
      CHECK(pool.status().health ==
            "degraded: member " + std::to_string(lost) + " (/gone) is missing; read-only");
      REQUIRE(pool.close().has_value());
      opened->reset();
      require_back(lab, before);
    }
  }
}

TEST_CASE("a volume fails where its blocks are on the missing member, and is right elsewhere") {
  Lab lab(2, Lab::Made::whole);
  REQUIRE(lab.pool->create_volume("v", kSize).has_value());
  lab.write_all(1);
  REQUIRE(lab.pool->snapshot_full({"v", "f"}, {.members = {"0"}}).has_value());
  REQUIRE(lab.pool->wait_for_copy({"v", "f"}, {}).has_value());
  REQUIRE(lab.pool->snapshot_full({"v", "g"}, {.members = {"1"}}).has_value());
  REQUIRE(lab.pool->wait_for_copy({"v", "g"}, {}).has_value());
  REQUIRE(lab.pool->split({"v", "f"}, "w").has_value());
  lab.close();
  auto opened = lab.open_without(0);
  REQUIRE(opened.has_value());
  CHECK(check_view(**opened, "w", 1, 1).failed == kBlocks);
  CHECK(check_view(**opened, "v@g", 1, 1).right == kBlocks);
  const ViewHandle w = Lab::view(**opened, "w");
  std::vector<std::byte> hole(kBlockBytes, std::byte{1});
  REQUIRE(w->read(kBlockBytes, hole).has_value());
  CHECK(hole == std::vector<std::byte>(kBlockBytes));
}

TEST_CASE("a pool that is open without a member refuses every change and says why") {
  Lab lab(2, Lab::Made::whole);
  preserve(lab);
  lab.close();
  const auto before = lab.bytes();
  auto opened = lab.open_without(0);
  REQUIRE(opened.has_value());
  Pool& pool = **opened;
  CHECK(pool.is_read_only());
  const auto refused = [&](const auto& result) {
    const Error error = refusal(result);
    CHECK(says(error, "pool lab is open without member 0 (/gone) and takes no changes"));
    CHECK(error.errno_value == EROFS);
    CHECK(error.kind == ErrorKind::failed);
  };
  const ViewName s{"v", "s"}, f{"v", "f"}, v{"v", {}};
  refused(pool.create_volume("w", kMiB));
  refused(pool.snapshot(std::span(&s, 1)));
  refused(pool.snapshot_full(s, {}));
  refused(pool.rename(v, "w"));
  refused(pool.resize("v", kSize * 2, false));
  refused(pool.resize("v", kMiB, true));
  refused(pool.rollback(f, false, false));
  refused(pool.clone(f, "c"));
  refused(pool.split(f, "c"));
  refused(pool.refresh(f));
  refused(pool.preserve(s));
  refused(pool.remove(std::span(&f, 1), {}));
  refused(pool.remove(std::span(&v, 1), {.recursive = true}));
  refused(pool.add_member({"/new", 16 * kMiB}, false));
  refused(pool.set_attributes(pool.find(v)->id, 0644, {}, {}, {}));
  {
    const ViewHandle handle = Lab::view(pool, "v");
    refused(handle->write(0, content_of(0, 9)));
    refused(handle->fsync());
    refused(handle->discard(0, kBlockBytes));
  }
  CHECK(says(refusal(pool.check(false, {})), "only a whole pool can be checked"));
  CHECK(pool.list().size() == 2);
  CHECK(pool.disk_usage().has_value());
  REQUIRE(pool.close().has_value());
  opened->reset();
  require_back(lab, before);
}

TEST_CASE("with all members there, degraded changes nothing") {
  Lab lab(2, Lab::Made::whole);
  preserve(lab);
  lab.close();
  lab.open({.degraded = true});
  CHECK_FALSE(lab.pool->is_read_only());
  lab.write_all(3);
  lab.close();
  lab.open();
  CHECK(check_view(*lab.pool, "v", 3, 3).right == kBlocks);
}

TEST_CASE("without being asked to, no pool opens without a member") {
  Lab lab(2, Lab::Made::whole);
  lab.close();
  CHECK(says(refusal(Pool::open(lab.env, {.member_paths = {"/b"}})), "vsnap mount -o degraded lab DIR"));
}

TEST_CASE("a member that was wiped, cut short or belongs to another pool is a missing one") {
  Lab lab(3, Lab::Made::whole);
  preserve(lab);
  const std::string uuid = to_string(lab.pool->status().uuid);
  lab.close();
  REQUIRE(Pool::create(lab.env, {.name = "other", .members = {{"/other", 24 * kMiB}}}).has_value());
  const SparseBytes was = lab.env.bytes_of("/a");
  const auto right_without_a = [&] {
    auto opened = Pool::open(lab.env, {.member_paths = lab.paths, .expected_uuid = uuid, .degraded = true});
    INFO((opened ? "" : opened.error().message));
    REQUIRE(opened.has_value());
    CHECK((*opened)->is_read_only());
    CHECK(check_view(**opened, "v@f", 1, 1).right == kBlocks);
  };
  SECTION("wiped") {
    std::memset(lab.env.bytes_of("/a").data(), 0, kMiB);
    right_without_a();
  }
  SECTION("another's") {
    lab.env.bytes_of("/a") = lab.env.bytes_of("/other");
    right_without_a();
  }
  SECTION("cut short") {
    lab.env.bytes_of("/a").resize(20 * kMiB);
    right_without_a();
    lab.env.bytes_of("/a").resize(24 * kMiB);
  }
  lab.env.bytes_of("/a") = was;
  lab.open();
  CHECK(lab.findings().empty());
}

TEST_CASE("a member that somebody has is not a missing one") {
  Lab lab(2, Lab::Made::whole);
  lab.close();
  const auto file = lab.env.open_file("/a", {});
  REQUIRE((*file)->try_lock());
  const auto refused =
      refusal(Pool::open(lab.env, {.member_paths = lab.paths, .lock_wait_ms = 0, .degraded = true}));
  CHECK(refused.kind == ErrorKind::busy);
}

TEST_CASE("the flag that a pool was closed in order is gone before its log is written") {
  Lab lab(2, Lab::Made::whole);
  preserve(lab);
  const auto flags_of = [&](const std::string& path) {
    const auto file = lab.env.open_file(path, {.read_only = true});
    return newest_superblock(**file, path, nullptr)->flags;
  };
  lab.close();
  CHECK(flags_of("/a") == format::kFlagClosed);
  CHECK(flags_of("/b") == format::kFlagClosed);
  lab.open();
  CHECK(flags_of("/a") == 0);
  CHECK(flags_of("/b") == 0);
  lab.env.kill();
  lab.pool.reset();
  // The log is on one of them, and the other alone does not tell what is in it.
  const bool opens_without[2] = {lab.open_without(0).has_value(), lab.open_without(1).has_value()};
  CHECK(opens_without[0] != opens_without[1]);
  // Nor does an older copy of the superblock, from when it was closed.
  lab.open();
  lab.close();
  for (std::uint32_t lost = 0; lost < 2; ++lost) {
    const std::string other = lab.paths[1 - lost];
    const SparseBytes was = lab.env.bytes_of(other);
    const auto offset = format::kSuperblockOffsets[0];
    lab.env.bytes_of(other)[offset + 100] ^= std::byte{1};
    if (!opens_without[lost]) CHECK_FALSE(lab.open_without(lost).has_value());
    lab.env.bytes_of(other) = was;
    CHECK(lab.open_without(lost).has_value());
  }
}

namespace {

// What was asked for and what was answered, as far as a workload came.
struct Done {
  std::uint64_t written = 0, confirmed = 0; // contents of v
  std::map<std::string, std::uint64_t> snapshots; // asked for, and what they show
  std::set<std::string> taken;
  std::set<std::string> removing;
};

// Snapshots, overwrites, a removal whose places are used again, a close and a new open.
void work(Lab& lab, Done& done) {
  const auto alive = [&] { return !lab.env.killed() && lab.pool != nullptr; };
  const auto write = [&](bool sync) {
    auto v = lab.pool->open_view(lab.pool->find({"v", {}})->id);
    if (!v) return;
    ++done.written;
    for (std::uint64_t block = 0; block < kBlocks; ++block) {
      if (!(*v)->write(block * kStride, content_of(block, done.written))) return;
    }
    if (sync && (*v)->fsync() && alive()) done.confirmed = done.written;
  };
  const auto snapshot = [&](const std::string& name) {
    const ViewName full{"v", name};
    done.snapshots.emplace(name, done.written);
    if (!lab.pool->snapshot(std::span(&full, 1)) || !alive()) return;
    done.taken.insert(name);
    done.confirmed = done.written;
  };
  const auto reopen = [&] {
    static_cast<void>(lab.pool->close());
    lab.pool.reset();
    if (lab.env.killed()) return;
    auto opened = Pool::open(lab.env, {.member_paths = lab.paths, .keep_tail = true});
    if (opened) lab.pool = std::move(*opened);
  };
  for (int round = 0; round < 3 && alive(); ++round) {
    write(true);
    if (alive()) snapshot("s" + std::to_string(round));
    if (alive()) write(round == 1);
    if (alive()) write(true);
    if (!alive()) return;
    if (round == 1) {
      const ViewName old{"v", "s0"};
      done.removing.insert("s0");
      static_cast<void>(lab.pool->remove(std::span(&old, 1), {}));
      if (alive()) static_cast<void>(lab.pool->wait_for_removals({}));
      if (alive()) write(true);
      if (alive()) reopen();
    }
  }
}

void check_all(Pool& pool, const Done& done, bool whole) {
  const bool all = whole || !leaves_out(pool);
  const std::uint64_t oldest = all ? done.confirmed : 0;
  const Read v = check_view(pool, "v", oldest, done.written);
  if (whole) REQUIRE(v.failed == 0);
  for (const auto& [name, content] : done.snapshots) {
    CAPTURE(name);
    const bool there = pool.find({"v", name}).has_value();
    if (done.taken.contains(name) && !done.removing.contains(name)) REQUIRE(there);
    if (!there) continue;
    const Read s = check_view(pool, "v@" + name, content, content);
    if (whole) REQUIRE(s.failed == 0);
  }
}

struct Outcome {
  std::uint64_t opened = 0, refused = 0;
};

void lose_each(Lab& lab, const Done& done, std::array<Outcome, 2>& outcomes) {
  for (std::uint32_t lost = 0; lost < 2; ++lost) {
    CAPTURE(lost);
    const auto before = lab.bytes();
    {
      auto opened = lab.open_without(lost);
      if (!opened) {
        INFO(opened.error().message);
        REQUIRE(opened.error().kind == ErrorKind::damaged);
        ++outcomes.at(lost).refused;
      } else {
        ++outcomes.at(lost).opened;
        check_all(**opened, done, false);
      }
    }
    REQUIRE((lab.bytes() == before));
  }
}

std::array<Outcome, 2> crash_everywhere(Lab::Made how, bool power_cut, std::uint64_t step,
                                        std::uint64_t seed) {
  std::array<Outcome, 2> outcomes{};
  for (std::uint64_t nth = 1 + seed % step;; nth += step) {
    CAPTURE(nth, power_cut, how == Lab::Made::grown, seed);
    Lab lab(2, how, seed);
    REQUIRE(lab.pool->create_volume("v", kSize).has_value());
    lab.close();
    lab.open({.keep_tail = true});
    Done done;
    lab.env.kill_at(nth);
    work(lab, done);
    const bool over = !lab.env.killed();
    if (power_cut)
      lab.env.power_cut(seed + nth);
    else if (!over)
      lab.env.kill();
    lab.pool.reset();
    lab.env.kill_at(std::nullopt);
    lose_each(lab, done, outcomes);
    lab.open({.keep_tail = true});
    check_all(*lab.pool, done, true);
    lab.close(); // a checkpoint that was cut short is made again
    lab.open({.for_check = true});
    REQUIRE(lab.findings() == std::vector<std::string>());
    lab.close();
    if (over) return outcomes;
  }
}

} // namespace

TEST_CASE("a snapshot of an adopted image whose saves are on the missing member does not show the image") {
  std::array<bool, 2> withheld{};
  for (std::uint32_t lost = 0; lost < 2; ++lost) {
    CAPTURE(lost);
    Lab lab(2, Lab::Made::whole);
    {
      auto image = lab.env.open_file("/img", {.create = true});
      REQUIRE((*image)->resize(kSize).has_value());
    }
    REQUIRE(lab.pool->adopt({.path = "/img", .volume = "v"}).has_value());
    lab.write_all(1);
    lab.snapshot("v@s");
    lab.write(0, 2); // from here on the image is being changed
    REQUIRE(lab.pool->sync().has_value());
    lab.close();
    lab.open();
    for (std::uint64_t block = 1; block < kBlocks; ++block) lab.write(block, 2);
    lab.env.kill();
    lab.pool.reset();
    const auto opened = lab.open_without(lost);
    if (!opened) continue;
    const auto image_view = (*opened)->open_view((*opened)->find({"v", "s"})->id);
    withheld.at(lost) = !image_view.has_value();
    if (image_view) check_view(**opened, "v@s", 1, 1);
  }
  CHECK((withheld[0] || withheld[1])); // the journal is on one of them
}

TEST_CASE("without a member a pool after a crash at any call shows the truth or is refused") {
  const std::uint64_t seed = test_seed();
  const char* const wanted = std::getenv("VSNAP_DEGRADED_STEP"); // calls from one crash to the next
  const std::uint64_t step = wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : 41;
  for (const auto how : {Lab::Made::whole, Lab::Made::grown}) {
    for (const bool power_cut : {false, true}) {
      const auto outcomes = crash_everywhere(how, power_cut, step, seed);
      std::printf("without 0: %llu opened, %llu refused; without 1: %llu, %llu\n", // to see what is reached
                  static_cast<unsigned long long>(outcomes[0].opened),
                  static_cast<unsigned long long>(outcomes[0].refused),
                  static_cast<unsigned long long>(outcomes[1].opened),
                  static_cast<unsigned long long>(outcomes[1].refused));
      // A grown pool has its catalog and journal on the first member.
      REQUIRE((how == Lab::Made::grown ? outcomes[1].refused : 0) == 0);
      REQUIRE(outcomes[0].opened + outcomes[1].opened > 0);
    }
  }
}
