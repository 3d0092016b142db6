/* One block of an adopted image that is overwritten while a snapshot sees what it held, with a daemon that
 * dies.
 *
 * Stands for: core/copy_out.h, invariants 1 to 3, and core/pending_saves.h. `switched`: maps show the copy
 * and the head's entry is own; `durable`: so does the catalog, for who comes after a crash. What the snapshot
 * holds is 0.
 *
 * A writer saves the block under the range's lock, and may let go of it before the record is durable (where
 * the journal has no room); the next one finds the entry own and has to wait for the record all the same. A
 * reader of the snapshot takes no lock.
 *
 * Checked: whoever reads the snapshot reads 0, also after the crash.
 *
 * Broken variants
 * NO_SECOND_LOOK  the reader does not ask the map again after it has read the image
 * LATE_SWITCH     maps are switched after the image was overwritten
 * LATE_RECORD     the image is overwritten before the record is durable
 * NO_SETTLE       a writer that finds the entry own does not wait for the record
 */
#define WRITES 2
#define READS 2
#define LIVES 2

byte image = 0;
byte copy = 255; /* nothing that anybody may see */
bool switched = false;
bool durable = false;
bool locked = false;
byte life = 0; /* of the daemon */

/* One step of a process of that life; the others die. */
#define STEP(what) atomic { if :: life == mine -> what :: else -> goto died fi }

active [2] proctype writer() {
  byte mine;
  byte left = WRITES;
next:
  if :: left == 0 -> goto end :: else -> left-- fi;
  atomic { !locked -> locked = true; mine = life };
  if
  :: switched ->
#ifndef NO_SETTLE
     STEP(durable = true);
#endif
     skip
  :: else ->
     STEP(copy = image);
#ifdef LATE_SWITCH
     STEP(durable = true; image = image + 1);
     STEP(switched = true; locked = false);
     goto next;
#else
     STEP(switched = true);
     if
     :: STEP(locked = false); goto next /* no room in the journal: once more from the begin */
     :: skip
     fi;
#ifdef LATE_RECORD
     STEP(image = image + 1);
     STEP(durable = true; locked = false);
     goto next;
#else
     STEP(durable = true);
#endif
#endif
  fi;
  STEP(image = image + 1; locked = false);
  goto next;
died:
  goto next;
end:
  skip
}

active [2] proctype reader() {
  byte mine;
  byte left = READS;
  byte seen;
next:
  if :: left == 0 -> goto end :: else -> left-- fi;
  mine = life;
  if
  :: switched -> STEP(seen = copy)
  :: else ->
     STEP(seen = image);
#ifndef NO_SECOND_LOOK
     STEP(if :: switched -> seen = copy :: else fi);
#endif
     skip
  fi;
  STEP(assert(seen == 0));
  goto next;
died:
  goto next;
end:
  skip
}

active proctype crash() {
  do
  :: life < LIVES - 1 -> atomic { life++; locked = false; switched = durable }
  :: break
  od
}
