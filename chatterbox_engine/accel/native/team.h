// The threads of one call: they take pieces of work, and meet before they read what others have made.
//
// OpenMP starts them. Its own barriers soon let go of the core, and where another process wants it a step takes twenty
// times as long; here a thread that waits keeps it, and one that is through with its share takes from another's.

#include <immintrin.h>
#include <omp.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

enum { PATIENCE = 40000 }; // pauses, about 2 ms, before a thread offers its core: it may not have it back for longer

typedef struct {
  _Atomic int64_t taken; // pieces of this share
  char apart[56];        // a line of cache for each
} Share;

typedef struct {
  int64_t threads; // wanted; OpenMP may start fewer
  _Atomic int64_t arrived;
  Share *shares; // (rounds, threads)
} Team;

typedef struct {
  Team *team;
  int64_t me, present, round, meetings;
  int64_t from; // whose share is being taken
} Member;

// Room for so many rounds of work. Returns 0, or -1 where there is no memory. `disband` frees it.
static int gather(Team *team, int64_t threads, int64_t rounds) {
  team->threads = threads;
  atomic_init(&team->arrived, 0);
  team->shares = calloc(threads * rounds, sizeof(Share));
  return team->shares ? 0 : -1;
}

static void disband(Team *team) { free(team->shares); }

static inline Member join(Team *team) {
  int64_t me = omp_get_thread_num();
  return (Member){team, me, omp_get_num_threads(), 0, 0, me};
}

// The next of a round's `count` pieces, one's own share first; -1 where none is left, and the round is over.
static inline int64_t take(Member *own, int64_t count) {
  int64_t threads = own->team->threads;
  for (; own->from < own->me + threads; own->from++) {
    int64_t whose = own->from % threads;
    _Atomic int64_t *taken = &own->team->shares[own->round * threads + whose].taken;
    int64_t piece = whose * count / threads + atomic_fetch_add_explicit(taken, 1, memory_order_relaxed);
    if (piece < (whose + 1) * count / threads) return piece;
  }
  own->from = own->me;
  own->round++;
  return -1;
}

// Wait until every thread has come here.
static inline void meet(Member *own) {
  int64_t wanted = ++own->meetings * own->present;
  atomic_fetch_add_explicit(&own->team->arrived, 1, memory_order_acq_rel);
  for (int tries = 0; atomic_load_explicit(&own->team->arrived, memory_order_acquire) < wanted; tries++) {
    if (tries < PATIENCE) _mm_pause();
    else sched_yield();
  }
}
