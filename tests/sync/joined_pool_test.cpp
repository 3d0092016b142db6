// A pool that another host coordinates, over real sockets: both hosts are in this process.
#include "sync/joined_pool.h"

#include "core/log.h"
#include "tests/core/refusal.h"
#include "tests/sync/export_lab.h"

using namespace vsnap;
using namespace vsnap::test;

TEST_CASE("a joined pool shows snapshots, and what they hold while the volume is overwritten") {
  ExportLab lab;
  const auto far = lab.join({"v"});
  REQUIRE(far->list().size() == 1);
  CHECK(far->list().front().name.text() == "v@s");
  CHECK(far->is_read_only());
  CHECK(refusal(far->find({"v", {}})).kind == ErrorKind::not_found);
  const ViewHandle view = open(*far, "v@s");
  CHECK(lab.handles("v@s") == 1);
  lab.fill(2);
  REQUIRE(read_from(*view, 0, kBlocks * kBlockBytes) == block_of(1, kBlocks * kBlockBytes));
  CHECK(refusal(view->write(0, block_of(3))).errno_value == EROFS);
  CHECK(view->seek_hole(0).value() == kBlocks * kBlockBytes);
}

TEST_CASE("a snapshot that is open on another host is in use, until it is closed there") {
  ExportLab lab;
  const auto far = lab.join();
  {
    const ViewHandle one = open(*far, "v@s");
    const ViewHandle two = open(*far, "v@s");
    CHECK(lab.handles("v@s") == 1);
    CHECK(refusal(lab.remove("v@s")).kind == ErrorKind::busy);
  }
  REQUIRE(becomes([&] { return lab.handles("v@s") == 0; }));
  REQUIRE(lab.remove("v@s").has_value());
  REQUIRE(becomes([&] { return far->list().size() == 1; }));
}

TEST_CASE("a close that comes late does not close what was opened after it") {
  ExportLab lab;
  const auto far = lab.join();
  for (int round = 0; round < 100; ++round) {
    const ViewHandle view = open(*far, "v@s"); // right after the one of the round before was closed
    REQUIRE(read_from(*view, 0) == block_of(1));
    REQUIRE(lab.handles("v@s") >= 1);
    REQUIRE(refusal(lab.remove("v@s")).kind == ErrorKind::busy);
  }
  REQUIRE(becomes([&] { return lab.handles("v@s") == 0; }));
}

TEST_CASE("after a restart of the coordinator a joined pool has again open what it had") {
  ExportLab lab;
  const auto far = lab.join();
  const ViewHandle view = open(*far, "v@s");
  REQUIRE(read_from(*view, 0) == block_of(1));
  const std::uint64_t epoch = far->link_status().epoch;
  lab.share();
  lab.fill(2);
  REQUIRE(becomes([&] { return far->link_status().epoch > epoch && far->link_status().session != 0; }));
  REQUIRE(read_from(*view, 0) == block_of(1));
  CHECK(lab.handles("v@s") >= 1);
}

TEST_CASE("a snapshot that went while its host had no session is an error there, never other data") {
  ExportLab lab;
  const auto far = lab.join();
  const ViewHandle view = open(*far, "v@s");
  REQUIRE(read_from(*view, 0) == block_of(1));
  lab.coordinator.reset();
  lab.exports.reset();
  REQUIRE(lab.pool->keep_snapshots_for(0).has_value()); // as once the lease is over
  REQUIRE(lab.remove("v@s").has_value());
  lab.fill(2);
  const std::uint64_t epoch = far->link_status().epoch;
  lab.share();
  REQUIRE(becomes([&] { return far->link_status().epoch > epoch && far->link_status().session != 0; }));
  std::vector<std::byte> out(kBlockBytes);
  CHECK(refusal(view->read(0, out)).errno_value == ESTALE);
}

TEST_CASE("a host that was revoked reads nothing more") {
  ExportLab lab;
  const auto far = lab.join();
  const ViewHandle view = open(*far, "v@s");
  lab.revoke("beta");
  REQUIRE(becomes([&] { return far->link_status().phase == HostSession::Phase::ended; }));
  std::vector<std::byte> out(kBlockBytes);
  CHECK(refusal(view->read(0, out)).errno_value == EIO);
  REQUIRE(becomes([&] { return lab.handles("v@s") == 0; })); // a lease later
}

