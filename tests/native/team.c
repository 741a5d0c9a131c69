/* Encodes texts with a team of three threads, then by three threads that share nothing but the model, then with a crew, in
   memory that nobody wrote to before; prints a digest of the vectors' bits. For the sanitizers of threads and of memory.

     team ISA PACK PLAN BATCH          the files are driver.c's */

#include "embakery.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 3, CREW_CALLS = 6 };

struct file { unsigned char *bytes; size_t size; };

struct call {
  const struct embk_model *model;
  struct embk_batch batch;
  int32_t kind, rank, team, status;
  float *output;
  size_t bytes;
  void *workspace;
  uint64_t room;
};

static void *allocate(size_t bytes) {
  void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
  if (!memory) exit(2);
  return memory;
}

static struct file read_file(const char *path) {
  FILE *f = fopen(path, "rb");
  if (!f) exit(2);
  fseek(f, 0, SEEK_END);
  struct file file = {0, (size_t)ftell(f)};
  rewind(f);
  file.bytes = allocate(file.size);
  if (fread(file.bytes, 1, file.size, f) != file.size) exit(2);
  fclose(f);
  return file;
}

static struct embk_model *open_model(char **arguments) {
  const struct file pack = read_file(arguments[2]), plan = read_file(arguments[3]);
  const size_t start = sizeof(struct embk_shape);
  struct embk_model *model;
  const int status = embk_open(pack.bytes, pack.size, (const struct embk_shape *)plan.bytes, start,
                               (const uint64_t *)(plan.bytes + start), (plan.size - start) / 8, arguments[1], &model);
  if (status) exit(printf("embk_open: %d; this machine has %s\n", status, embk_isas()));
  return model;
}

static struct call make_call(const struct embk_model *model, const struct file *file, const struct file *plan) {
  const int32_t *head = (const int32_t *)file->bytes;
  const int32_t hidden = ((const struct embk_shape *)plan->bytes)->hidden;
  struct call call = {.model = model, .batch = {head + 3 + head[0], 0, head + 3, head[0], head[1]}, .kind = head[2]};
  const int32_t rows = head[2] ? head[1] : head[0], columns = head[2] ? hidden : embk_dimension(model);
  call.bytes = (size_t)rows * (size_t)columns * sizeof(float);
  return call;
}

static void *run(void *argument) {
  struct call *c = argument;
  c->status = embk_encode(c->model, &c->batch, c->kind, c->output, c->bytes, c->workspace, c->room, c->rank, c->team);
  return 0;
}

static void run_threads(struct call calls[THREADS]) {
  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; i++)
    if (pthread_create(&threads[i], 0, run, &calls[i])) exit(2);
  for (int i = 0; i < THREADS; i++) pthread_join(threads[i], 0);
  for (int i = 0; i < THREADS; i++)
    if (calls[i].status) exit(printf("embk_encode: %d\n", calls[i].status));
}

/* Room for one call, that so many threads share. */
static void provide(struct call *call, int32_t team) {
  call->team = team;
  call->room = embk_workspace_bytes(call->model, call->batch.tokens, team);
  call->workspace = allocate(call->room);
  call->output = allocate(call->bytes);
}

static void *join(void *crew) {
  embk_crew_join(crew);
  return 0;
}

/* Call after call, while the others are still joining, and at last the crew is dismissed. */
static void run_crew(struct call *c) {
  struct embk_crew *crew = embk_crew_new(THREADS - 1);
  pthread_t threads[THREADS - 1];
  if (!crew) exit(2);
  for (int i = 0; i < THREADS - 1; i++)
    if (pthread_create(&threads[i], 0, join, crew)) exit(2);
  for (int i = 0; i < CREW_CALLS; i++) {
    c->status = embk_crew_encode(crew, c->model, &c->batch, c->kind, c->output, c->bytes, c->workspace, c->room);
    if (c->status) exit(printf("embk_crew_encode: %d\n", c->status));
  }
  embk_crew_dismiss(crew);
  for (int i = 0; i < THREADS - 1; i++) pthread_join(threads[i], 0);
}

int main(int count, char **arguments) {
  if (count != 5) return 2;
  struct embk_model *model = open_model(arguments);
  const struct file plan = read_file(arguments[3]), batch = read_file(arguments[4]);
  struct call shared = make_call(model, &batch, &plan), crew = shared, team[THREADS], apart[THREADS];
  provide(&shared, THREADS);
  provide(&crew, THREADS);
  memset(shared.workspace, 0, 64);
  for (int i = 0; i < THREADS; i++) {
    team[i] = apart[i] = shared;
    team[i].rank = i;
    provide(&apart[i], 1);
  }
  run_threads(team);
  run_threads(apart);
  run_crew(&crew);
  uint64_t digest = 14695981039346656037u; /* FNV-1a */
  for (size_t i = 0; i < shared.bytes; i++)
    digest = (digest ^ ((const unsigned char *)shared.output)[i]) * 1099511628211u;
  for (int i = 0; i < THREADS; i++)
    if (memcmp(apart[i].output, shared.output, shared.bytes)) return printf("thread %d has other bits\n", i), 1;
  if (memcmp(crew.output, shared.output, shared.bytes)) return printf("the crew has other bits\n"), 1;
  printf("%016llx\n", (unsigned long long)digest);
  embk_close(model);
  return 0;
}
