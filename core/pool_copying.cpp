// The copies of full-sized snapshots: made piece by piece, in turns, by a thread of their own in a daemon, or
// by whoever waits for one where there is none; while nobody has the pool open they rest.
//
// A piece that cannot be made changes nothing and is tried again later, the rarer the less likely it is that
// something has changed. A copy that is nobody's any more is given up; what it has stays, for clones.
#include <fmt/format.h>
#include <algorithm>

#include "core/log.h"
#include "core/planted.h"
#include "core/pool_impl.h"

namespace vsnap {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::int64_t kRetryWithoutSpace = 2 * kSecond;
constexpr std::int64_t kRetryAfterError = 60 * kSecond; // members that fail do not become well by asking
// The load has the members for as long as a piece took.
constexpr int kCopyPause = 1;
constexpr std::chrono::milliseconds kLook(200); // how often those that wait are told, and ask whether to stop

std::string trouble_of(const Error& error) {
  if (error.kind == ErrorKind::no_space) return "no space";
  return error.errno_value == EIO ? "read error" : "error";
}

} // namespace

// Once the branches are loaded.
Result<> PoolImpl::hold_sweeps_of_copies() {
  std::vector<Branch*> unfinished;
  {
    MutexLock lock(objects_.mutex());
    for (Branch* const branch : objects_.branches()) {
      if (!branch->being_copied()) continue;
      copying_.insert(branch->id);
      unfinished.push_back(branch);
    }
  }
  for (Branch* const branch : unfinished) VSNAP_TRY(hold_sweep(*branch, true));
  return {};
}

// Their branches are swept instead.
Result<> PoolImpl::release_unwanted_copies() {
  std::vector<const Branch*> unwanted;
  {
    MutexLock lock(objects_.mutex());
    std::erase_if(copying_, [&](BranchId id) VSNAP_NO_THREAD_SAFETY_ANALYSIS {
      const Branch* const branch = objects_.branch(id);
      if (branch != nullptr && branch->being_copied()) return false;
      if (branch != nullptr) unwanted.push_back(branch);
      return true;
    });
  }
  for (const Branch* const branch : unwanted) VSNAP_TRY(hold_sweep(*branch, false));
  return {};
}

// Whose turn it is; `wait` becomes shorter where one is to go on before.
std::optional<BranchId> PoolImpl::next_copy(std::int64_t now_ns, std::chrono::nanoseconds& wait) {
  MutexLock lock(objects_.mutex());
  const auto may_go_on = [&](BranchId id) VSNAP_NO_THREAD_SAFETY_ANALYSIS {
    const Branch* const branch = objects_.branch(id);
    if (branch == nullptr || !branch->being_copied() || branch->copy->paused) return false;
    if (branch->copy->not_before_ns <= now_ns) return true;
    wait = std::min(wait, std::chrono::nanoseconds(branch->copy->not_before_ns - now_ns));
    return false;
  };
  auto found = std::find_if(copying_.upper_bound(last_copied_), copying_.end(), may_go_on);
  if (found == copying_.end()) found = std::find_if(copying_.begin(), copying_.end(), may_go_on);
  if (found == copying_.end()) return std::nullopt;
  last_copied_ = *found;
  return last_copied_;
}

// The next piece, or the end.
Result<> PoolImpl::copy_piece(BranchId id) {
  FullCopy copy;
  {
    MutexLock lock(objects_.mutex());
    const Branch* const branch = objects_.branch(id);
    if (branch == nullptr || !branch->being_copied()) return {};
    copy = *branch->copy;
  }
  if (engine_->committed() < copy.line && !planted(Fault::copy_of_old_line)) {
    if (auto committed = engine_->commit(); !committed) return note_trouble(id, committed);
  }
  const std::int64_t begin_ns = env_.monotonic_ns();
  const auto now_so_far = [&](const BranchCopier::Piece& piece) VSNAP_NO_THREAD_SAFETY_ANALYSIS {
    FullCopy changed = *objects_.branch(id)->copy;
    changed.next = piece.next.value_or(*changed.next);
    changed.copied_blocks += piece.blocks;
    return changed;
  };
  BranchCopier::Hooks hooks;
  hooks.wanted = [&] {
    MutexLock lock(objects_.mutex());
    const Branch* const branch = objects_.branch(id);
    return branch != nullptr && branch->being_copied();
  };
  hooks.also = [&](SQLite::Database& db, const BranchCopier::Piece& piece) {
    MutexLock lock(objects_.mutex());
    catalog::store_copy(db, id, now_so_far(piece));
  };
  hooks.settled = [&](const BranchCopier::Piece& piece) {
    MutexLock lock(objects_.mutex());
    FullCopy changed = now_so_far(piece);
    changed.trouble.clear();
    if (const std::uint64_t rate = changed.bytes_per_second; rate != 0) {
      const double seconds = static_cast<double>(piece.blocks * kBlockBytes) / static_cast<double>(rate);
      changed.not_before_ns = std::max(changed.not_before_ns, begin_ns) +
                              static_cast<std::int64_t>(seconds * static_cast<double>(kSecond));
    }
    objects_.branch(id)->copy = std::move(changed);
  };
  auto piece = copier_->copy(id, *copy.next, copy.members, hooks);
  if (!piece) return note_trouble(id, Failure(piece.error()));
  if (!piece->next) return finish_copy(id);
  return {};
}