TEST_CASE("a joined pool shows only what was named") {
  ExportLab lab;
  lab.create("w", kMiB);
  for (const char* const name : {"v@t", "w@s"}) REQUIRE(lab.snapshot(name).has_value());
  CHECK(lab.join({"v@t"})->list().size() == 1);
  CHECK(lab.join({"v"})->list().size() == 2);
}

TEST_CASE("what a host asks of views that it has not opened is refused") {
  ExportLab lab;
  const auto link = lab.link(lab.beta);
  REQUIRE(is_live(*link));
  const std::uint64_t id = lab.pool->find({"v", "s"})->id.value();
  const auto refused = [&](wire::LinkRequest request) {
    const auto reply = link->call(std::move(request), std::chrono::seconds(20));
    REQUIRE(reply.has_value());
    REQUIRE(reply->has_error());
    return wire::from_wire(reply->error()).errno_value;
  };
  wire::LinkRequest map, read, seek, write, fsync, discard, reserve;
  map.mutable_map()->set_view(id);
  read.mutable_read()->set_view(id);
  seek.mutable_seek()->set_view(id);
  for (const auto& request : {map, read, seek}) CHECK(refused(request) == ESTALE);
  const auto put = [](wire::LinkRequest& request, auto* (wire::LinkRequest::*body)()) {
    (request.*body)()->set_number(7);
    return request;
  };
  for (const auto& request :
       {put(write, &wire::LinkRequest::mutable_write), put(fsync, &wire::LinkRequest::mutable_fsync),
        put(discard, &wire::LinkRequest::mutable_discard), put(reserve, &wire::LinkRequest::mutable_reserve)})
    CHECK(refused(request) == ESTALE);
  write.mutable_write()->set_number(0);
  CHECK(refused(write) == EINVAL);
  wire::LinkRequest open;
  open.mutable_open_view()->set_view(id);
  open.mutable_open_view()->set_number(1);
  REQUIRE_FALSE(link->call(open, std::chrono::seconds(20)).value().has_error());
  map.mutable_map()->set_region(~0ULL >> 20U);
  CHECK(refused(map) == EINVAL);
  read.mutable_read()->set_length(~0U);
  CHECK(refused(read) == EINVAL);
}

TEST_CASE("a volume is read and written on another host") {
  ExportLab lab;
  const auto far = lab.join();
  REQUIRE(far->list().size() == 2);
  const auto there = open(*far, "v");
  CHECK(lab.handles("v") == 1);
  REQUIRE(read_from(*there, 0, kBlocks * kBlockBytes) == block_of(1, kBlocks * kBlockBytes));
  REQUIRE(there->write(3 * kBlockBytes, block_of(2)).has_value());
  const auto here = lab.view("v");
  CHECK(read_from(*here, 3 * kBlockBytes) == block_of(2));
  REQUIRE(here->write(0, block_of(3)).has_value());
  CHECK(read_from(*there, 0) == block_of(3));
  REQUIRE(there->write(kMiB, block_of(4)).has_value()); // at the end: it grows
  CHECK(there->size_bytes() == kMiB + kBlockBytes);
  CHECK(far->info(there->id())->size_bytes == kMiB + kBlockBytes);
  REQUIRE(there->discard(0, kBlockBytes).has_value());
  CHECK(read_from(*here, 0) == block_of(0));
  CHECK(there->seek_data(0).value() == kBlockBytes);
  REQUIRE(there->fsync().has_value());
  REQUIRE(far->resize(there->id(), kMiB, true).has_value());
  CHECK(here->size_bytes() == kMiB);
  CHECK(refusal(there->write(kMaxVolumeBytes, block_of(1))).errno_value == EFBIG);
}

TEST_CASE("an open volume goes on with a coordinator that has taken over while the lease ran") {
  ExportLab lab;
  const auto far = lab.join();
  const auto there = open(*far, "v");
  for (int round = 2; round < 5; ++round) {
    const auto stamp = static_cast<std::uint8_t>(round);
    REQUIRE(there->write(0, block_of(stamp)).has_value()); // and no fsync
    lab.share();
    REQUIRE(read_from(*there, 0) == block_of(stamp));
    REQUIRE(there->fsync().has_value());
  }
}

