// Members that are missing: which are left out, and what stands in their place. And the flag that says what
// may be done without them (invariant 9).
#include <fmt/format.h>
#include <algorithm>
#include <array>
#include <cerrno>

#include "core/assert.h"
#include "core/frozen_file.h"
#include "core/log.h"
#include "core/member_set.h"
#include "core/planted.h"

namespace vsnap {
namespace {

// Nothing is there, or what is there does not answer. Who may not open it, or finds it in use, has it.
bool says_gone(const Error& error) {
  constexpr std::array kGone = {ENOENT, ENOTDIR, ENXIO, ENODEV, ENOMEDIUM, EIO};
  return std::find(kGone.begin(), kGone.end(), error.errno_value) != kGone.end();
}

} // namespace

std::string MissingMember::text() const {
  return path.empty() ? fmt::format("member {}", index) : fmt::format("member {} ({})", index, path);
}

Result<bool> MemberSet::is_absent(const std::string& path, const Result<std::unique_ptr<File>>& opened) {
  if (!may_miss_) return false;
  const auto left_out = [&](std::string_view why) {
    log::warning("{}: left out: {}", path, why);
    return true;
  };
  if (!opened) return says_gone(opened.error()) && left_out(opened.error().message);
  const auto found = newest_superblock(**opened, path, nullptr);
  if (!found) {
    const bool other = found.error().kind == ErrorKind::not_found || found.error().kind == ErrorKind::damaged;
    return (other || found.error().errno_value == EIO) && left_out(found.error().message);
  }
  if (may_miss_->empty()) may_miss_ = to_string(found->pool_uuid);
  if (to_string(found->pool_uuid) != *may_miss_)
    return left_out(fmt::format("a member of pool {} ({})", found->pool_name, to_string(found->pool_uuid)));
  const std::uint64_t expected = found->roster[found->member_index].blocks * kBlockBytes;
  if ((*opened)->size_bytes() < expected)
    return left_out(fmt::format("cut short: expected {} bytes, found {}", expected, (*opened)->size_bytes()));
  return false;
}

// Every member keeps its bytes, whatever is done with the set from here on.
void MemberSet::freeze_without_missing(const std::vector<std::string>& paths) {
  const Superblock layout = this->layout();
  std::vector<std::string> gone; // paths at which no member was found
  for (const std::string& path : paths) {
    const bool there = std::any_of(slots_.begin(), slots_.end(),
                                   [&](const auto& slot) { return slot && slot->path == path; });
    if (!there) gone.push_back(path);
  }
  for (std::uint32_t index = 0; index < layout.roster.size(); ++index) {
    if (slots_[index]) continue;
    MissingMember missing{index, layout.roster[index].uuid, {}};
    // Members are listed in the order of their numbers, unless somebody gave them in another.
    auto at = index < paths.size() ? std::find(gone.begin(), gone.end(), paths[index]) : gone.end();
    if (at == gone.end()) at = gone.begin();
    if (at != gone.end()) {
      missing.path = *at;
      gone.erase(at);
    }
    log::warning("pool {}: {} is missing: uuid {}", layout.pool_name, missing.text(),
                 to_string(missing.uuid));
    missing_.push_back(std::move(missing));
  }
  if (missing_.empty()) return;
  for (std::uint32_t index = 0; index < layout.roster.size(); ++index) {
    if (slots_[index] && !planted(Fault::degraded_not_frozen))
      slots_[index]->file = std::make_unique<FrozenFile>(std::move(slots_[index]->file));
  }
  for (const MissingMember& missing : missing_) {
    slots_[missing.index] = make_slot(
        missing.path, std::make_unique<FrozenFile>(layout.roster[missing.index].blocks * kBlockBytes,
                                                   fmt::format("{} is missing", missing.text())));
  }
}

const MissingMember* MemberSet::missing_at(Place place) const {
  const auto found = std::find_if(missing_.begin(), missing_.end(), [&](const MissingMember& missing) {
    return missing.index == place.member();
  });
  return found == missing_.end() ? nullptr : &*found;
}

Result<> MemberSet::mark_closed() {
  if (count() == 1) return {}; // nobody can open it without that one
  MutexLock lock(layout_mutex_);
  Superblock changed = layout_;
  changed.flags |= format::kFlagClosed;
  closed_.store(true);
  return store_layout(std::move(changed));
}

Result<> MemberSet::mark_in_use() {
  if (!closed_.load() || planted(Fault::closed_while_in_use)) return {};
  MutexLock lock(layout_mutex_);
  if (!closed_.load()) return {};
  Superblock changed = layout_;
  changed.flags &= ~format::kFlagClosed;
  VSNAP_TRY(store_layout(std::move(changed)));
  closed_.store(false);
  return {};
}

} // namespace vsnap
