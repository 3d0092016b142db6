// Many threads at once: writers that overlap, snapshots under load, removal under load.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <initializer_list>
#include <thread>

#include "tests/core/small_pool.h"

using namespace vsnap;

namespace {

class Threads {
 public:
  explicit Threads(std::atomic<bool>* stop = nullptr) : stop_(stop) {}
  template <class Body>
  void start(Body body) {
    threads_.emplace_back(std::move(body));
  }
  void join() {
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }
  // Also when a requirement fails in between: the threads must end before what they use does.
  ~Threads() {
    if (stop_ != nullptr) *stop_ = true;
    join();
  }

 private:
  std::atomic<bool>* stop_;
  std::vector<std::thread> threads_;
};

void put(std::vector<std::byte>& block, std::uint64_t value) {
  std::memcpy(block.data(), &value, sizeof value);
}
std::uint64_t number_in(View& view, std::uint64_t offset) {
  std::uint64_t value = 0;
  const auto block = read_from(view, offset);
  std::memcpy(&value, block.data(), sizeof value);
  return value;
}

} // namespace

TEST_CASE("of overlapping writes each block has the content of one") {
  SmallPool lab;
  lab.create("v", 8 * kMiB);
  ViewHandle v = lab.view("v");
  std::atomic<bool> failed{false};
  {
    Threads threads;
    for (unsigned t = 1; t <= 4; ++t) {
      threads.start([&, t] {
        for (unsigned i = 0; i < 300; ++i) {
          const std::uint64_t first = (i * 7 + t) % 32;
          if (!v->write(first * kBlockBytes,
                        block_of(static_cast<std::uint8_t>(t * 50 + i % 50), 12 * kBlockBytes)))
            failed = true;
        }
      });
    }
    threads.start([&] {
      for (unsigned i = 0; i < 20; ++i) {
        if (!lab.snapshot("v@s" + std::to_string(i))) failed = true;
      }
    });
  }
  REQUIRE_FALSE(failed);
  for (const char* name : {"v", "v@s0", "v@s10", "v@s19"}) {
    ViewHandle view = lab.view(name);
    for (std::uint64_t block = 0; block < 48; ++block) {
      const auto found = read_from(*view, block * kBlockBytes);
      INFO(name << " block " << block);
      REQUIRE(found == std::vector<std::byte>(kBlockBytes, found[0]));
    }
  }
  REQUIRE(lab.findings().empty());
}

TEST_CASE("writes of neighbouring sectors of one block do not lose each other") {
  SmallPool lab;
  lab.create("v", kMiB);
  ViewHandle v = lab.view("v");
  std::atomic<bool> failed{false};
  {
    Threads threads;
    for (unsigned t = 0; t < 4; ++t) {
      threads.start([&, t] {
        for (unsigned i = 1; i <= 200; ++i) {
          if (!v->write(t * 512, block_of(static_cast<std::uint8_t>(i), 512))) failed = true;
          const auto found = [&] {
            std::vector<std::byte> out(512);
            if (!v->read(t * 512, out)) failed = true;
            return out;
          }();
          if (found != block_of(static_cast<std::uint8_t>(i), 512)) failed = true;
        }
      });
    }
    threads.start([&] {
      for (unsigned i = 0; i < 40; ++i) {
        if (!lab.snapshot("v@s" + std::to_string(i))) failed = true;
      }
    });
  }
  REQUIRE_FALSE(failed);
  REQUIRE(lab.findings().empty());
}

