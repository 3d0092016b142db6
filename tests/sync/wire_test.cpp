// Every value of core survives the way over the wire, and every message its encoding.
#include <random>

#include "sync/wire.h"
#include "tests/support/catch.h"
#include "tests/support/seed.h"

namespace vsnap {
namespace {

// Over the wire: to the message, to bytes, and back.
template <class Value>
auto transported(const Value& value) {
  const auto message = wire::to_wire(value);
  std::remove_const_t<decltype(message)> received;
  REQUIRE(received.ParseFromString(message.SerializeAsString()));
  return wire::from_wire(received);
}

ViewInfo some_view() {
  ViewInfo view;
  view.id = ObjectId(77);
  view.kind = ViewKind::snapshot;
  view.name = {"vm1", "monday"};
  view.size_bytes = (1ULL << 63) - 1;
  view.used_bytes = 4096;
  view.created_ns = -1;
  view.modified_ns = 1'700'000'000'000'000'000;
  view.mode = 0444;
  view.uid = 1000;
  view.gid = 0xffffffff;
  view.open_handles = 3;
  view.origin = "base@golden";
  view.form = ViewForm::full;
  view.state = "copying 43 %";
  view.level = SnapshotLevel::app;
  view.snapshot_space = SnapshotSpace{1ULL << 40, 4096, OnFull::drop_oldest};
  view.holds = {{"audit", -5}, {"backup", 1'700'000'000'000'000'000}};
  return view;
}

void require_same(const ViewInfo& a, const ViewInfo& b) {
  CHECK(a.id == b.id);
  CHECK(a.kind == b.kind);
  CHECK(a.name == b.name);
  CHECK(a.size_bytes == b.size_bytes);
  CHECK(a.used_bytes == b.used_bytes);
  CHECK(a.created_ns == b.created_ns);
  CHECK(a.modified_ns == b.modified_ns);
  CHECK(a.mode == b.mode);
  CHECK(a.uid == b.uid);
  CHECK(a.gid == b.gid);
  CHECK(a.open_handles == b.open_handles);
  CHECK(a.origin == b.origin);
  CHECK(a.form == b.form);
  CHECK(a.state == b.state);
  CHECK(a.level == b.level);
  REQUIRE(a.snapshot_space.has_value() == b.snapshot_space.has_value());
  if (a.snapshot_space) {
    CHECK(a.snapshot_space->limit_bytes == b.snapshot_space->limit_bytes);
    CHECK(a.snapshot_space->used_bytes == b.snapshot_space->used_bytes);
    CHECK(a.snapshot_space->on_full == b.snapshot_space->on_full);
  }
  REQUIRE(a.holds.size() == b.holds.size());
  for (std::size_t i = 0; i < a.holds.size(); ++i) {
    CHECK(a.holds[i].tag == b.holds[i].tag);
    CHECK(a.holds[i].created_ns == b.holds[i].created_ns);
  }
}

SpaceInfo some_space() { return {1ULL << 40, 1, 2, 3, 4, 5, 6}; }

void require_same(const SpaceInfo& a, const SpaceInfo& b) {
  CHECK(a.size_bytes == b.size_bytes);
  CHECK(a.data_bytes == b.data_bytes);
  CHECK(a.freeing_bytes == b.freeing_bytes);
  CHECK(a.metadata_bytes == b.metadata_bytes);
  CHECK(a.metadata_used_bytes == b.metadata_used_bytes);
  CHECK(a.free_bytes == b.free_bytes);
  CHECK(a.available_bytes == b.available_bytes);
}

TEST_CASE("a view survives the wire") {
  ViewInfo view = some_view();
  require_same(transported(view), view);
  view.origin.reset();
  require_same(transported(view), view);
  view.origin = "";
  require_same(transported(view), view);
  view.snapshot_space->used_bytes.reset(); // not 0
  require_same(transported(view), view);
}

TEST_CASE("the status of a pool survives the wire, with paths that are not UTF-8") {
  PoolStatus status;
  status.name = "lab";
  for (std::size_t i = 0; i < status.uuid.size(); ++i) status.uuid[i] = static_cast<std::uint8_t>(i * 17);
  status.generation = 9;
  status.health = "ok";
  status.space = some_space();
  status.members.push_back({1, "/\xff\xfe/disk", status.uuid, 100, 50, true});
  status.volumes = 2;
  status.snapshots = 3;
  status.extents = 4;
  status.removal_pending = true;
  status.mark = {~0ULL, 5};
  const PoolStatus got = transported(status);
  CHECK(got.name == status.name);
  CHECK(got.uuid == status.uuid);
  CHECK(got.generation == 9);
  CHECK(got.health == "ok");
  require_same(got.space, status.space);
  REQUIRE(got.members.size() == 1);
  CHECK(got.members[0].index == 1);
  CHECK(got.members[0].path == "/\xff\xfe/disk");
  CHECK(got.members[0].uuid == status.uuid);
  CHECK(got.members[0].size_bytes == 100);
  CHECK(got.members[0].free_bytes == 50);
  CHECK(got.members[0].is_block_device);
  CHECK(got.volumes == 2);
  CHECK(got.snapshots == 3);
  CHECK(got.extents == 4);
  CHECK(got.removal_pending);
  CHECK(got.mark == status.mark);
}

TEST_CASE("disk usage survives the wire") {
  const DiskUsage got = transported(DiskUsage{some_space(), {{some_view(), 12}}});
  require_same(got.space, some_space());
  REQUIRE(got.rows.size() == 1);
  require_same(got.rows[0].view, some_view());
  CHECK(got.rows[0].frees_bytes == 12);
}

TEST_CASE("results of removal, rollback, check and diff survive the wire") {
  const RemovalPlan plan = transported(RemovalPlan{{{"a", "1"}, {"a", ""}}, 5});
  CHECK(plan.removed == std::vector<ViewName>{{"a", "1"}, {"a", ""}});
  CHECK(plan.frees_bytes == 5);

  const RollbackResult kept = transported(RollbackResult{{"a", "1"}, ViewName{"a", "before-rollback-1"}});
  CHECK(kept.to == ViewName{"a", "1"});
  CHECK(kept.kept == ViewName{"a", "before-rollback-1"});
  CHECK_FALSE(transported(RollbackResult{{"a", "1"}, std::nullopt}).kept);

  const CheckReport report = transported(CheckReport{6, {{"lost block", true, false}, {"x", false, true}}});
  CHECK(report.extents_checked == 6);
  REQUIRE(report.findings.size() == 2);
  CHECK(report.findings[0].what == "lost block");
  CHECK(report.findings[0].repairable);
  CHECK_FALSE(report.findings[0].repaired);
  CHECK(report.findings[1].repaired);

  const DiffRange hole = transported(DiffRange{1ULL << 62, 4096, DiffState::hole});
  CHECK(hole.offset == 1ULL << 62);
  CHECK(hole.length == 4096);
  CHECK(hole.state == DiffState::hole);
  CHECK(transported(DiffRange{0, 1, DiffState::data}).state == DiffState::data);
}

TEST_CASE("a pause comes through as it was") {
  const Pause pause{1'800'000, 2};
  CHECK(transported(pause) == pause);
}

TEST_CASE("every kind of error survives the wire with its errno") {
  for (const auto kind : {ErrorKind::failed, ErrorKind::usage, ErrorKind::not_found, ErrorKind::busy,
                          ErrorKind::no_space, ErrorKind::damaged, ErrorKind::no_answer}) {
    const Error got = transported(Error{kind, ENAMETOOLONG, "what \xff"});
    CHECK(got.kind == kind);
    CHECK(got.errno_value == ENAMETOOLONG);
    CHECK(got.message == "what \xff");
  }
}

TEST_CASE("bytes at random never make the decoder fail in another way than by saying so") {
  const auto seed = test_seed();
  CAPTURE(seed);
  std::mt19937 random(seed);
  for (int i = 0; i < 20'000; ++i) {
    std::string bytes(random() % 64, '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    wire::ControlMessage message;
    if (message.ParseFromString(bytes) && message.has_reply()) {
      (void)wire::from_wire(message.reply().status());
      (void)wire::from_wire(message.reply().error());
      (void)wire::from_wire(message.reply().disk_usage());
    }
  }
}

} // namespace
} // namespace vsnap
