// The differences of two related views: blocks whose newest versions are not the same. A version never
// changes its place while two views can see it, so that the same place means the same content, and nothing
// has to be read. (A flatten that runs beside it gives blocks other places: then more may be listed than
// differs, never less.)
#include <fmt/format.h>
#include <algorithm>
#include <set>

#include "core/pool_impl.h"

namespace vsnap {
namespace {

// The branch and those it starts from. Under the database's lock, which a change of a parent takes.
std::set<const Branch*> ancestry(const Branch* branch) {
  std::set<const Branch*> chain;
  for (; branch != nullptr; branch = branch->parent) chain.insert(branch);
  return chain;
}

// Joins ranges that touch before handing them on.
class RangeJoiner {
 public:
  explicit RangeJoiner(const std::function<bool(const DiffRange&)>& each) : each_(each) {}
  bool add(std::uint64_t offset, std::uint64_t length, DiffState state) {
    if (current_.length > 0 && current_.state == state && current_.offset + current_.length == offset) {
      current_.length += length;
      return true;
    }
    const bool more = flush();
    current_ = {offset, length, state};
    return more;
  }
  bool flush() {
    const bool more = current_.length == 0 || each_(current_);
    current_.length = 0;
    return more;
  }

 private:
  const std::function<bool(const DiffRange&)>& each_;
  DiffRange current_;
};

} // namespace

Result<> PoolImpl::diff(const ViewName& from, const ViewName& to,
                        const std::function<bool(const DiffRange&)>& each) {
  // Handles first: they keep both views and their branches from going away, and from being rolled back.
  VSNAP_TRY_ASSIGN(const ObjectPtr old_object, object_named(from));
  VSNAP_TRY_ASSIGN(const ObjectPtr new_object, object_named(to));
  {
    MutexLock lock(objects_.mutex());
    VSNAP_TRY(check_settled(*old_object));
    VSNAP_TRY(check_settled(*new_object));
  }
  VSNAP_TRY_ASSIGN(const ViewHandle old_handle, open_view(old_object->id));
  VSNAP_TRY_ASSIGN(const ViewHandle new_handle, open_view(new_object->id));
  VolumeIo& old_view = static_cast<VolumeIo&>(*old_handle);
  VolumeIo& new_view = static_cast<VolumeIo&>(*new_handle);
  VSNAP_TRY_ASSIGN(const bool related, engine_->db().read([&](SQLite::Database&) -> Result<bool> {
    const auto new_chain = ancestry(new_view.map().branch);
    const auto old_chain = ancestry(old_view.map().branch);
    return std::any_of(old_chain.begin(), old_chain.end(),
                       [&](const Branch* b) { return new_chain.contains(b); });
  }));
  if (!related) {
    return failure(ErrorKind::failed, EXDEV,
                   fmt::format("{}/{} and {}/{} have no common origin; there is nothing to compare by", name_,
                               from.text(), name_, to.text()));
  }
  RangeJoiner joiner(each);
  for (RegionIndex index(0);; index = RegionIndex(index.value() + 1)) {
    VSNAP_TRY_ASSIGN(const auto in_old, old_view.next_mapped_region(index));
    VSNAP_TRY_ASSIGN(const auto in_new, new_view.next_mapped_region(index));
    if (!in_old && !in_new) break;
    index = std::min(in_old.value_or(RegionIndex(~0ULL)), in_new.value_or(RegionIndex(~0ULL)));
    VSNAP_TRY_ASSIGN(const std::vector<DiffRange> found, diff_region(old_view, new_view, index));
    // Outside of the grace section: the receiver may take its time.
    for (const DiffRange& range : found) {
      if (!joiner.add(range.offset, range.length, range.state))
        return failure(ErrorKind::failed, ECANCELED, "given up");
    }
  }
  joiner.flush();
  return {};
}

Result<std::vector<DiffRange>> PoolImpl::diff_region(VolumeIo& old_view, VolumeIo& new_view,
                                                     RegionIndex index) {
  std::vector<DiffRange> found;
  const auto keep = [&](const DiffRange& range) {
    found.push_back(range);
    return true;
  };
  const std::function<bool(const DiffRange&)> each = keep;
  RangeJoiner joiner(each);
  const std::uint64_t size = new_view.size_bytes();
  // One section over both maps: a place that is given up meanwhile is not used anew before its end.
  const Grace::Section section(engine_->grace());
  VSNAP_TRY_ASSIGN(const Region* old_region, engine_->cache().get(old_view.map(), index));
  VSNAP_TRY_ASSIGN(const Region* new_region, engine_->cache().get(new_view.map(), index));
  for (std::uint64_t block = 0; block < kRegionBlocks; ++block) {
    const Entry a = old_region->entry(block);
    const Entry b = new_region->entry(block);
    const bool data = b.kind() == BlockKind::data;
    if (a.kind() == BlockKind::data ? data && a.place() == b.place() : !data) continue;
    const std::uint64_t offset = (first_block(index).value() + block) * kBlockBytes;
    if (offset >= size) break;
    static_cast<void>(
        joiner.add(offset, std::min(kBlockBytes, size - offset), data ? DiffState::data : DiffState::hole));
  }
  static_cast<void>(joiner.flush());
  return found;
}

} // namespace vsnap