TEST_CASE("a snapshot of two volumes is one moment: no later write without the earlier one") {
  SmallPool lab;
  lab.create("a", kMiB);
  lab.create("b", kMiB);
  ViewHandle a = lab.view("a");
  ViewHandle b = lab.view("b");
  std::atomic<bool> stop{false};
  std::atomic<bool> failed{false};
  {
    Threads threads(&stop);
    threads.start([&] {
      auto block = block_of(0);
      for (std::uint64_t i = 1; !stop; ++i) {
        put(block, i);
        if (!a->write(0, block) || !b->write(0, block)) failed = true;
      }
    });
    for (unsigned i = 0; i < 100; ++i) {
      const std::string name = "s" + std::to_string(i);
      const ViewName both[] = {{"a", name}, {"b", name}};
      REQUIRE(lab.pool->snapshot(both).has_value());
    }
  }
  REQUIRE_FALSE(failed);
  for (unsigned i = 0; i < 100; ++i) {
    const std::uint64_t in_a = number_in(*lab.view("a@s" + std::to_string(i)), 0);
    const std::uint64_t in_b = number_in(*lab.view("b@s" + std::to_string(i)), 0);
    INFO("snapshot " << i << ": " << in_a << " and " << in_b);
    REQUIRE((in_a == in_b || in_a == in_b + 1));
  }
}

TEST_CASE("snapshots stay what they are while others are removed under load") {
  SmallPool lab(64 * kMiB);
  lab.pool.reset();
  OpenPoolOptions options;
  options.background = true;
  lab.open(options);
  lab.create("v", 40 * kMiB);
  ViewHandle v = lab.view("v");
  for (std::uint64_t block = 0; block < 512; ++block)
    REQUIRE(v->write(block * 20 * kBlockBytes, block_of(1)).has_value());
  REQUIRE(lab.snapshot("v@keep").has_value());
  std::atomic<bool> stop{false};
  std::atomic<bool> failed{false};
  {
    Threads threads(&stop);
    for (unsigned t = 0; t < 2; ++t) {
      threads.start([&, t] {
        for (std::uint64_t i = t; !stop; i += 2) {
          if (!v->write(i * 37 % 512 * 20 * kBlockBytes, block_of(static_cast<std::uint8_t>(2 + t))))
            failed = true;
          if (i % 50 == 0 && !v->discard(i * 41 % 512 * 20 * kBlockBytes, kBlockBytes)) failed = true;
          if (i % 100 == 0 && !v->fsync()) failed = true;
        }
      });
    }
    threads.start([&] {
      ViewHandle keep = lab.view("v@keep");
      for (std::uint64_t i = 0; !stop; ++i) {
        std::vector<std::byte> out(kBlockBytes);
        if (!keep->read(i * 53 % 512 * 20 * kBlockBytes, out) || out != block_of(1)) failed = true;
      }
    });
    for (unsigned i = 0; i < 60; ++i) {
      const auto taken = lab.snapshot("v@t" + std::to_string(i));
      INFO((taken ? "" : taken.error().message));
      REQUIRE(taken.has_value());
      if (i >= 3) REQUIRE(lab.remove("v@t" + std::to_string(i - 3)).has_value());
    }
  }
  REQUIRE_FALSE(failed);
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  REQUIRE(lab.findings().empty());
}

TEST_CASE("many threads that sync at once share frames, and all get their answer") {
  SmallPool lab;
  lab.create("v", 8 * kMiB);
  lab.env.slow_durable_writes(true);
  std::atomic<bool> failed{false};
  Threads threads;
  for (std::uint64_t t = 0; t < 8; ++t) {
    threads.start([&, t] {
      ViewHandle v = lab.view("v");
      for (std::uint64_t i = 0; i < 100; ++i) {
        if (!v->write((i * 8 + t) * kBlockBytes, block_of(static_cast<std::uint8_t>(t + 1))) || !v->fsync())
          failed = true;
      }
    });
  }
  threads.join();
  REQUIRE_FALSE(failed);
  CHECK(lab.findings().empty());
}