// For whoever asks how it goes, and until when it is left alone.
Result<> PoolImpl::note_trouble(BranchId id, Result<> result) {
  MutexLock lock(objects_.mutex());
  Branch* const branch = objects_.branch(id);
  if (result || branch == nullptr || !branch->being_copied()) return {};
  FullCopy& copy = *branch->copy;
  const std::string trouble = trouble_of(result.error());
  if (copy.trouble != trouble)
    log::warning("pool {}: a full-sized snapshot is not copied further: {}", name_, result.error().message);
  copy.trouble = trouble;
  copy.not_before_ns = env_.monotonic_ns() +
                       (result.error().kind == ErrorKind::no_space ? kRetryWithoutSpace : kRetryAfterError);
  return result;
}

Result<> PoolImpl::finish_copy(BranchId id) {
  MutexLock config(config_mutex_);
  {
    MutexLock commit(engine_->commit_mutex());
    Branch* branch = nullptr;
    FullCopy finished;
    {
      MutexLock lock(objects_.mutex());
      branch = objects_.branch(id);
      if (branch == nullptr || !branch->being_copied()) return {};
      finished = *branch->copy;
    }
    finished.next.reset();
    auto cut = cut_parent(*branch, [&](SQLite::Database& db) -> Result<> {
      if (finished.snapshot)
        catalog::store_copy(db, id, finished);
      else
        catalog::erase_copy(db, id);
      return {};
    });
    if (!cut) return note_trouble(id, cut);
    MutexLock lock(objects_.mutex());
    if (finished.snapshot)
      branch->copy = std::move(finished);
    else
      branch->copy.reset();
    copying_.erase(id);
  }
  VSNAP_TRY(engine_->db().read([&](SQLite::Database&) -> Result<> {
    engine_->index().hold_sweep(id, false);
    return {};
  }));
  background_wake_.notify_all();
  return {};
}

void PoolImpl::copying_loop() {
  std::chrono::nanoseconds pause(0);
  for (;;) {
    {
      MutexLock lock(background_mutex_);
      if (!stop_ && pause.count() > 0) copying_wake_.wait_for(background_mutex_, pause);
      if (stop_) return;
    }
    pause = kLook;
    if (!engine_->check_writable()) continue;
    MutexLock copying(copying_mutex_);
    const std::int64_t begin_ns = env_.monotonic_ns();
    const auto branch = next_copy(begin_ns, pause);
    if (!branch) continue;
    static_cast<void>(copy_piece(*branch)); // what was wrong is noted
    pause = std::chrono::nanoseconds(kCopyPause * (env_.monotonic_ns() - begin_ns));
    copied_some_.notify_all();
  }
}

// True: it is complete. Kind not_found: nobody looks at it any more.
Result<bool> PoolImpl::copied(BranchId id, const Progress& progress) {
  FullCopy copy;
  {
    MutexLock lock(objects_.mutex());
    const Branch* const branch = objects_.branch(id);
    if (branch != nullptr && branch->parent == nullptr) return true;
    if (branch == nullptr || !branch->being_copied())
      return failure(ErrorKind::not_found, "was removed before its copy was complete");
    copy = *branch->copy;
  }
  if (progress && !progress(copy.copied_blocks * kBlockBytes,
                            std::max(copy.copied_blocks, copy.total_blocks) * kBlockBytes)) {
    return failure(ErrorKind::failed, ECANCELED, "given up waiting; what is copied stays copied");
  }
  if (copy.paused) {
    return failure(ErrorKind::failed, EAGAIN,
                   fmt::format("{} (vsnap copy resume lets it go on)", state_of(copy)));
  }
  if (copy.trouble.empty()) return false;
  return failure(copy.trouble == "no space" ? ErrorKind::no_space : ErrorKind::failed,
                 fmt::format("{} (it goes on by itself when that is over)", state_of(copy)));
}

Result<> PoolImpl::wait_for_copy(const ViewName& name, const Progress& progress) {
  BranchId id;
  {
    VSNAP_TRY_ASSIGN(const ObjectPtr object, copying_object(name));
    if (is_read_only()) VSNAP_TRY(engine_->check_writable()); // nobody copies
    MutexLock lock(objects_.mutex());
    id = object->branch->id;
    FullCopy& copy = *object->branch->copy;
    if (!copy.trouble.empty()) copy.not_before_ns = 0; // whoever waits may know that it is over
    copy.trouble.clear();
  }
  copying_wake_.notify_all();
  for (;;) {
    auto complete = copied(id, progress);
    if (!complete) {
      const Error& error = complete.error();
      return failure(error.kind, error.errno_value,
                     fmt::format("{}/{}: {}", name_, name.text(), error.message));
    }
    if (*complete) return {};
    if (!options_.background) {
      MutexLock copying(copying_mutex_);
      std::int64_t wait_ns = 0;
      {
        MutexLock lock(objects_.mutex());
        const Branch* const branch = objects_.branch(id);
        if (branch != nullptr && branch->copy) wait_ns = branch->copy->not_before_ns - env_.monotonic_ns();
      }
      if (wait_ns <= 0) {
        static_cast<void>(copy_piece(id));
        continue;
      }
    }
    MutexLock lock(background_mutex_);
    if (stop_) return failure(ErrorKind::failed, ECANCELED, "the pool is being closed");
    copied_some_.wait_for(background_mutex_, kLook);
  }
}

} // namespace vsnap
