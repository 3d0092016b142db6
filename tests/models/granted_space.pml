/* Space that a joined host has been granted with a delegated volume, which it writes to before any map names it.
 *
 * Stands for: Pool::grant_space() and commit_blocks() at the coordinator (core/delegation.h, invariants 6 to 8), and
 * what sync/direct_volume.h does with them at the host; delegations as such are in delegation.pml. One block, whose
 * place at first (1) belongs to a snapshot; a grant of the places 2 and 3; place 4, which is free. `another` volume
 * of the coordinator takes any place that is free. The host's daemon, and the coordinator, die once each.
 *
 * The rules
 * 1. Granted places are in the catalog before the host hears of them. After a death of the coordinator those of them
 *    that no map names are taken, as left over.
 * 2. The host writes to the next granted place, remembers the change where it outlives its daemon, and answers. It
 *    hands the change over when that is asked for: an fsync is answered then, and the change is forgotten before
 *    anything else of the block is asked of the coordinator.
 * 3. The coordinator takes a change of a delegation that stands, from the session that is under way, and of a place
 *    that is left over; or one that it has taken already.
 * 4. A volume is returned, and given up in a new session, once nothing is to be handed over any more, by the daemon
 *    before as well.
 * 5. What is left over is free when the delegation has ended; of one that is lost, when its host has said so.
 *
 * Checked
 * 1. What was answered to the host's program is there when `other` opens a volume that was returned; and what was
 *    confirmed by an fsync is, also where it was lost.
 * 2. What `other` has written is what it reads.
 * 3. Nothing that the host writes changes `another` volume.
 *
 * Broken variants
 * GRANT_NOT_DURABLE      a grant is not in the catalog
 * COMMIT_NOT_DURABLE     a change that was handed over is confirmed before it is in the catalog
 * LATE_COMMIT            a change of a delegation that was lost is taken
 * LEFT_OVER_FREED        what is left over is free as soon as the delegation is lost
 * RETURN_BEFORE_COMMIT   a volume is returned before all is handed over
 * KILLED_FORGETS         what a daemon had not handed over when it was killed is given up
 * NOT_FORGOTTEN          what was handed over is not forgotten, and is handed over again by the next daemon
 */
#define SESSIONS 3 /* of the host */
#define WRITES 4   /* of the host; a discard counts as one */
#define OTHER 20   /* what `other` writes: from here on */
#define ANOTHER 40

/* The member */
byte content[5];
byte hole = 0;          /* what the discarded block stands for: when it was discarded */
#define VALUE(p) ((p) == 0 -> hole : content[p])

/* The coordinator, and the catalog */
byte map = 1;
byte catalog_map = 1;
bool catalog_granted = false;
bool left[5];           /* over */
bool row = true;        /* the delegation */
bool held = true;
bool found = false;     /* was found in the catalog by this process */
bool lost = false;
bool was_lost = false;
byte kept = 0;          /* by the snapshot of what was lost */
byte session = 1;       /* of the host; 0: none */
byte last_session = 1;
byte deaths = 0;
bool opened = false;

/* The network */
bool answered_grant = false;
byte commit = 0;        /* a place */
byte commit_session = 0;
byte taken = 0;         /* the answer: 1 yes, 2 no */
byte discard = 0;       /* 1 asked for, 2 done, 3 refused */
byte discard_session = 0;
bool returned = false;
bool none_here[SESSIONS + 1];

/* The host */
bool lease = true;
bool told = false;      /* its lease has run out, and it knows */
byte host_session = 1;
bool using = true;
bool stopped = false;   /* it is to be returned */
bool killed = false;
bool has_space = false;
byte next = 2;
byte known = 0;         /* place that the block has for the host itself */
byte pending = 0;       /* to be handed over */
byte memory = 0;        /* the same, outlives the daemon */
byte value = 0;         /* of what is being handed over */
byte writing = 0;
byte at = 0;
bool counts = false;
byte writes = 0;
byte newest = 0;        /* that was answered */
byte synced = 0;        /* that was confirmed */

/* Others */
byte wrote = 0;
byte another = 0;       /* its place */

#define IS_FREE(p) ((p) != map && (p) != kept && (p) != another && !left[p])

inline end_delegation() {
  held = false; row = false; found = false; lost = false; kept = 0;
  left[2] = false; left[3] = false; catalog_granted = false
}

