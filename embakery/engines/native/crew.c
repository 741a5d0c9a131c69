/* Threads that wait for one call after another. They are the caller's own: this library starts none. */

#include "embakery.h"
#include "team.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct call {
  const struct embk_model *model;
  const struct embk_batch *batch;
  int32_t output_kind;
  float *output;
  uint64_t output_bytes;
  void *workspace;
  uint64_t workspace_bytes;
  int32_t team;
};

/* `came` holds a call's number above, and below how many helpers it has, and whether it takes no more. */
#define CLOSED 0x80000000u
#define OF_CALL(number) ((uint64_t)(number) << 32)
/* How long a call waits for helpers to come: some thirtieth of the time that it takes alone. One that sleeps may be
   late, or have been put on this thread's own core, where it cannot begin before this one pauses. */
#define SPINS_A_TOKEN 40
/* How long a helper stays awake for the next call, a tenth of a millisecond. */
#define SPINS_FOR_A_CALL 2000

struct embk_crew {
  pthread_mutex_t lock;
  pthread_cond_t work;
  _Atomic uint32_t calls;    /* raised for each call, after `call` was written */
  _Atomic uint64_t came;
  _Atomic uint32_t begun;    /* the number of the call whose team is complete */
  _Atomic uint32_t finished; /* of the current call's helpers */
  _Atomic int dismissed;
  int size; /* of the largest team: those that were announced, and the owner */
  int joined, asleep, holders; /* under the lock; holders: those announced that have not left, and the owner */
  struct call call;
};

struct embk_crew *embk_crew_new(int32_t threads) {
  if (threads < 1 || threads >= MOST_THREADS) return 0;
  struct embk_crew *crew = calloc(1, sizeof *crew);
  if (!crew) return 0;
  pthread_mutex_init(&crew->lock, 0);
  pthread_cond_init(&crew->work, 0);
  crew->size = crew->holders = threads + 1;
  return crew;
}

/* Called with the lock, which it gives back. */
static void let_go(struct embk_crew *crew) {
  const int holders = --crew->holders;
  pthread_mutex_unlock(&crew->lock);
  if (holders) return;
  pthread_cond_destroy(&crew->work);
  pthread_mutex_destroy(&crew->lock);
  free(crew);
}

static void wait_for_call(struct embk_crew *crew, uint32_t seen) {
  for (int spins = 0; spins < SPINS_FOR_A_CALL; spins++) {
    if (atomic_load_explicit(&crew->calls, memory_order_acquire) != seen || atomic_load(&crew->dismissed)) return;
    spin_pause();
  }
  pthread_mutex_lock(&crew->lock);
  crew->asleep++;
  while (atomic_load(&crew->calls) == seen && !atomic_load(&crew->dismissed))
    pthread_cond_wait(&crew->work, &crew->lock);
  crew->asleep--;
  pthread_mutex_unlock(&crew->lock);
}

static int32_t take_part(const struct call *c, int rank) {
  return embk_encode(c->model, c->batch, c->output_kind, c->output, c->output_bytes, c->workspace, c->workspace_bytes,
                     rank, c->team);
}

/* Takes part in a call, if it is still open. */
static void help(struct embk_crew *crew, uint32_t number) {
  uint64_t came = atomic_load(&crew->came);
  do {
    if (came >> 32 != number || (came & CLOSED)) return;
  } while (!atomic_compare_exchange_weak(&crew->came, &came, came + 1));
  const uint32_t rank = (uint32_t)came + 1;
  for (int turns = 0; atomic_load_explicit(&crew->begun, memory_order_acquire) != number; turns++) linger(turns);
  take_part(&crew->call, (int)rank);
  atomic_fetch_add_explicit(&crew->finished, 1, memory_order_release);
}

void embk_crew_join(struct embk_crew *crew) {
  if (!crew) return;
  pthread_mutex_lock(&crew->lock);
  crew->joined++;
  uint32_t seen = atomic_load(&crew->calls);
  pthread_mutex_unlock(&crew->lock);
  for (;;) {
    wait_for_call(crew, seen);
    if (atomic_load(&crew->dismissed)) break;
    seen = atomic_load_explicit(&crew->calls, memory_order_acquire);
    help(crew, seen);
  }
  pthread_mutex_lock(&crew->lock);
  let_go(crew);
}

void embk_crew_dismiss(struct embk_crew *crew) {
  if (!crew) return;
  pthread_mutex_lock(&crew->lock);
  atomic_store(&crew->dismissed, 1);
  pthread_cond_broadcast(&crew->work);
  let_go(crew);
}

/* Calls the helpers, closes the call and says how many came. */
static uint32_t gather(struct embk_crew *crew, int patience) {
  pthread_mutex_lock(&crew->lock);
  const uint32_t joined = (uint32_t)crew->joined;
  atomic_store(&crew->finished, 0);
  const uint32_t number = atomic_load(&crew->calls) + 1;
  atomic_store(&crew->came, OF_CALL(number));
  atomic_store_explicit(&crew->calls, number, memory_order_release);
  if (crew->asleep) pthread_cond_broadcast(&crew->work);
  pthread_mutex_unlock(&crew->lock);
  for (int spins = 0; spins < patience && atomic_load(&crew->came) < OF_CALL(number) + joined; spins++) spin_pause();
  const uint32_t helpers = (uint32_t)atomic_fetch_or(&crew->came, CLOSED);
  crew->call.team = (int32_t)helpers + 1;
  atomic_store_explicit(&crew->begun, number, memory_order_release);
  return helpers;
}

int32_t embk_crew_encode(struct embk_crew *crew, const struct embk_model *model, const struct embk_batch *batch,
                         int32_t output_kind, float *output, uint64_t output_bytes, void *workspace,
                         uint64_t workspace_bytes) {
  if (!crew || !batch || !workspace || workspace_bytes < sizeof(struct team)) return EMBK_BAD_INPUT;
  /* What is refused must not depend on who comes: the workspace must do for all. */
  if (workspace_bytes < embk_workspace_bytes(model, batch->tokens, crew->size))
    return embk_encode(model, batch, output_kind, output, output_bytes, workspace, workspace_bytes, 0, crew->size);
  memset(workspace, 0, 64);
  crew->call = (struct call){model, batch, output_kind, output, output_bytes, workspace, workspace_bytes, 1};
  const int32_t tokens = batch->tokens < 0 ? 0 : batch->tokens < 512 ? batch->tokens : 512;
  const uint32_t helpers = gather(crew, SPINS_A_TOKEN * tokens);
  const int32_t status = take_part(&crew->call, 0);
  /* Until the last has left, it may still look at the workspace. */
  for (int turns = 0; atomic_load_explicit(&crew->finished, memory_order_acquire) != helpers; turns++) linger(turns);
  return status;
}
