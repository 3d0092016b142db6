// A pool that another host coordinates, over real sockets: both hosts are in this process.
#include "sync/joined_pool.h"

#include "core/log.h"
#include "sync/view_exports.h"
#include "tests/core/refusal.h"
#include "tests/sync/shared_lab.h"

using namespace vsnap;
using namespace vsnap::test;

namespace {

constexpr std::uint64_t kBlocks = 64;

struct ExportLab : SharedLab {
  std::unique_ptr<ViewExports> exports;
  KeyPair beta;

  ExportLab() {
    vsnap::log::set_level(vsnap::log::Level::off);
    coordinator.reset();
    pool.reset();
    OpenPoolOptions options;
    options.keep_tail = true;
    open(options);
    create("v", kMiB);
    fill(1);
    REQUIRE(snapshot("v@s").has_value());
    share();
    beta = joined("beta");
  }
  ~ExportLab() { coordinator.reset(); }
  void share() {
    coordinator.reset();
    exports.reset();
    auto made = ViewExports::start(*pool, Env::real(), lease_ns);
    REQUIRE(made.has_value());
    exports = std::move(*made);
    const auto serve = [this](const HostInfo& host, const wire::LinkRequest& request) {
      return exports->serve(host, request);
    };
    auto started =
        Coordinator::start(*pool, Env::real(), {address, server_key, lease_ns, true, serve, exports.get()});
    REQUIRE(started.has_value());
    coordinator = std::move(*started);
  }
  void fill(std::uint8_t stamp) {
    REQUIRE(view("v")->write(0, block_of(stamp, kBlocks * kBlockBytes)).has_value());
  }
  std::unique_ptr<JoinedPool> join(std::vector<std::string> only = {}) {
    JoinedPool::Options options;
    options.link = {"lab", pool->status().uuid, address, server_key.public_key, beta};
    options.members = paths;
    options.only = std::move(only);
    auto opened = JoinedPool::open(env, std::move(options));
    INFO((opened ? "" : opened.error().message));
    REQUIRE(opened.has_value());
    return std::move(*opened);
  }
  std::uint32_t handles(const std::string& name) { return pool->find(*parse_view_name(name))->open_handles; }
};

ViewHandle open(JoinedPool& pool, const std::string& name) {
  const auto info = pool.find(*parse_view_name(name));
  REQUIRE(info.has_value());
  auto handle = pool.open_view(info->id);
  INFO((handle ? "" : handle.error().message));
  REQUIRE(handle.has_value());
  return std::move(*handle);
}

} // namespace

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

TEST_CASE("an open volume lapses where writes that no fsync confirmed may be lost, and only there") {
  ExportLab lab;
  const auto far = lab.join();
  const auto one = open(*far, "v");
  const auto other = open(*far, "v");
  REQUIRE(one->write(0, block_of(2)).has_value());
  REQUIRE(one->fsync().has_value());
  REQUIRE(other->write(kBlockBytes, block_of(3)).has_value());
  lab.env.power_cut(1);
  lab.coordinator.reset();
  lab.exports.reset();
  lab.pool.reset();
  OpenPoolOptions options;
  options.keep_tail = true;
  lab.open(options);
  lab.share();
  CHECK(read_from(*one, 0) == block_of(2));
  CHECK(refusal(other->fsync()).errno_value == EIO);
  CHECK(refusal(other->write(0, block_of(4))).errno_value == EIO);
  CHECK(read_from(*one, 0) == block_of(2));
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
