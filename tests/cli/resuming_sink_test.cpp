// A command that asks several daemons, one after the other, hears everything once.
#include "cli/resuming_sink.h"

#include "tests/support/catch.h"

using namespace vsnap;
using namespace vsnap::cli;

namespace {

class Recorder final : public ControlSink {
 public:
  bool progress(std::uint64_t, std::uint64_t) override { return go_on; }
  bool diff(std::span<const DiffRange> some) override {
    for (const DiffRange& range : some) ranges.emplace_back(range.offset, range.length);
    return go_on;
  }
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;
  bool go_on = true;
};

} // namespace

TEST_CASE("ranges that were heard before are not told again, wherever they are cut") {
  Recorder recorder;
  ResumingSink sink(recorder);
  CHECK(sink.diff(std::vector<DiffRange>{{0, 10, DiffState::data}, {20, 10, DiffState::hole}}));
  CHECK(sink.diff(std::vector<DiffRange>{{0, 10, DiffState::data}}));
  CHECK(sink.diff(std::vector<DiffRange>{{20, 15, DiffState::hole}, {40, 1, DiffState::data}}));
  CHECK(recorder.ranges ==
        std::vector<std::pair<std::uint64_t, std::uint64_t>>{{0, 10}, {20, 10}, {30, 5}, {40, 1}});
}

TEST_CASE("who gave up has given up for good") {
  Recorder recorder;
  ResumingSink sink(recorder);
  CHECK(sink.progress(1, 2));
  CHECK_FALSE(sink.gave_up());
  recorder.go_on = false;
  CHECK_FALSE(sink.progress(1, 2));
  recorder.go_on = true;
  CHECK_FALSE(sink.progress(1, 2));
  CHECK(sink.gave_up());
}
