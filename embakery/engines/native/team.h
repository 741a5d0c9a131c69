/* Threads that share one call: who does which part, and where they wait for each other. */

#ifndef EMBK_TEAM_H
#define EMBK_TEAM_H

#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>

#define MOST_THREADS 64

/* At the start of the workspace. */
struct team {
  _Atomic uint32_t arrived, round;
  char apart[64 - 2 * sizeof(uint32_t)];
  uint64_t stage_ticks[8]; /* rank 0's, and only in a build with EMBK_PROFILE */
};

struct member {
  struct team *team;
  int rank, size;
};

struct share { int first, last; };

static inline struct share share_of(const struct member *m, int count) {
  return (struct share){(int)((int64_t)count * m->rank / m->size), (int)((int64_t)count * (m->rank + 1) / m->size)};
}

/* Spins for some microseconds, as long as the parts between two meetings take, then lets others run. */
#define SPINS 4000

static inline void spin_pause(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/* One turn of waiting. */
static inline void linger(int turns) {
  spin_pause();
  if (turns > SPINS) sched_yield();
}

static inline void meet(const struct member *m) {
  if (m->size == 1) return;
  const uint32_t round = atomic_load_explicit(&m->team->round, memory_order_acquire);
  if (atomic_fetch_add_explicit(&m->team->arrived, 1, memory_order_acq_rel) + 1 == (uint32_t)m->size) {
    atomic_store_explicit(&m->team->arrived, 0, memory_order_relaxed);
    atomic_store_explicit(&m->team->round, round + 1, memory_order_release);
    return;
  }
  for (int turns = 0; atomic_load_explicit(&m->team->round, memory_order_acquire) == round; turns++) linger(turns);
}

#ifdef EMBK_PROFILE
static inline uint64_t stage_start(void) { return __builtin_readcyclecounter(); }
static inline uint64_t stage_end(const struct member *m, int stage, uint64_t started) {
  const uint64_t now = __builtin_readcyclecounter();
  if (m->rank == 0) m->team->stage_ticks[stage] += now - started;
  return now;
}
#else
static inline uint64_t stage_start(void) { return 0; }
static inline uint64_t stage_end(const struct member *m, int stage, uint64_t started) {
  (void)m, (void)stage;
  return started;
}
#endif

#endif