TEST_CASE("an open volume has lapsed once the lease is over, and is never gone on with") {
  ExportLab lab;
  const auto far = lab.join();
  const auto before = open(*far, "v");
  REQUIRE(before->write(0, block_of(2)).has_value());
  lab.coordinator.reset();
  lab.exports.reset();
  lab.env.let_pass(lab.lease_ns);
  REQUIRE(becomes([&] { return far->link_status().phase == HostSession::Phase::away; }));
  CHECK(refusal(before->write(0, block_of(3))).errno_value == EIO); // without a session there is no waiting
  lab.share();
  REQUIRE(becomes([&] { return far->link_status().session != 0; }));
  std::vector<std::byte> out(kBlockBytes);
  CHECK(refusal(before->read(0, out)).errno_value == EIO);
  CHECK(refusal(before->fsync()).errno_value == EIO);
  const auto after = open(*far, "v");
  CHECK(read_from(*after, 0) == block_of(2));
  REQUIRE(after->write(0, block_of(4)).has_value());
  CHECK(refusal(before->write(0, block_of(5))).errno_value == EIO);
  CHECK(read_from(*lab.view("v"), 0) == block_of(4));
}

TEST_CASE("open volumes lapse where writes of their host that no fsync confirmed may be lost") {
  for (const bool synced : {false, true}) {
    CAPTURE(synced);
    ExportLab lab;
    const auto far = lab.join();
    const auto one = open(*far, "v");
    const auto other = open(*far, "v");
    REQUIRE(one->write(0, block_of(2)).has_value());
    REQUIRE(one->fsync().has_value());
    REQUIRE(other->write(kBlockBytes, block_of(3)).has_value());
    if (synced) REQUIRE(one->fsync().has_value()); // through either
    lab.env.power_cut(1);
    lab.coordinator.reset();
    lab.exports.reset();
    lab.pool.reset();
    OpenPoolOptions options;
    options.keep_tail = true;
    lab.open(options);
    lab.share();
    if (synced) {
      CHECK(read_from(*one, kBlockBytes) == block_of(3));
      CHECK(other->fsync().has_value());
      continue;
    }
    CHECK(refusal(other->write(0, block_of(4))).errno_value == EIO);
    CHECK(refusal(one->fsync()).errno_value == EIO); // it would confirm what the other has written
    CHECK(read_from(*open(*far, "v"), 0) == block_of(2));
  }
}

TEST_CASE("names in the directory of a joined host are made and changed at the coordinator") {
  ExportLab lab;
  const auto far = lab.join();
  REQUIRE(far->create_volume("w", kMiB).has_value());
  CHECK(lab.pool->find({"w", {}})->size_bytes == kMiB);
  REQUIRE(far->rename({"w", {}}, "x", false).has_value());
  CHECK(refusal(far->find({"w", {}})).kind == ErrorKind::not_found);
  REQUIRE(far->set_attributes(far->find({"x", {}})->id, 0640, 7, 8, std::nullopt).has_value());
  CHECK(lab.pool->find({"x", {}})->uid == 7);
  CHECK(far->find({"x", {}})->mode == 0640);
  CHECK(refusal(far->create_volume("x", 0)).errno_value == EEXIST);
  const ViewName x{"x", {}};
  REQUIRE(far->remove(std::span(&x, 1), {.even_if_open = true}).has_value());
  CHECK(refusal(lab.pool->find(x)).kind == ErrorKind::not_found);
  const auto read_only = lab.join({"v"});
  CHECK(refusal(read_only->create_volume("y", 0)).errno_value == EROFS);
}

TEST_CASE("writes of many threads only wait while a coordinator takes over") {
  ExportLab lab;
  const auto far = lab.join();
  const auto there = open(*far, "v");
  std::atomic<bool> over{false};
  std::atomic<int> failed{0};
  std::vector<std::thread> writers;
  for (std::uint64_t i = 0; i < 16; ++i) {
    writers.emplace_back([&, i] {
      while (!over.load()) failed += there->write(i * kBlockBytes, block_of(2)).has_value() ? 0 : 1;
    });
  }
  for (int round = 0; round < 20; ++round) lab.share();
  over = true;
  for (std::thread& writer : writers) writer.join();
  CHECK(failed == 0);
}