TEST_CASE("a long commit gives way to snapshots, and comes to its end all the same") {
  SmallPool lab(1024 * kMiB);
  lab.pool.reset();
  OpenPoolOptions options;
  options.background = true;
  lab.open(options);
  constexpr std::uint64_t kBlocks =
      3000; // pieces of one block each; too few to be committed before their time
  lab.create("v", 2 * kBlocks * kBlockBytes);
  ViewHandle v = lab.view("v");
  unsigned taken = 0;
  for (std::uint8_t round = 1; round <= 3; ++round) {
    for (std::uint64_t block = 0; block < kBlocks; ++block)
      REQUIRE(v->write(2 * block * kBlockBytes, block_of(round)).has_value());
    // The commit of the background comes within a second, and finds all of them.
    const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(1200);
    while (std::chrono::steady_clock::now() < until) {
      REQUIRE(lab.snapshot("v@s" + std::to_string(taken)).has_value());
      ++taken;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    for (unsigned last = taken - 3; last < taken; ++last) {
      ViewHandle s = lab.view("v@s" + std::to_string(last));
      for (std::uint64_t block = 0; block < kBlocks; block += 97)
        REQUIRE(read_from(*s, 2 * block * kBlockBytes) == block_of(round));
    }
  }
  REQUIRE(lab.findings().empty());
}

TEST_CASE("a clone can be flattened while it and its origin are written") {
  SmallPool lab(64 * kMiB);
  lab.create("v", 8 * kMiB);
  ViewHandle v = lab.view("v");
  REQUIRE(v->write(0, block_of(1, 8 * kMiB)).has_value());
  REQUIRE(lab.snapshot("v@s").has_value());
  REQUIRE(lab.pool->clone({"v", "s"}, "c").has_value());
  ViewHandle c = lab.view("c");
  std::atomic<bool> stop{false};
  std::atomic<bool> failed{false};
  {
    Threads threads(&stop);
    threads.start([&] {
      for (std::uint64_t i = 0; !stop; ++i) {
        if (!c->write(i * 13 % 1024 * kBlockBytes, block_of(3))) failed = true;
        if (!v->write(i * 17 % 2048 * kBlockBytes, block_of(4))) failed = true;
        std::vector<std::byte> out(kBlockBytes);
        if (!c->read((1024 + i * 19 % 1024) * kBlockBytes, out) || out != block_of(1)) failed = true;
      }
    });
    REQUIRE(lab.pool->flatten("c", {}).has_value());
  }
  REQUIRE_FALSE(failed);
  REQUIRE_FALSE(lab.pool->find({"c", {}})->origin.has_value());
  v = ViewHandle();
  REQUIRE(lab.remove("v", {.recursive = true}).has_value());
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  for (std::uint64_t block = 1024; block < 2048; ++block)
    REQUIRE(read_from(*c, block * kBlockBytes) == block_of(1));
  REQUIRE(lab.findings().empty());
}

TEST_CASE("clones hold what their snapshot held while versions around them are freed") {
  SmallPool lab(64 * kMiB);
  lab.pool.reset();
  OpenPoolOptions options;
  options.background = true;
  lab.open(options);
  lab.create("v", 4 * kMiB);
  constexpr unsigned kRounds = 40;
  std::atomic<unsigned> cloned{0};
  std::atomic<bool> failed{false};
  const auto name = [](const char* stem, unsigned i) { return stem + std::to_string(i); };
  {
    Threads threads;
    threads.start([&] { // round i writes i + 1 everywhere: what c<i> starts from
      ViewHandle v = lab.view("v");
      for (unsigned i = 0; i < kRounds; ++i) {
        for (std::uint64_t at = 0; at < 64; ++at) {
          if (!v->write(at * 8 * kBlockBytes, block_of(static_cast<std::uint8_t>(i + 1)))) failed = true;
        }
        if (!lab.snapshot("v@" + name("s", i)) || !lab.pool->clone({"v", name("s", i)}, name("c", i)))
          failed = true;
        cloned = i + 1;
        cloned.notify_all();
      }
    });
    threads.start([&] { // one round behind; of the clones every fourth stays
      for (unsigned i = 0; i < kRounds; ++i) {
        cloned.wait(i);
        if (!lab.remove("v@" + name("s", i))) failed = true;
        if (i % 4 != 0 && !lab.remove(name("c", i))) failed = true;
      }
    });
    threads.start([&] {
      for (unsigned i = 0; i < 20; ++i) {
        if (!lab.pool->wait_for_removals({}) || !lab.pool->disk_usage()) failed = true;
        for (const ViewInfo& info : lab.pool->list()) {
          if (info.name.text().empty()) failed = true;
        }
      }
    });
  }
  REQUIRE_FALSE(failed);
  REQUIRE(lab.pool->wait_for_removals({}).has_value());
  for (unsigned i = 0; i < kRounds; i += 4) {
    ViewHandle clone = lab.view(name("c", i));
    for (std::uint64_t at = 0; at < 64; ++at)
      REQUIRE(read_from(*clone, at * 8 * kBlockBytes) == block_of(static_cast<std::uint8_t>(i + 1)));
  }
  REQUIRE(lab.findings().empty());
}

TEST_CASE("a flatten and removals around it: each is done or refused, and nothing is lost") {
  SmallPool lab(64 * kMiB);
  lab.pool.reset();
  OpenPoolOptions options;
  options.background = true;
  lab.open(options);
  std::atomic<bool> failed{false};
  const auto done_or = [&](const auto& result, std::initializer_list<ErrorKind> allowed) {
    if (!result && std::find(allowed.begin(), allowed.end(), result.error().kind) == allowed.end())
      failed = true;
  };
  for (unsigned round = 0; round < 15; ++round) {
    lab.create("v", 4 * kMiB);
    REQUIRE(lab.view("v")->write(0, block_of(1, kMiB)).has_value());
    REQUIRE(lab.snapshot("v@s").has_value());
    REQUIRE(lab.pool->clone({"v", "s"}, "c").has_value());
    REQUIRE(lab.snapshot("c@s").has_value());
    REQUIRE(lab.pool->clone({"c", "s"}, "d").has_value());
    {
      Threads threads;
      threads.start([&] { done_or(lab.pool->flatten("c", {}), {ErrorKind::busy, ErrorKind::not_found}); });
      threads.start([&] { done_or(lab.pool->flatten("d", {}), {ErrorKind::busy, ErrorKind::not_found}); });
      threads.start([&] { done_or(lab.remove("v", {.recursive = true}), {}); });
      threads.start([&] {
        if (round % 2 == 0)
          done_or(lab.remove("c", {.recursive = true, .even_if_open = true}), {ErrorKind::busy});
        else
          done_or(lab.pool->rollback({"c", "s"}, true, false), {ErrorKind::busy});
        done_or(lab.pool->diff({"c", "s"}, {"d", {}}, [](const DiffRange&) { return true; }),
                {ErrorKind::failed, ErrorKind::not_found, ErrorKind::busy});
      });
    }
    REQUIRE_FALSE(failed);
    REQUIRE(lab.pool->wait_for_removals({}).has_value());
    REQUIRE(read_from(*lab.view("d"), 0, kMiB) == block_of(1, kMiB));
    REQUIRE(lab.findings().empty());
    for (const char* name : {"c", "d"}) {
      if (lab.pool->find({name, {}})) REQUIRE(lab.remove(name, {.recursive = true}).has_value());
    }
    REQUIRE(lab.pool->wait_for_removals({}).has_value());
    REQUIRE(lab.pool->space().data_bytes == 0);
  }
}

TEST_CASE("a file that is removed while it is being closed goes, whoever is last") {
  SmallPool lab;
  std::atomic<bool> failed{false};
  for (unsigned round = 0; round < 200; ++round) {
    lab.create("t", kMiB);
    ViewHandle t = lab.view("t");
    REQUIRE(t->write(0, block_of(1)).has_value());
    {
      Threads threads;
      threads.start([&] { t = ViewHandle(); });
      threads.start([&] {
        if (!lab.remove("t", {.even_if_open = true})) failed = true;
      });
    }
    REQUIRE_FALSE(failed);
    REQUIRE(lab.pool->list().empty());
    REQUIRE(lab.pool->wait_for_removals({}).has_value());
    REQUIRE(lab.pool->space().data_bytes == 0);
  }
  REQUIRE(lab.findings().empty());
}
