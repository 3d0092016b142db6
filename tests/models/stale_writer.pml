/* A host that wrote to the members by itself, was given up, and whose last write comes late.
 *
 * Stands for: why joined hosts write through the coordinator (remote_io.pml) and only read the members. It is
 * the rule for hosts that are to write them: between the check of a lease and the write the process can stand
 * still for any time, so what a lost host could write to is neither overwritten nor shown nor given away
 * until it is certain that nothing comes any more (`fenced`). For its reads the rule is the same, and in the
 * code: sync/view_exports.h, invariant 1, and Pool::keep_snapshots_for().
 *
 * The lost host may write 7 to the place `old`. Another host takes its volume over and writes 9, to a place
 * of its own; a snapshot of the volume is made, and a place that is free is given to another volume, which
 * writes 5.
 *
 * Checked: what was answered is read; a snapshot reads the same twice; the other volume reads what it wrote.
 *
 * Broken variants
 * IN_PLACE          the new owner overwrites where the lost host could write
 * SNAPSHOT_TAINTED  a snapshot is made of a place that the lost host could write
 * FREE_TAINTED      such a place is given away at once
 */
byte old = 0;
byte new = 0;
bool fenced = false; /* nothing comes from the lost host any more */
bool redirected = false;
bool answered = false;
bool snapped = false;
bool snapshot_has_old = false;

active proctype lost_host() {
  if :: old = 7 :: skip fi;
  fenced = true
}

active proctype new_owner() {
#ifdef IN_PLACE
  old = 9;
#else
  new = 9;
  redirected = true;
#endif
  answered = true
}

active proctype owner_reads() {
  byte seen;
  (answered);
  atomic { if :: redirected -> seen = new :: else -> seen = old fi };
  assert(seen == 9)
}

#ifndef IN_PLACE
active proctype snapshot() {
  byte first;
  byte second;
  atomic {
#ifndef SNAPSHOT_TAINTED
    (fenced || redirected) ->
#endif
    snapshot_has_old = !redirected; snapped = true
  };
  if :: snapshot_has_old -> first = old :: else -> first = new fi;
  if :: snapshot_has_old -> second = old :: else -> second = new fi;
  assert(first == second)
}

active proctype other_volume() {
  atomic {
    (redirected && snapped && !snapshot_has_old); /* nobody sees it any more */
#ifndef FREE_TAINTED
    (fenced);
#endif
    old = 5
  };
  assert(old == 5)
}
#endif
