// The gate of a branch. Nothing here is timed; a wait that never ends fails the whole program, by its limit.
#include "core/io_gate.h"

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

TEST_CASE("an open gate lets several in at once") {
  IoGate gate;
  const IoGate::Passage one(gate);
  const IoGate::Passage two(gate);
  SUCCEED();
}

TEST_CASE("a gate with nobody inside is drained at once, again and again") {
  IoGate gate;
  for (int i = 0; i < 3; ++i) {
    gate.close();
    gate.drain();
    gate.open();
  }
  const IoGate::Passage still_open(gate);
  SUCCEED();
}

TEST_CASE("draining waits for the one inside") {
  IoGate gate;
  std::atomic<bool> closed{false};
  std::atomic<bool> left{false};
  bool had_left = false;
  std::optional<IoGate::Passage> passage(gate);
  std::thread closer([&] {
    gate.close();
    closed = true;
    gate.drain();
    had_left = left;
    gate.open();
  });
  while (!closed) std::this_thread::yield();
  yield_often();
  left = true;
  passage.reset();
  closer.join();
  CHECK(had_left);
}

TEST_CASE("a closed gate lets nobody in until it is opened") {
  IoGate gate;
  gate.close();
  gate.drain();
  std::atomic<bool> started{false};
  std::atomic<bool> opened{false};
  bool was_open = false;
  std::thread writer([&] {
    started = true;
    const IoGate::Passage passage(gate);
    was_open = opened;
  });
  while (!started) std::this_thread::yield();
  yield_often();
  opened = true;
  gate.open();
  writer.join();
  CHECK(was_open);
}

TEST_CASE("a gate can be drained while others wait to get in") {
  IoGate gate;
  gate.close();
  std::vector<std::thread> writers;
  for (int i = 0; i < 4; ++i) writers.emplace_back([&] { const IoGate::Passage passage(gate); });
  for (int i = 0; i < 100; ++i) {
    gate.drain();
    std::this_thread::yield();
  }
  gate.open();
  for (std::thread& writer : writers) writer.join();
  SUCCEED();
}

TEST_CASE("nobody is inside a drained gate, however many come and go") {
  IoGate gate;
  std::atomic<bool> stop{false};
  std::atomic<int> inside{0};
  std::vector<std::thread> writers;
  for (int i = 0; i < 3; ++i) {
    writers.emplace_back([&] {
      while (!stop) {
        const IoGate::Passage passage(gate);
        ++inside;
        --inside;
      }
    });
  }
  int seen = 0;
  for (int i = 0; i < 1000; ++i) {
    gate.close();
    gate.drain();
    for (int look = 0; look < 5; ++look) seen += inside;
    gate.open();
  }
  stop = true;
  for (std::thread& writer : writers) writer.join();
  CHECK(seen == 0);
}