TEST_CASE("what a coordinator has no room for at the moment is asked again") {
  ExportLab lab;
  const auto far = lab.join();
  lab.coordinator.reset();
  std::atomic<int> asked{0};
  const auto serve = [&](const HostInfo& host, const wire::LinkRequest& request) {
    if (++asked % 2 == 0) return lab.exports->serve(host, request);
    wire::LinkReply busy;
    *busy.mutable_error() = wire::error_reply(ErrorKind::busy, "too much").error();
    busy.mutable_error()->set_errno_value(EAGAIN);
    return busy;
  };
  auto started =
      Coordinator::start(*lab.pool, Env::real(),
                         {lab.address, lab.server_key, lab.lease_ns, true, serve, {}, lab.exports.get()});
  REQUIRE(started.has_value());
  lab.coordinator = std::move(*started);
  const auto there = open(*far, "v");
  REQUIRE(there->write(0, block_of(2)).has_value());
  CHECK(read_from(*there, 0) == block_of(2));
  REQUIRE(there->fsync().has_value());
}

TEST_CASE("a write that waits for room is given up with its opening, and does not land later") {
  ExportLab lab;
  const std::string limit = std::to_string(8 * kBlockBytes);
  REQUIRE(lab.pool->set_properties("v", {{"snapshot-limit", limit}, {"on-full", "pause"}}).has_value());
  const auto far = lab.join();
  const auto before = open(*far, "v");
  REQUIRE(before->write(0, block_of(2, 8 * kBlockBytes)).has_value());
  std::thread writer(
      [&] { CHECK(refusal(before->write(20 * kBlockBytes, block_of(3))).errno_value == EIO); });
  REQUIRE(becomes([&] { return lab.pool->status().health.find("limit") != std::string::npos; }));
  lab.env.let_pass(lab.lease_ns); // at the joined host
  writer.join();
  const auto after = open(*far, "v"); // busy as long as the other is carried out
  REQUIRE(lab.remove("v@s").has_value());
  const auto here = lab.view("v");
  REQUIRE(here->write(20 * kBlockBytes, block_of(4)).has_value());
  CHECK(read_from(*after, 20 * kBlockBytes) == block_of(4));
  CHECK(refusal(before->write(20 * kBlockBytes, block_of(5))).errno_value == EIO);
}

