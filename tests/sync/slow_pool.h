// A pool whose check(), flatten() and wait_for_copy() take as long as the test wants; everything else is
// another pool, by default one in memory.
#pragma once

#include <atomic>
#include <chrono>
#include <thread>

#include "tests/support/model_pool.h"

namespace vsnap::test {

class SlowPool : public Pool {
 public:
  SlowPool() : own_(ModelPool::make("lab")), inner_(own_.get()) {}
  explicit SlowPool(Pool& inner) : inner_(&inner) {}

  std::atomic<int> under_way{0};     // of them
  std::atomic<bool> release{false};  // lets them end
  std::atomic<bool> running{false};  // one of them has begun
  std::atomic<bool> finished{false}; // flatten came to its end
  std::atomic<int> counts{0};        // of the space of snapshots

  Result<> close() override { return inner_->close(); }
  void keep_unlinked() override {}
  void set_observer(PoolObserver* o) override { inner_->set_observer(o); }
  void count_snapshot_space(Figures) override { ++counts; }
  void settle() override { inner_->settle(); }
  std::string name() const override { return inner_->name(); }
  PoolStatus status() override { return inner_->status(); }
  std::vector<ViewInfo> list() override { return inner_->list(); }
  Result<ViewInfo> find(const ViewName& n) override { return inner_->find(n); }
  Result<ViewInfo> info(ObjectId id) override { return inner_->info(id); }
  Result<DiskUsage> disk_usage() override { return inner_->disk_usage(); }
  SpaceInfo space() override { return inner_->space(); }
  Result<std::optional<ObjectId>> carried_out(RequestId r) override { return inner_->carried_out(r); }
  Result<> add_member(const MemberSpec& m, bool f) override { return inner_->add_member(m, f); }
  Result<ViewInfo> create_volume(const std::string& n, std::uint64_t s) override {
    return inner_->create_volume(n, s);
  }
  using Pool::rename;
  using Pool::resize;
  Result<> rename(const ViewName& f, const std::string& t, bool r) override {
    return inner_->rename(f, t, r);
  }
  Result<> resize(ObjectId v, std::uint64_t s, bool a) override { return inner_->resize(v, s, a); }
  Result<> set_attributes(ObjectId id, std::optional<std::uint32_t> m, std::optional<std::uint32_t> u,
                          std::optional<std::uint32_t> g, std::optional<std::int64_t> t) override {
    return inner_->set_attributes(id, m, u, g, t);
  }
  Result<> snapshot(std::span<const ViewName> n) override { return inner_->snapshot(n); }
  Result<RollbackResult> rollback(const ViewName& t, bool d, bool n, const Progress& p) override {
    return inner_->rollback(t, d, n, p);
  }
  Result<ViewInfo> clone(const ViewName& f, const std::string& n) override { return inner_->clone(f, n); }
  Result<ViewInfo> preserve(const ViewName& n) override { return inner_->preserve(n); }
  Result<> share_into(ObjectId f, ObjectId t) override { return inner_->share_into(f, t); }
  bool shares_all_of(ObjectId v, ObjectId o) override { return inner_->shares_all_of(v, o); }
  Result<> flatten(const std::string&, const Progress& progress) override {
    const auto result = wait(progress);
    finished = result.has_value();
    return result;
  }
  Result<> snapshot_full(const ViewName& n, const FullSnapshotOptions& o) override {
    return inner_->snapshot_full(n, o);
  }
  Result<> wait_for_copy(const ViewName&, const Progress& progress) override { return wait(progress); }
  Result<> set_copy(const ViewName& n, const CopySettings& s) override { return inner_->set_copy(n, s); }
  Result<ViewInfo> split(const ViewName& f, const std::string& n) override { return inner_->split(f, n); }
  Result<ViewInfo> refresh(const ViewName& n) override { return inner_->refresh(n); }
  Result<RemovalPlan> remove(std::span<const ViewName> n, RemoveOptions o) override {
    return inner_->remove(n, o);
  }
  Result<> wait_for_removals(const Progress& p) override { return inner_->wait_for_removals(p); }
  Result<> diff(const ViewName& f, const ViewName& t,
                const std::function<bool(const DiffRange&)>& e) override {
    return inner_->diff(f, t, e);
  }
  Result<CheckReport> check(bool, const Progress& progress) override {
    VSNAP_TRY(wait(progress));
    return CheckReport{};
  }
  Result<> dump_catalog(const std::string& p, const Progress& g) override {
    return inner_->dump_catalog(p, g);
  }
  Result<ViewHandle> open_view(ObjectId id) override { return inner_->open_view(id); }
  Result<> sync() override { return inner_->sync(); }
  std::uint64_t generation() override { return inner_->generation(); }
  Result<Hosts> hosts() override { return inner_->hosts(); }
  Result<std::uint64_t> begin_reign() override { return inner_->begin_reign(); }
  Result<MemberMark> mark_members() override { return inner_->mark_members(); }
  Result<Invitation> invite(const HostKey& key, const std::string& name, std::int64_t valid_ns) override {
    return inner_->invite(key, name, valid_ns);
  }
  Result<HostInfo> join(const HostKey& invited, const std::string& wished, const HostKey& key) override {
    return inner_->join(invited, wished, key);
  }

 private:
  void handle_closed(View&) noexcept override {} // handles are those of the inner pool
  Result<> wait(const Progress& progress) {
    running = true;
    ++under_way;
    const Ended ended{under_way};
    for (std::uint64_t i = 0; !release; ++i) {
      if (!progress(i, 1000)) return failure(ErrorKind::failed, ECANCELED, "given up");
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return {};
  }

  struct Ended {
    std::atomic<int>& under_way;
    ~Ended() { --under_way; }
  };

  const std::unique_ptr<ModelPool> own_;
  Pool* const inner_;
};

} // namespace vsnap::test
