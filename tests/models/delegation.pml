/* A volume that is delegated to a joined host, which overwrites it on the members by itself, while others want it.
 *
 * Stands for: core/delegation.h and sync/host_delegations.h at the coordinator, sync/direct_volumes.h and
 * sync/direct_volume.h at the host. One block, and the places that it gets; one host, whose writes to the member may
 * take as long as they like, as those of a host that stands still; the coordinator, that dies and comes back; and
 * `other`, whoever else opens the volume, at the coordinator.
 *
 * The rules
 * 1. The host overwrites the block in place while it has a delegation, of its present session, a lease, and a map
 *    that says that the place is the volume's own. It answers for a write that has landed if there still is a lease
 *    of which it was not told that it had run out.
 * 2. It returns a delegation when none of its writes is under way; in a new session it says first, under the same
 *    condition, that it has none at all.
 * 3. A delegation is in the catalog before the host hears of it, and until it is returned, or lost.
 * 4. `other` waits until it is neither held nor recalled. It is lost when the host's lease has run out at the
 *    coordinator; one that was found in the catalog, when no lease that the coordinator before has given can last any
 *    more, unless the host has a session by then.
 * 5. With the loss a line is drawn: the place is not the volume's own any more, and nothing else gets it. No snapshot
 *    is made until the host has said that nothing is under way.
 *
 * Checked
 * 1. What `other` has written is what it reads.
 * 2. What was answered to the host's program is there when `other` has opened the volume.
 * 3. A snapshot does not change.
 *
 * Broken variants
 * NO_LINE           a loss draws no line
 * NO_LOOK           a write that has landed is answered without a look at the lease
 * EARLY_RETURN      a delegation is returned while a write is under way
 * NO_ROW            it is not in the catalog
 * SNAPSHOT_OF_LOST  snapshots are made while one is lost
 * WINDOW_ONLY       what was found in the catalog is lost after that time even if the host has a session
 *
 * Not promised, so that it "fails" as they do
 * STABLE_READS      what `other` has read before it writes it reads again. A write of a host that was lost may land
 *                   in between: only a fence rules that out.
 */
#define SESSIONS 3 /* of the host */
#define GRANTS 2   /* delegations */
#define PLACES 4
#define WRITES 3   /* of the host */
#define OTHER 10   /* what `other` writes: from here on */

/* The member */
byte content[PLACES + 1];

/* The coordinator, and the catalog */
byte place = 1;
bool own = true;
byte places = 1;
byte row = 0;           /* the delegation that the catalog has */
byte grants = 0;
byte held = 0;          /* in memory; 0: none */
bool recalled = false;
bool found = false;     /* was found in the catalog by this process */
bool lost = false;      /* also in the catalog */
byte session = 0;       /* of the host; 0: none */
byte last_session = 0;
byte deaths = 0;
bool opened = false;    /* by `other` */

/* The network: what was sent may arrive at any time */
bool wanted[SESSIONS + 1];   /* a delegation, by session */
byte given[SESSIONS + 1];    /* the answer */
bool returned[GRANTS + 1];
bool none_here[SESSIONS + 1];
bool none_answered[SESSIONS + 1];

/* The host */
bool lease = false;
bool told = false;      /* its lease has run out, and it knows */
byte host_session = 0;
byte using = 0;
byte stopped = 0;       /* delegation that is to be returned */
byte known = 0;         /* place of the block that it may overwrite; 0: none */
byte writing = 0;       /* what is under way */
byte at = 0;
bool counts = false;    /* no lease that ended since it began, that the host knows of */
byte writes = 0;
byte newest = 0;        /* that was answered */

/* `other` */
byte wrote = 0;
byte snapshot = 0;      /* its place; 0: none */
byte seen = 0;

inline write_at_coordinator(v) {
  if
  :: !own && places < PLACES -> places++; place = places; own = true; content[place] = v; wrote = v
  :: own -> content[place] = v; wrote = v
  :: else
  fi
}

inline lose() {
#ifndef NO_LINE
  own = false;
#endif
  lost = true; held = 0; recalled = false; found = false
}

