// A volume of a pool that another host coordinates, open on this one: asked of the coordinator, which carries
// it out beside what programs of all other hosts ask for; or, while it is delegated to this host, read and
// overwritten on the members (direct_volume.h).
//
// Invariants
// 1. An opening has a number that no other one has, on any host. All that is asked for says the number, and
//    is carried out only while the coordinator has it open, in the session under way (sync/view_exports.h).
// 2. An opening ends for good, it lapses, when the lease under which it was open has run out on this host,
//    before it does there: then another host may have taken the volume over. It is never opened again by that
//    number, so what was still on its way is refused; its programs get EIO.
// 3. A coordinator that has taken over while the lease ran opens it anew. Not where writes of this host that
//    had returned, and that no fsync had confirmed, may be lost there (Pool::losses()): then it lapses as
//    well, with all that the host has open of that volume.
// 4. What does not lapse is answered by the coordinator: nothing is given up while it may still be carried
//    out.
// Threads: any, as of every View.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "core/view.h"
#include "sync/direct_volume.h"
#include "sync/sharing.pb.h"

namespace vsnap {

class RemoteVolume;

// The changes of a volume by one host, through all that it has open of it, of which no fsync has confirmed
// that they are durable. Threads: any.
class UnsyncedChanges {
 public:
  void begin() { begun_.fetch_add(1); }
  void end() { ended_.fetch_add(1); } // it was answered, or given up
  // Before an fsync: what it covers. Not what is under way, and then nothing: that cannot be told apart.
  [[nodiscard]] std::uint64_t covered() const {
    const std::uint64_t ended = ended_.load(); // first: so there was a moment at which all had ended
    return begun_.load() == ended ? ended : 0;
  }
  void confirm(std::uint64_t covered) {
    std::uint64_t before = synced_.load();
    while (before < covered && !synced_.compare_exchange_weak(before, covered)) {
    }
  }
  [[nodiscard]] bool any() const { return begun_.load() != synced_.load(); }

 private:
  std::atomic<std::uint64_t> begun_{0};
  std::atomic<std::uint64_t> ended_{0};  // of those
  std::atomic<std::uint64_t> synced_{0}; // of those
};

// The link of this host, as its open volumes use it.
class RemoteIo {
 public:
  // Makes the request, perhaps several times, and has it answered. EIO: the opening has lapsed, or the pool
  // is being closed.
  using Make = std::function<void(wire::LinkRequest& request)>;
  [[nodiscard]] virtual Result<wire::LinkReply> carry_out(RemoteVolume& volume, const Make& make) = 0;
  // What it would have answered of one that has lapsed.
  [[nodiscard]] virtual Failure lapsed(const RemoteVolume& volume) const = 0;

 protected:
  ~RemoteIo() = default;
};

class RemoteVolume final : public View {
 public:
  static constexpr std::uint32_t kMaxBytes = 1U << 20; // of a write at once

  RemoteVolume(ViewInfo info, std::uint64_t number, RemoteIo& io, std::shared_ptr<UnsyncedChanges> unsynced,
               std::shared_ptr<DirectVolume> direct)
      : info_(std::move(info)),
        number_(number),
        io_(io),
        unsynced_(std::move(unsynced)),
        direct_(std::move(direct)),
        flush_failures_(direct_->flush_failures()),
        size_bytes_(info_.size_bytes) {}

  [[nodiscard]] ObjectId id() const override { return info_.id; }
  [[nodiscard]] bool writable() const override { return true; }
  // As the coordinator said last. Others may change it.
  [[nodiscard]] std::uint64_t size_bytes() const override { return size_bytes_.load(); }
  Result<std::size_t> read(std::uint64_t offset, std::span<std::byte> out) override;
  Result<> write(std::uint64_t offset, std::span<const std::byte> data) override;
  Result<> discard(std::uint64_t offset, std::uint64_t length) override;
  Result<> reserve(std::uint64_t offset, std::uint64_t length, bool extend) override;
  Result<std::optional<std::uint64_t>> seek_data(std::uint64_t offset) override {
    return seek(offset, false);
  }
  Result<std::optional<std::uint64_t>> seek_hole(std::uint64_t offset) override { return seek(offset, true); }
  Result<> fsync() override;
  [[nodiscard]] bool waits_for_host() const override { return true; }
  WriteWait write_wait() const override {
    return direct_->is_ready() ? WriteWait::flush : WriteWait::others;
  }

  // For the link.
  [[nodiscard]] std::uint64_t number() const { return number_; }
  [[nodiscard]] const std::string& name() const { return info_.name.volume; } // when it was opened
  [[nodiscard]] bool has_lapsed() const override { return lapsed_.load(); }
  bool lapse() { return !lapsed_.exchange(true); } // true: it had not
  [[nodiscard]] const std::shared_ptr<UnsyncedChanges>& unsynced() const { return unsynced_; }
  void set_size(std::uint64_t size_bytes) { size_bytes_.store(size_bytes); }
  [[nodiscard]] DirectVolume& direct() { return *direct_; }

 private:
  Result<> change(std::uint64_t offset, std::uint64_t length, const RemoteIo::Make& make);
  Result<std::optional<std::uint64_t>> seek(std::uint64_t offset, bool hole);

  const ViewInfo info_;
  const std::uint64_t number_;
  RemoteIo& io_;
  const std::shared_ptr<UnsyncedChanges> unsynced_;
  const std::shared_ptr<DirectVolume> direct_;
  std::atomic<std::uint64_t> flush_failures_; // of direct_, that were told
  std::atomic<std::uint64_t> size_bytes_;
  std::atomic<bool> lapsed_{false};
};

} // namespace vsnap
