#include "core/planted.h"

#ifdef VSNAP_PLANTED_FAULTS
#include <array>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "core/assert.h"

namespace vsnap {
namespace {

constexpr std::array kNames = {
    std::pair{Fault::frame_not_durable, "frame_not_durable"},
    std::pair{Fault::frame_unsealed, "frame_unsealed"},
    std::pair{Fault::frame_overwritten, "frame_overwritten"},
    std::pair{Fault::lost_wakeup, "lost_wakeup"},
    std::pair{Fault::sync_without_flush, "sync_without_flush"},
    std::pair{Fault::commit_without_flush, "commit_without_flush"},
    std::pair{Fault::applied_before_rows, "applied_before_rows"},
    std::pair{Fault::undo_forgotten, "undo_forgotten"},
    std::pair{Fault::snapshot_without_frame, "snapshot_without_frame"},
    std::pair{Fault::snapshot_kept_half, "snapshot_kept_half"},
    std::pair{Fault::replay_takes_no_places, "replay_takes_no_places"},
    std::pair{Fault::replay_skips_sizes, "replay_skips_sizes"},
    std::pair{Fault::one_superblock, "one_superblock"},
    std::pair{Fault::flush_error_forgotten, "flush_error_forgotten"},
    std::pair{Fault::write_not_counted, "write_not_counted"},
    std::pair{Fault::merge_forgotten, "merge_forgotten"},
    std::pair{Fault::own_not_refreshed, "own_not_refreshed"},
    std::pair{Fault::discard_unrecorded, "discard_unrecorded"},
    std::pair{Fault::end_not_zeroed, "end_not_zeroed"},
    std::pair{Fault::read_error_as_zeros, "read_error_as_zeros"},
    std::pair{Fault::write_error_ignored, "write_error_ignored"},
    std::pair{Fault::tail_of_other_boot, "tail_of_other_boot"},
    std::pair{Fault::tail_of_other_token, "tail_of_other_token"},
    std::pair{Fault::tail_not_ended, "tail_not_ended"},
    std::pair{Fault::tail_last_stays, "tail_last_stays"},
    std::pair{Fault::copy_not_written, "copy_not_written"},
    std::pair{Fault::pair_entry_unlocked, "pair_entry_unlocked"},
    std::pair{Fault::pair_read_unlocked, "pair_read_unlocked"},
    std::pair{Fault::saved_without_flush, "saved_without_flush"},
    std::pair{Fault::copy_not_compared, "copy_not_compared"},
    std::pair{Fault::image_not_flushed, "image_not_flushed"},
    std::pair{Fault::overwritten_before_record, "overwritten_before_record"},
    std::pair{Fault::base_read_once, "base_read_once"},
    std::pair{Fault::entry_not_switched, "entry_not_switched"},
    std::pair{Fault::load_without_saves, "load_without_saves"},
    std::pair{Fault::degraded_not_frozen, "degraded_not_frozen"},
    std::pair{Fault::closed_while_in_use, "closed_while_in_use"},
    std::pair{Fault::wal_done_without, "wal_done_without"},
    std::pair{Fault::line_not_told, "line_not_told"},
    std::pair{Fault::rollback_not_resumed, "rollback_not_resumed"},
    std::pair{Fault::group_in_turn, "group_in_turn"},
    std::pair{Fault::pause_not_woken, "pause_not_woken"},
    std::pair{Fault::counted_while_written, "counted_while_written"},
    std::pair{Fault::hold_not_kept, "hold_not_kept"},
    std::pair{Fault::lost_without_snapshot, "lost_without_snapshot"},
    std::pair{Fault::exported_unsynced, "exported_unsynced"},
    std::pair{Fault::grant_not_durable, "grant_not_durable"},
    std::pair{Fault::granted_not_taken, "granted_not_taken"},
    std::pair{Fault::commit_of_foreign_place, "commit_of_foreign_place"},
    std::pair{Fault::left_over_freed, "left_over_freed"},
    std::pair{Fault::lost_places_forgotten, "lost_places_forgotten"},
    std::pair{Fault::short_read_whole, "short_read_whole"},
    std::pair{Fault::short_write_whole, "short_write_whole"},
    std::pair{Fault::short_ring_read_whole, "short_ring_read_whole"},
    std::pair{Fault::flag_in_old_copy, "flag_in_old_copy"},
    std::pair{Fault::wait_by_wall_clock, "wait_by_wall_clock"},
    std::pair{Fault::piece_not_flushed, "piece_not_flushed"},
    std::pair{Fault::copy_ends_early, "copy_ends_early"},
    std::pair{Fault::copy_of_old_line, "copy_of_old_line"},
    std::pair{Fault::covered_by_later, "covered_by_later"},
};

int chosen() {
  const char* const name = std::getenv("VSNAP_PLANT");
  if (name == nullptr) return -1;
  for (const auto& [fault, known] : kNames) {
    if (std::string_view(name) == known) return static_cast<int>(fault);
  }
  VSNAP_ASSERT(!"VSNAP_PLANT names no fault");
  return -1;
}

} // namespace

bool planted(Fault fault) {
  static const int kChosen = chosen();
  return kChosen == static_cast<int>(fault);
}

} // namespace vsnap
#endif