active proctype coordinator() {
end:
  do
  /* sessions */
  :: atomic { session == 0 && last_session < SESSIONS && !lease -> last_session++; session = last_session }
  :: atomic { session == 0 && last_session < SESSIONS && lease && deaths > 0 && found ->
              last_session++; session = last_session } /* with a lease of the reign before */
  :: atomic { session != 0 && !lease -> /* over here after it was over there */
              session = 0;
              if
              :: held != 0 -> lose()
              :: else
              fi }
  /* delegations */
  :: atomic { session != 0 && wanted[session] && given[session] == 0 && held == 0 && !opened && grants < GRANTS ->
              grants++; held = grants; recalled = false; found = false;
#ifndef NO_ROW
              row = grants;
#endif
              given[session] = grants }
  :: atomic { held != 0 && returned[held] -> held = 0; row = 0; recalled = false; found = false }
  :: atomic { lost && row != 0 && returned[row] -> lost = false; row = 0 }
  :: atomic { session != 0 && none_here[session] && !none_answered[session] ->
              held = 0; row = 0; lost = false; recalled = false; found = false; none_answered[session] = true }
  /* what was found, when the leases of the reign before are over: of a host without a session, or with one */
#ifdef WINDOW_ONLY
  :: atomic { found && held != 0 -> lose() }
#else
  :: atomic { found && held != 0 && session == 0 && !lease -> lose() }
#endif
  /* it dies, and comes back */
  :: atomic { deaths == 0 && !opened -> deaths++; session = 0; held = 0; recalled = false; found = false;
              if
              :: row != 0 && !lost -> held = row; recalled = true; found = true
              :: else
              fi }
  od
}

active proctype other() {
  atomic { held == 0 -> opened = true; wrote = content[place]; assert(newest == 0 || content[place] >= newest) }
end:
  do
  :: atomic { wrote < OTHER + 2 ->
              if
              :: wrote < OTHER -> write_at_coordinator(OTHER)
              :: else -> write_at_coordinator(wrote + 1)
              fi }
  :: atomic { wrote >= OTHER -> assert(content[place] == wrote) }
#ifdef SNAPSHOT_OF_LOST
  :: atomic { snapshot == 0 && opened -> snapshot = place; own = false; seen = content[place] }
#else
  :: atomic { snapshot == 0 && opened && !lost -> snapshot = place; own = false; seen = content[place] }
#endif
  :: atomic { snapshot != 0 -> assert(content[snapshot] == seen) }
#ifdef STABLE_READS
  :: atomic { wrote < OTHER -> assert(content[place] == wrote) }
#endif
  od
}

/* The wish of `other` reaches the coordinator first, and then the host. */
active proctype recall() {
  atomic { held != 0 -> recalled = true };
end:
  do
  :: atomic { recalled && using != 0 && using == held -> stopped = using; using = 0; known = 0 }
  od
}

#ifdef EARLY_RETURN
#define IS_DRAINED true
#else
#define IS_DRAINED (writing == 0)
#endif

active proctype host() {
end:
  do
  /* a session begins, with or without a lease of the one before */
  :: atomic { session != 0 && host_session < session && !(told == false && host_session != 0 && !lease) ->
              host_session = session; lease = true; told = false;
              if
              :: using != 0 -> stopped = using; using = 0; known = 0
              :: else
              fi }
  /* the lease runs out; the host, which may stand still, notices later */
  :: atomic { lease -> lease = false }
  :: atomic { !lease && host_session != 0 && !told ->
              told = true; counts = false;
              if
              :: using != 0 -> stopped = using; using = 0; known = 0
              :: else
              fi }
  :: atomic { stopped != 0 && IS_DRAINED -> returned[stopped] = true; stopped = 0 }
  :: atomic { host_session != 0 && !none_here[host_session] && using == 0 && IS_DRAINED ->
              none_here[host_session] = true }
  :: atomic { host_session != 0 && none_answered[host_session] && !wanted[host_session] ->
              wanted[host_session] = true }
  :: atomic { using == 0 && lease && host_session != 0 && none_answered[host_session] ->
              if
              :: given[host_session] != 0 && stopped == 0 && !returned[given[host_session]] ->
                 using = given[host_session]
              :: else
              fi }
  /* its map */
  :: atomic { using != 0 && known == 0 && held != 0 && own -> known = place }
  /* I/O */
  :: atomic { using != 0 && lease && known != 0 && writing == 0 && writes < WRITES ->
              writes++; writing = writes; at = known; counts = true }
  :: atomic { writing != 0 && at != 0 -> content[at] = writing; at = 0 }
  :: atomic { writing != 0 && at == 0 ->
              if
#ifdef NO_LOOK
              :: true -> newest = writing;
#else
              :: lease && counts -> newest = writing;
#endif
                 assert(!opened) /* or it was written past whoever has opened it */
              :: !(lease && counts)
              fi;
              writing = 0 }
  od
}
