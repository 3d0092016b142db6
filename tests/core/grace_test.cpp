// Grace periods: who is waited for, and who is not. Nothing here is timed; a wait that never ends fails the
// whole program, by its time limit.
#include "core/grace.h"

#include <optional>
#include <thread>
#include <vector>

#include "tests/support/catch.h"

using namespace vsnap;

namespace {

// Gives a thread that wrongly does not wait every chance to show it.
void yield_often() {
  for (int i = 0; i < 2000; ++i) std::this_thread::yield();
}

} // namespace

TEST_CASE("with nobody inside there is nothing to wait for") {
  Grace grace;
  grace.synchronize();
  { const Grace::Section section(grace); }
  grace.synchronize();
  SUCCEED();
}

TEST_CASE("a section entered before is waited for") {
  Grace grace;
  for (int round = 0; round < 3; ++round) { // both epochs
    std::atomic<bool> started{false};
    std::atomic<bool> left{false};
    bool had_left = false;
    std::optional<Grace::Section> section(grace);
    std::thread waiter([&] {
      started = true;
      grace.synchronize();
      had_left = left;
    });
    while (!started) std::this_thread::yield();
    yield_often();
    left = true;
    section.reset();
    waiter.join();
    CHECK(had_left);
    grace.synchronize();
  }
}

TEST_CASE("every one of several sections is waited for") {
  Grace grace;
  std::atomic<int> inside{0};
  std::atomic<bool> go{false};
  std::vector<std::thread> readers;
  for (int i = 0; i < 8; ++i) {
    readers.emplace_back([&] {
      const Grace::Section section(grace);
      ++inside;
      while (!go) std::this_thread::yield();
      yield_often();
      --inside;
    });
  }
  while (inside < 8) std::this_thread::yield();
  go = true;
  grace.synchronize();
  CHECK(inside == 0);
  for (std::thread& reader : readers) reader.join();
}

TEST_CASE("sections that follow one another without a gap do not hold it up for ever") {
  Grace grace;
  std::atomic<bool> running{false};
  std::atomic<bool> stop{false};
  std::thread reader([&] {
    Grace::Token token = grace.enter();
    running = true;
    while (!stop) { // there is always one inside
      const Grace::Token following = grace.enter();
      grace.leave(token);
      token = following;
    }
    grace.leave(token);
  });
  while (!running) std::this_thread::yield();
  for (int i = 0; i < 20; ++i) grace.synchronize();
  stop = true;
  reader.join();
  SUCCEED();
}

TEST_CASE("what was taken out of use is not seen after a grace period") {
  Grace grace;
  int values[2] = {0, 0};
  std::atomic<int*> current{&values[0]};
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  const auto read = [&] {
    while (!stop) {
      const Grace::Section section(grace);
      const int* const value = current.load();
      for (int i = 0; i < 10; ++i) wrong += std::atomic_ref(*const_cast<int*>(value)).load() != 0 ? 1 : 0;
    }
  };
  std::thread first(read);
  std::thread second(read);
  for (int i = 0; i < 300; ++i) {
    int* const old = current.exchange(&values[(i + 1) % 2]);
    grace.synchronize();
    std::atomic_ref(*old).store(1); // nobody may look at it now
    std::atomic_ref(*old).store(0);
  }
  stop = true;
  first.join();
  second.join();
  CHECK(wrong == 0);
}
