/* The line that a snapshot of several volumes draws through writes that go on.
 *
 * Stands for: the gates of the branches of one snapshot (core/io_gate.h, Pool::snapshot()), each "writer"
 * being what writes to one branch; and for the same line between hosts that write by themselves, where
 * closing a gate is a message, PREPARE, and whether the line was drawn is a COMMIT or ABORT that may be lost:
 * the outcome is in the catalog then, for who asks.
 *
 * A write belongs to the number that its writer had when it began. One that is under way when the gate closes
 * may end later, but stays in the snapshot.
 *
 * Checked: of a line that was drawn, the snapshot is a cut. 1. A write that it misses was not answered before
 * one began that it has. 2. What begins after the line was drawn is not in it.
 *
 * Broken variants
 * NO_FREEZE   a writer says that its gate is closed, and goes on
 * UNILATERAL  a writer that waits too long opens its gate without having asked for the outcome
 */
#define WRITERS 2
#define WRITES 4

mtype = { PREPARE, QUIESCED, COMMIT, ABORT };
chan to_writer[WRITERS] = [2] of { mtype };
chan to_coordinator = [WRITERS] of { mtype };

byte outcome = 0;             /* in the catalog: 0 none yet, 1 the line is drawn, 2 it never will be */
byte begun = 0;               /* writes so far */
bool after_line[WRITES];      /* the number under which each began */
bool answered[WRITES];
bool precedes[WRITES*WRITES]; /* [i*WRITES+j]: i was answered before j began */

inline begin_write() {
  atomic {
    if
    :: begun < WRITES ->
       mine = begun; begun++; busy = true;
       after_line[mine] = number;
       assert(outcome != 1 || number);
       i = 0;
       do
       :: i < WRITES -> precedes[i*WRITES+mine] = answered[i]; i++
       :: else -> break
       od;
       i = 0
    :: else
    fi
  }
}

proctype writer(byte id) {
  bool number = false;
  bool closed = false;
  bool busy = false;
  byte mine = 0;
  byte i = 0;
  do
  :: !closed && !busy && begun < WRITES -> begin_write()
  :: busy -> atomic { answered[mine] = true; busy = false; mine = 0 }
  :: to_writer[id]?PREPARE ->
#ifndef NO_FREEZE
     closed = true;
#endif
     if
     :: to_coordinator!QUIESCED
     :: skip /* lost */
     fi
  :: to_writer[id]?COMMIT -> number = true; closed = false
  :: to_writer[id]?ABORT -> if :: !number -> closed = false :: else fi
  :: closed -> /* it has waited for long */
#ifdef UNILATERAL
     closed = false
#else
     if
     :: outcome == 1 -> number = true; closed = false
     :: outcome == 2 -> closed = false
     :: outcome == 0
     fi
#endif
  :: begun == WRITES && !busy && empty(to_writer[id]) -> break
  od
}

proctype coordinator() {
  byte closed = 0;
  byte i = 0;
  do
  :: i < WRITERS -> to_writer[i]!PREPARE; i++
  :: else -> break
  od;
  do
  :: to_coordinator?QUIESCED -> closed++; if :: closed == WRITERS -> outcome = 1; break :: else fi
  :: closed < WRITERS -> outcome = 2; break /* one of them took too long */
  od;
  i = 0;
  do
  :: i < WRITERS ->
     if
     :: nfull(to_writer[i]) && outcome == 1 -> to_writer[i]!COMMIT
     :: nfull(to_writer[i]) && outcome == 2 -> to_writer[i]!ABORT
     :: skip /* lost */
     fi;
     i++
  :: else -> break
  od
}

init {
  byte i = 0;
  byte j = 0;
  atomic { run writer(0); run writer(1); run coordinator() }
  (_nr_pr == 1);
  d_step {
    do
    :: i < WRITES ->
       j = 0;
       do
       :: j < WRITES ->
          assert(!(outcome == 1 && precedes[i*WRITES+j] && after_line[i] && !after_line[j]));
          j++
       :: else -> break
       od;
       i++
    :: else -> break
    od
  }
}