TEST_CASE("however many writes wait for room, what needs none goes on") {
  ExportLab lab;
  const std::string limit = std::to_string(8 * kBlockBytes);
  REQUIRE(lab.pool->set_properties("v", {{"snapshot-limit", limit}, {"on-full", "pause"}}).has_value());
  const auto far = lab.join();
  const auto there = open(*far, "v");
  REQUIRE(there->write(0, block_of(2, 8 * kBlockBytes)).has_value());
  std::vector<std::thread> writers;
  std::atomic<int> begun{0};
  for (std::uint64_t i = 0; i < 20; ++i) {
    writers.emplace_back([&, i] {
      ++begun;
      CHECK(there->write((20 + i) * kBlockBytes, block_of(3)).has_value());
    });
  }
  REQUIRE(
      becomes([&] { return begun == 20 && lab.pool->status().health.find("limit") != std::string::npos; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(200)); // so that as many as may have been asked for
  std::vector<std::byte> out(kBlockBytes);
  CHECK(there->read(0, out).has_value());
  CHECK(there->fsync().has_value());
  CHECK(far->find({"v", {}}).has_value());
  REQUIRE(lab.remove("v@s").has_value());
  for (std::thread& writer : writers) writer.join();
}

TEST_CASE("who waits for room is not answered by a coordinator that ends, but by the next") {
  ExportLab lab;
  const std::string limit = std::to_string(8 * kBlockBytes);
  REQUIRE(lab.pool->set_properties("v", {{"snapshot-limit", limit}, {"on-full", "pause"}}).has_value());
  const auto far = lab.join();
  const auto there = open(*far, "v");
  REQUIRE(there->write(0, block_of(2, 8 * kBlockBytes)).has_value());
  std::thread writer([&] { CHECK(there->write(20 * kBlockBytes, block_of(3)).has_value()); });
  REQUIRE(becomes([&] { return lab.pool->status().health.find("limit") != std::string::npos; }));
  lab.pool->stop_waiting();
  lab.coordinator.reset();
  lab.exports.reset();
  lab.pool.reset();
  OpenPoolOptions options;
  options.keep_tail = true;
  lab.open(options);
  lab.share();
  REQUIRE(lab.pool->set_properties("v", {{"snapshot-limit", "none"}}).has_value());
  writer.join();
  CHECK(read_from(*lab.view("v"), 20 * kBlockBytes) == block_of(3));
}

TEST_CASE("a size is changed in an opening, and not after its lease") {
  ExportLab lab;
  const auto far = lab.join();
  const auto there = open(*far, "v");
  const ObjectId id = there->id();
  lab.coordinator.reset();
  lab.exports.reset();
  std::thread resize([&] { CHECK(refusal(far->resize(id, 0, true)).errno_value == EIO); });
  lab.env.let_pass(lab.lease_ns);
  REQUIRE(becomes([&] { return far->link_status().phase == HostSession::Phase::away; }));
  REQUIRE(becomes([&] { return there->has_lapsed(); }));
  lab.share();
  resize.join();
  CHECK(lab.pool->info(id)->size_bytes == kMiB);
  const auto link = lab.link(lab.beta);
  REQUIRE(is_live(*link));
  wire::LinkRequest request;
  request.mutable_set_attributes()->set_view(id.value());
  request.mutable_set_attributes()->set_size_bytes(0);
  CHECK(link->call(request, std::chrono::seconds(20))->error().errno_value() == EINVAL);
  request.mutable_set_attributes()->set_number(7);
  CHECK(link->call(request, std::chrono::seconds(20))->error().errno_value() == ESTALE);
}

TEST_CASE("the size of a volume that was removed while it was open is changed on another host") {
  ExportLab lab;
  const auto far = lab.join();
  const auto there = open(*far, "v");
  const ViewName v{"v", {}};
  REQUIRE(lab.remove("v@s").has_value());
  REQUIRE(lab.pool->remove(std::span(&v, 1), {.even_if_open = true}).has_value());
  REQUIRE(far->resize(there->id(), kBlockBytes, true).has_value());
  CHECK(there->size_bytes() == kBlockBytes);
  CHECK(read_from(*there, 0) == block_of(1));
}

TEST_CASE("a host's next process goes on with what the one before had open, while its lease runs") {
  ExportLab lab;
  Tenure tenure{};
  const auto reopened = [&](std::uint64_t number) {
    const auto far = lab.join();
    far->keep_tenure(&tenure);
    const auto view = far->go_on_with(lab.pool->find({"v", {}})->id, number);
    const bool goes_on = view && (*view)->write(0, block_of(2)).has_value();
    far->keep_tenure(nullptr);
    return goes_on;
  };
  CHECK_FALSE(reopened(tenure.number)); // there was none
  std::uint64_t number = tenure.number;
  CHECK(reopened(number));
  CHECK_FALSE(reopened(number + 1));
  {
    const auto far = lab.join();
    far->keep_tenure(&tenure);
    CHECK(tenure.number == number);
    lab.env.let_pass(lab.lease_ns); // it stood still, and goes on
    REQUIRE(becomes([&] { return tenure.number > number && tenure.until_ns != 0; }));
    far->keep_tenure(nullptr);
  }
  CHECK_FALSE(reopened(number));
  number = tenure.number;
  lab.env.let_pass(lab.lease_ns); // there is none, for so long
  CHECK_FALSE(reopened(number));
}

TEST_CASE("a host's next process does not go on where unconfirmed writes of the one before may be lost") {
  ExportLab lab;
  Tenure tenure{};
  const auto id = lab.pool->find({"v", {}})->id;
  {
    const auto far = lab.join();
    far->keep_tenure(&tenure);
    const auto there = open(*far, "v");
    REQUIRE(there->write(0, block_of(2)).has_value());
    far->keep_tenure(nullptr);
  }
  tenure.losses += 1; // as where the pool has had another one since
  tenure.until_ns = lab.env.monotonic_ns() + lab.lease_ns;
  const auto far = lab.join();
  far->keep_tenure(&tenure);
  CHECK(refusal(far->go_on_with(id, tenure.number)).errno_value == EIO);
  far->keep_tenure(nullptr);
}