active proctype coordinator() {
end:
  do
  /* sessions */
  :: atomic { session == 0 && last_session < SESSIONS && (!lease || found || killed) ->
              last_session++; session = last_session }
  :: atomic { session != 0 && !lease ->
              session = 0;
              if
              :: held ->
                 lost = true; was_lost = true; held = false; found = false; kept = map;
#ifdef LEFT_OVER_FREED
                 left[2] = false; left[3] = false; catalog_granted = false
#endif
              :: else
              fi }
  :: atomic { session != 0 && killed && host_session < session && last_session == session && last_session < SESSIONS ->
              last_session++; session = last_session } /* the next process greets */
  /* what was found, when the leases of the reign before are over */
  :: atomic { found && held && session == 0 && !lease ->
              lost = true; was_lost = true; held = false; found = false; kept = map;
#ifdef LEFT_OVER_FREED
              left[2] = false; left[3] = false; catalog_granted = false
#endif
            }
  /* space */
  :: atomic { session != 0 && held && using && session == host_session && !catalog_granted && !answered_grant &&
              IS_FREE(2) && IS_FREE(3) ->
              left[2] = true; left[3] = true; answered_grant = true;
#ifndef GRANT_NOT_DURABLE
              catalog_granted = true
#endif
            }
  :: atomic { commit != 0 && taken == 0 && commit_session == session && session != 0 ->
              if
#ifdef LATE_COMMIT
              :: (held || lost) && left[commit] -> map = commit; left[commit] = false; taken = 1
#else
              :: held && left[commit] -> map = commit; left[commit] = false; taken = 1
#endif
              :: held && !left[commit] && map == commit -> taken = 1
              :: else -> taken = 2
              fi;
#ifndef COMMIT_NOT_DURABLE
              catalog_map = map
#endif
            }
#ifdef COMMIT_NOT_DURABLE
  :: atomic { catalog_map != map -> catalog_map = map }
#endif
  :: atomic { discard == 1 ->
              if
              :: held && discard_session == session && session != 0 && writes < WRITES ->
                 writes++; hole = writes; map = 0; catalog_map = 0; discard = 2
              :: else -> discard = 3
              fi }
  /* the end */
  :: atomic { returned && (held || lost) -> end_delegation() }
  :: atomic { session != 0 && none_here[session] && (held || lost) -> end_delegation() }
  /* it dies, and comes back */
  :: atomic { deaths == 0 && !opened ->
              deaths++; session = 0; map = catalog_map; held = row && !lost; found = held;
              left[2] = catalog_granted && map != 2 && another != 2 && kept != 2;
              left[3] = catalog_granted && map != 3 && another != 3 && kept != 3 }
  od
}

active proctype other() {
  atomic { !held -> opened = true; wrote = VALUE(map);
           assert(VALUE(map) >= synced); assert(was_lost || VALUE(map) >= newest) }
end:
  do
  :: atomic { wrote < OTHER && lost && map != 4 && IS_FREE(4) -> map = 4; wrote = OTHER; content[4] = wrote }
  :: atomic { wrote < OTHER && lost && map != 2 && IS_FREE(2) -> map = 2; wrote = OTHER; content[2] = wrote }
  :: atomic { wrote >= OTHER -> assert(VALUE(map) == wrote) }
  od
}

active proctype anybody() {
  atomic { if
           :: IS_FREE(2) -> another = 2
           :: IS_FREE(3) -> another = 3
           :: IS_FREE(4) -> another = 4
           fi;
           content[another] = ANOTHER };
end:
  do
  :: assert(content[another] == ANOTHER)
  od
}

#define IS_IDLE (writing == 0 && discard == 0)
#ifdef RETURN_BEFORE_COMMIT
#define IS_HANDED_OVER true
#else
#define IS_HANDED_OVER (pending == 0 && commit == 0)
#endif

active proctype host() {
end:
  do
  /* sessions */
  :: atomic { session != 0 && host_session < session && (told || killed || lease) ->
              host_session = session; lease = true; told = false; killed = false; stopped = using || stopped;
              using = false; commit = 0; taken = 0 }
  :: atomic { lease -> lease = false }
  :: atomic { !lease && !told -> told = true; counts = false; stopped = using || stopped; using = false }
  :: atomic { using && !opened -> stopped = true; using = false } /* recalled */
  :: atomic { stopped && IS_IDLE && IS_HANDED_OVER && host_session == session -> returned = true; stopped = false }
  :: atomic { host_session > 1 && session == host_session && !none_here[host_session] && !using && IS_IDLE &&
              IS_HANDED_OVER -> none_here[host_session] = true; stopped = false }
  /* its daemon is killed */
  :: atomic { !killed && host_session == 1 && lease ->
              killed = true; using = false; stopped = false; has_space = false; known = 0; writing = 0; at = 0;
              discard = 0; taken = 0; commit = 0; pending = memory;
#ifdef KILLED_FORGETS
              pending = 0; memory = 0
#endif
            }
  /* I/O */
  :: atomic { answered_grant && using -> has_space = true; answered_grant = false }
  :: atomic { using && lease && IS_IDLE && writes < WRITES && known != 0 ->
              writes++; writing = writes; at = known; counts = true }
  :: atomic { using && lease && IS_IDLE && writes < WRITES && known == 0 && has_space && next < 4 ->
              writes++; writing = writes; at = next; next++; counts = true }
  :: atomic { writing != 0 && at != 0 && content[at] < writing || at != 0 && writing != 0 && content[at] >= OTHER ->
              content[at] = writing;
              if
              :: known != at && counts && lease -> known = at; pending = at; memory = at
              :: else
              fi;
              at = 0 }
  :: atomic { writing != 0 && at == 0 ->
              if
              :: lease && counts -> newest = writing
              :: !(lease && counts)
              fi;
              writing = 0 }
  /* handing over: what has landed by now */
  :: atomic { pending != 0 && commit == 0 && IS_IDLE && host_session == session && !killed ->
              commit = pending; commit_session = host_session; value = newest; taken = 0 }
  :: atomic { commit != 0 && taken == 1 ->
              if
              :: value > synced -> synced = value
              :: else
              fi;
              pending = 0; commit = 0; taken = 0;
#ifndef NOT_FORGOTTEN
              memory = 0
#endif
            }
  :: atomic { commit != 0 && taken == 2 -> pending = 0; commit = 0; taken = 0; memory = 0 } /* EIO */
  /* what the coordinator is asked for */
  :: atomic { using && lease && IS_IDLE && pending == 0 && commit == 0 && known != 0 && writes < WRITES ->
              discard = 1; discard_session = host_session; known = 0 }
  :: atomic { discard == 2 -> newest = hole; synced = hole; discard = 0 }
  :: atomic { discard == 3 -> discard = 0 }
  od
}
