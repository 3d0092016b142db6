// Faults that can be planted, to see that the tests find them: a harness that has never caught a bug proves
// nothing. Only the library of tests/core/planted.py is compiled with VSNAP_PLANTED_FAULTS; everywhere else
// planted() is a constant and nothing of a fault is left in the program.
//
// Each stands where the right thing is done, as in: if (!planted(Fault::x)) do_it(). VSNAP_PLANT names the
// one that is on in a process. Threads: any.
#pragma once

namespace vsnap {

enum class Fault {
  frame_not_durable,      // a frame of the journal is written, but not synchronously
  frame_unsealed,         // replay does not look at a frame's checksum
  frame_overwritten,      // the ring goes round over frames that the catalog does not have
  lost_wakeup,            // who waits for another's frame is not woken
  sync_without_flush,     // the frame before the data
  commit_without_flush,   // the catalog before the data
  applied_before_rows,    // the number of the last record is durable before its rows
  undo_forgotten,         // a transaction that was undone leaves its places in the allocator's books
  snapshot_without_frame, // a snapshot's row, and not the records before its line
  snapshot_kept_half,     // records from beyond a line that was not confirmed keep their version
  replay_takes_no_places, // what the journal names can be given away again
  replay_skips_sizes,
  one_superblock,        // both copies are the same one
  flush_error_forgotten, // an fsync that failed can be tried again
  write_not_counted,     // a flush finds nothing to do
  merge_forgotten,       // a block that is written in part loses the rest
  own_not_refreshed,     // the first write after a snapshot goes into the snapshot's block
  discard_unrecorded,    // only the map in memory knows of it
  end_not_zeroed,        // what lay behind the end comes back when a volume grows
  read_error_as_zeros,
  write_error_ignored,
  tail_of_other_boot,
  tail_of_other_token,
  tail_not_ended,            // what one process brought to the catalog is brought again by the next
  tail_last_stays,           // the segment does not say how far its records go
  copy_not_written,          // a checkpoint leaves the copy of the catalog as it was
  pair_entry_unlocked,       // an entry of a second image is made while the first is written to
  pair_read_unlocked,        // a second image reads what an entry named a moment ago
  lost_places_forgotten,     // after a failed flush everything is read as if nothing were lost
  short_read_whole,          // a system call that read a part is taken to have read all
  short_write_whole,         // the same of one that wrote
  short_ring_read_whole,     // the same of io_uring
  flag_in_old_copy,          // "needs check" goes into copies that do not count any more
  wait_by_wall_clock,        // a jump of the clock ends a wait for a lock, or makes it long
  piece_not_flushed,         // the rows of a copy before its data
  copy_ends_early,           // a copy is taken for whole after its first piece
  copy_of_old_line,          // a copy is begun before the catalog has what it is to preserve
  saved_without_flush,       // a copy-out's record before the saved content
  copy_not_compared,         // replay takes a copy-out for one whose copy is there
  image_not_flushed,         // an fsync of an adopted volume leaves its image out
  overwritten_before_record, // the image is changed while nothing durable says where the old content is
  base_read_once,            // a reader of the image does not ask again
  entry_not_switched,        // an open snapshot goes on reading the image
  load_without_saves,        // a map that is loaded knows nothing of what was saved lately
  degraded_not_frozen,       // what is opened without all members is recovered on the others
  closed_while_in_use,       // members say that the WAL is empty though it is not any more
  wal_done_without,          // a WAL on a missing member is taken for empty
  line_not_told,             // the catalog does not say what the newest snapshot needs
  covered_by_later,          // a child's row hides the parent's from views that are older than the row
  rollback_not_resumed,      // after a crash a rollback in place is left half done
  group_in_turn,             // snapshots of several volumes are taken one after another
  pause_not_woken,           // a write that waits for room hears of none
  counted_while_written,     // what is written while snapshots are counted counts twice, or not at all
  hold_not_kept,             // a held snapshot goes as any other
  lost_without_snapshot,     // a lost host's blocks are the head's own again at once
  exported_unsynced,         // a delegated volume's map is told before it is durable
  grant_not_durable,         // a host hears of places that no row has
  granted_not_taken,         // after a crash granted places are free
  commit_of_foreign_place,   // a host may name any place
  left_over_freed,           // what a lost host may still write to is given away
};

#ifdef VSNAP_PLANTED_FAULTS
[[nodiscard]] bool planted(Fault fault);
#else
[[nodiscard]] constexpr bool planted(Fault /*fault*/) { return false; }
#endif

} // namespace vsnap
