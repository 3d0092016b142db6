/* A volume that a joined host reads and writes through the coordinator of its pool, while others do the same.
 *
 * Stands for: sync/membership.h and sync/host_session.h (sessions, leases, requests that are asked again) and
 * what is built on them for I/O: sync/view_exports.h at the coordinator, sync/joined_pool.h at the host. One
 * block; one joined host that dies, loses its lease and comes back; the coordinator, that dies and comes
 * back; and `other`, whoever else has the volume open, whose own network does not matter here.
 *
 * The rules
 * 1. A write names the session and the number of the open under which it was asked. The coordinator carries
 *    it out if the session is the host's present one and the number is open in it, and once in a session.
 * 2. The lease ends at the host before it ends at the coordinator. When it does, what waits gets EIO and what
 *    was open is open no more; the link may still ask what it has asked, in the next session.
 * 3. A coordinator that was started anew knows of nothing that is open. A host whose lease still runs opens
 *    what it had again, under its numbers (reclaim), and asks again; nobody gets an error.
 * 4. An open waits until nothing is carried out any more for numbers that are open no more.
 * 5. A host's daemon that was killed is followed by one that knows none of its numbers: what programs have
 *    open it opens anew, and what they wait for it asks anew.
 * Messages get lost, come late, and come again: what was sent once may arrive at any time from then on.
 *
 * Checked
 * 1. A write of an open that has ended does not land after somebody who opened later has had a write
 *    answered.
 * 2. An answered write is not lost to who wrote it: it reads that or something later.
 *
 * Broken variants
 * NO_SESSION_CHECK  writes of any session are carried out
 * NO_NUMBER_CHECK   writes are carried out whether their number is open or not
 * NOT_ONCE          a write that comes again in its session is carried out again
 * KEPT_OPEN         what was open stays so in the next session, also where the lease had run out
 * NO_WAIT           an open does not wait for what is being carried out
 * EARLY_LAPSE       the lease ends at the coordinator before it does at the host
 *
 * Not promised, so that it "fails" as they do
 * NEVER_TWICE       a write lands once, or nothing else has landed in between. After the death of a daemon
 *                   what it had not answered yet is carried out again, and nobody knows whether it had been.
 */
#define SESSIONS 3 /* of the host */
#define OPENS 3
#define WRITES 2
#define EPOCHS 2
#define OTHER 10 /* what `other` writes */

#define AT(s, n, v) ((s) * (OPENS + 1) * (WRITES + 1) + (n) * (WRITES + 1) + (v))
#define OF(s, v) ((s) * (WRITES + 1) + (v))

/* The network */
bool sent[(SESSIONS + 1) * (OPENS + 1) * (WRITES + 1)]; /* writes, by session, number and value */
bool answer[(SESSIONS + 1) * (WRITES + 1)];             /* by session and value */

/* The coordinator */
byte epoch = 1;
byte session = 0;             /* of the host; 0: none */
byte last_session = 0;
bool open[OPENS + 1];         /* in that session, by number */
bool taken[WRITES + 1];       /* the same, of writes: being carried out, or answered */
byte running[OPENS + 1];      /* writes being carried out */

/* The host: its daemon, and the program on it */
bool lease = false;
byte host_session = 0;
byte number = 0;              /* of what the program has open; 0: the daemon has no number for it */
byte numbers = 0;
bool reopens = false;         /* it is to be opened again, in the session that began */
bool killed = false;
byte asked[WRITES + 1];       /* what the link asks until it is answered: by value, its number */
bool program = false;         /* has it open */
byte wanted = 0;              /* the write that it waits for */
byte written = 0;             /* writes so far */

/* The member */
byte block = 0;
byte block_number = 0;        /* the number under which that was written */

/* What is known to nobody */
byte newest = 0;              /* write that was answered to the program */
bool other_answered = false;
bool lapsed[OPENS + 1];       /* that number was open when a lease ended at the coordinator */
bool ended[OPENS + 1];        /* that number was open, and not any more when `other` opened */
bool landed[WRITES + 1];

#ifdef NO_SESSION_CHECK
#define ARRIVES(n, v) (sent[AT(1, n, v)] || sent[AT(2, n, v)] || sent[AT(3, n, v)])
#else
#define ARRIVES(n, v) (sent[AT(session, n, v)])
#endif
#ifdef NO_NUMBER_CHECK
#define IS_OPEN(n) true
#else
#define IS_OPEN(n) (open[n])
#endif
#ifdef NOT_ONCE
#define IS_NEW(v) true
#else
#define IS_NEW(v) (!taken[v])
#endif
#ifdef NO_WAIT
#define MAY_OPEN true
#else
#define IS_QUIET(n) (running[n] == 0 || open[n])
#define MAY_OPEN (IS_QUIET(1) && IS_QUIET(2) && IS_QUIET(3))
#endif
#ifdef EARLY_LAPSE
#define MAY_LAPSE (session != 0)
#else
#define MAY_LAPSE (session != 0 && !(lease && host_session == session))
#endif

inline forget_session() {
  session = 0;
  open[1] = false; open[2] = false; open[3] = false;
  taken[1] = false; taken[2] = false
}

#define TAKE(n, v) \
  atomic { session != 0 && ARRIVES(n, v) && IS_OPEN(n) && IS_NEW(v) -> \
           taken[v] = true; running[n]++; mine = epoch; session_of = session; what = v; under = n }

/* Carries out what arrives. */
active [2] proctype worker() {
  byte mine = 0;
  byte session_of = 0;
  byte what = 0;
  byte under = 0;
end:
  do
  :: TAKE(1, 1) -> goto land
  :: TAKE(2, 1) -> goto land
  :: TAKE(3, 1) -> goto land
  :: TAKE(1, 2) -> goto land
  :: TAKE(2, 2) -> goto land
  :: TAKE(3, 2) -> goto land
  od;
land:
  atomic {
    if
    :: mine == epoch ->
#ifdef NEVER_TWICE
       assert(!landed[what] || block == what);
#endif
       block = what; block_number = under; landed[what] = true
    :: else
    fi
  };
  atomic {
    if
    :: mine == epoch -> running[under]--; answer[OF(session_of, what)] = true
    :: else
    fi;
    mine = 0; session_of = 0; what = 0; under = 0
  };
  goto end
}

active proctype coordinator() {
end:
  do
  :: atomic { MAY_LAPSE ->
              lapsed[1] = lapsed[1] || open[1];
              lapsed[2] = lapsed[2] || open[2];
              lapsed[3] = lapsed[3] || open[3];
              forget_session() }
  :: atomic { epoch < EPOCHS -> /* killed, and another one */
              epoch++; forget_session(); running[1] = 0; running[2] = 0; running[3] = 0 }
  :: atomic { last_session < SESSIONS && (!lease || host_session != session) -> /* the host says Hello */
              forget_session(); last_session++; session = last_session }
  od
}

#define ASK(v) sent[AT(host_session, asked[v], v)] = sent[AT(host_session, asked[v], v)] || asked[v] != 0

active proctype host() {
end:
  do
  :: atomic { session != 0 && host_session != session -> /* Welcome */
              reopens = program && number != 0;
              lease = true; host_session = session;
              ASK(1); ASK(2) }
  :: atomic { lease -> /* it runs out */
              lease = false;
#ifndef KEPT_OPEN
              number = 0; program = false; wanted = 0 /* EIO */
#endif
            }
  :: atomic { !killed -> /* with its link and sessions, but not the program */
              killed = true; lease = false; host_session = last_session; number = 0; reopens = false;
              asked[1] = 0; asked[2] = 0 }
  :: atomic { lease && host_session == session && reopens && MAY_OPEN ->
              open[number] = true; reopens = false }
  :: atomic { lease && host_session == session && number == 0 && numbers < OPENS && MAY_OPEN ->
              program = true;
              numbers++; number = numbers; open[number] = true;
              if :: wanted != 0 -> asked[wanted] = number; ASK(wanted) :: else fi }
  :: atomic { lease && number != 0 && wanted == 0 && written < WRITES ->
              written++; wanted = written; asked[wanted] = number; ASK(wanted) }
  :: atomic { lease && wanted != 0 && asked[wanted] != 0 && answer[OF(host_session, wanted)] ->
              newest = wanted; asked[wanted] = 0; wanted = 0 }
  od
}

/* What the host may still reclaim from a coordinator that was started anew has not ended. */
#define HAS_ENDED(n) (n <= numbers && !open[n] && (lapsed[n] || !(lease && number == n)))

active proctype other() {
  atomic { MAY_OPEN -> ended[1] = HAS_ENDED(1); ended[2] = HAS_ENDED(2); ended[3] = HAS_ENDED(3) };
  atomic { block = OTHER; block_number = 0 };
  other_answered = true
}

active proctype readers() {
  atomic {
    assert(block == OTHER || block >= newest);
    assert(block == OTHER || !(other_answered && ended[block_number]))
  }
}
