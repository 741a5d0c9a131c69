/* What a fuzzer may find in the C interface. The first byte says how an input is read:

     a model       a small shape with tensors that fit it, random weights, a random batch: it must be encoded, by every
                   instruction set to the same bits, and a text alone to those that it has in its batch;
     a damaged one the same, then some numbers are changed: what is not refused must be encoded;
     bytes         shape, offsets, pack and batch as they come.

   All memory is as large as the interface says, and no larger; between the pack's tensors nothing may be read. */

#define _POSIX_C_SOURCE 200809L

#include "embakery.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__has_feature) && __has_feature(address_sanitizer)
#include <sanitizer/asan_interface.h>
#define FORBID(from, bytes) ASAN_POISON_MEMORY_REGION(from, bytes)
#else
#define FORBID(from, bytes) ((void)(from), (void)(bytes))
#endif
#if defined(__has_feature) && __has_feature(memory_sanitizer)
#include <sanitizer/msan_interface.h>
#define CHECK_WRITTEN(from, bytes) __msan_check_mem_is_initialized(from, bytes)
#else
#define CHECK_WRITTEN(from, bytes) ((void)(from), (void)(bytes))
#endif

enum { MOST_LAYERS = 2, MOST_TENSORS = EMBK_HEAD_OFFSETS + MOST_LAYERS * EMBK_LAYER_OFFSETS, MOST_TOKENS = 400 };

static void require(int holds, const char *what) {
  if (holds) return;
  fprintf(stderr, "fuzz_encode: %s\n", what);
  abort();
}

/* The input; behind its end there are zeros. */
struct input { const uint8_t *at; size_t left; };

static uint32_t take(struct input *in, int bytes) {
  uint32_t value = 0;
  for (; bytes-- && in->left; in->at++, in->left--) value = value << 8 | *in->at;
  return value;
}

static int32_t between(struct input *in, int32_t least, int32_t most) {
  const int32_t span = most - least + 1;
  return least + (int32_t)(take(in, span > 256 ? 2 : 1) % (uint32_t)span);
}

static uint64_t noise(uint64_t *state) {
  *state ^= *state << 13, *state ^= *state >> 7, *state ^= *state << 17;
  return *state * 0x2545F4914F6CDD1D;
}

static void *allocate(uint64_t bytes) {
  void *memory = 0;
  require(posix_memalign(&memory, 64, bytes ? bytes : 1) == 0, "no memory");
  return memory;
}

/* A tensor's bytes, and what it is filled with: whole numbers, or floats of around `middle`, `spread` to either side. */
struct tensor { uint64_t bytes; float middle, spread; };

struct made {
  struct embk_shape shape;
  struct tensor tensor[MOST_TENSORS + 2 * EMBK_MOST_STEPS];
  uint64_t *place[MOST_TENSORS + 2 * EMBK_MOST_STEPS]; /* where its offset is to stand */
  uint64_t offsets[MOST_TENSORS];
  int tensors, count;
  int is_wild; /* floats are any bits: then NaN goes through, which has no bits of its own */
  unsigned char *pack;
  uint64_t size;
};

static void add(struct made *m, uint64_t *place, int64_t rows, int64_t columns, float middle, float spread) {
  *place = 0;
  if (rows == 0 || columns == 0) return;
  m->tensor[m->tensors] = (struct tensor){(uint64_t)(rows * columns) * sizeof(float), middle, spread};
  m->place[m->tensors++] = place;
}

static void add_bytes(struct made *m, uint64_t *place, int64_t count) {
  add(m, place, count ? 1 : 0, count, 0.0f, 0.0f);
  if (count) m->tensor[m->tensors - 1].bytes = (uint64_t)count;
}

static int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

static void add_matrix(struct made *m, int64_t inputs, int64_t outputs) {
  const int64_t columns = inputs ? up(outputs, 64) : 0;
  uint64_t *at = m->offsets + m->count;
  m->count += EMBK_MATRIX_OFFSETS;
  add_bytes(m, at, up(inputs, 4) * columns);
  add(m, at + 1, 1, columns, 0.005f, 0.004f);
  add(m, at + 2, 1, columns, 0.0f, 0.5f);
  add_bytes(m, at + 3, 4 * columns);
  add(m, at + 4, 1, columns, 0.0f, 1.0f);
}

static void add_norm(struct made *m) {
  const int64_t columns = up(m->shape.hidden, 64);
  uint64_t *at = m->offsets + m->count;
  m->count += EMBK_NORM_OFFSETS;
  add(m, at, 1, columns, 1.0f, 0.5f);
  add(m, at + 1, 1, columns, 0.0f, 1.0f);
  add(m, at + 2, 1, columns, 1.0f, 0.5f);
}

static void add_layers(struct made *m) {
  const struct embk_shape *s = &m->shape;
  for (int layer = 0; layer < s->layers; layer++) {
    for (int i = 0; i < 4; i++) add_matrix(m, s->hidden, s->hidden);
    add_norm(m);
    add_matrix(m, s->hidden, s->intermediate);
    add_matrix(m, s->loud, s->hidden);
    add_matrix(m, s->intermediate - s->loud, s->hidden);
    add_norm(m);
  }
}

static void add_embeddings(struct made *m) {
  const struct embk_shape *s = &m->shape;
  add_bytes(m, m->offsets, (int64_t)s->vocabulary * s->hidden);
  add(m, m->offsets + 1, 1, s->vocabulary, 0.01f, 0.01f);
  add(m, m->offsets + 2, s->positions + (s->pad_token >= 0), s->hidden, 0.0f, 1.0f);
  add(m, m->offsets + 3, s->token_types, s->hidden, 0.0f, 1.0f);
  add(m, m->offsets + 4, s->farthest ? s->heads : 0, 2 * (int64_t)s->farthest + 1, 0.0f, 2.0f);
  m->count = 5;
  add_norm(m);
}

static void draw_steps(struct input *in, struct made *m) {
  struct embk_shape *s = &m->shape;
  int32_t size = s->hidden * s->poolings;
  for (int i = 0; i < s->steps; i++) {
    struct embk_step *step = &s->step[i];
    *step = (struct embk_step){between(in, 0, 3), between(in, 0, 6), size, size, 1e-5f, 0, 0, 0};
    if (step->kind == EMBK_DENSE) {
      size = step->outputs = between(in, 1, 90);
      add(m, &step->weight, step->outputs, step->inputs, 0.0f, 0.5f);
      add(m, &step->bias, between(in, 0, 1), step->outputs, 0.0f, 1.0f);
    } else if (step->kind == EMBK_LAYER_NORM) {
      add(m, &step->weight, 1, up(size, 64), 1.0f, 0.5f);
      add(m, &step->bias, 1, up(size, 64), 0.0f, 1.0f);
    }
  }
}

static void draw_shape(struct input *in, struct made *m) {
  static const int32_t head_sizes[] = {1, 3, 4, 8, 12, 16, 17, 26, 32, 33, 48, 64, 65, 96, 128, 130};
  struct embk_shape *s = &m->shape;
  const int32_t head_size = head_sizes[between(in, 0, 15)];
  s->heads = between(in, 1, head_size > 64 ? 2 : head_size > 32 ? 3 : 6);
  s->hidden = s->heads * head_size;
  s->layers = between(in, 1, MOST_LAYERS);
  s->intermediate = between(in, 1, 200);
  s->loud = between(in, 0, (s->intermediate - 1) / 64) * 64;
  s->activation = between(in, 0, 6);
  s->vocabulary = between(in, 1, 40);
  s->positions = between(in, 1, 100);
  s->token_types = between(in, 0, 3);
  s->pad_token = between(in, -1, s->vocabulary - 1);
  s->farthest = between(in, 0, 1) * between(in, 0, 40);
  s->eps = 1e-6f;
  s->poolings = between(in, 1, EMBK_MOST_POOLINGS);
  for (int i = 0; i < s->poolings; i++) s->pooling[i] = between(in, 0, 5);
  s->steps = between(in, 0, 1) * between(in, 0, 5);
}

static void fill(const struct made *m, const struct tensor *t, unsigned char *to, uint64_t *state) {
  if (t->spread == 0.0f || m->is_wild) {
    for (uint64_t i = 0; i < t->bytes; i += sizeof(uint64_t)) {
      const uint64_t bits = noise(state), left = t->bytes - i;
      memcpy(to + i, &bits, left < sizeof bits ? left : sizeof bits);
    }
    return;
  }
  for (uint64_t i = 0; i < t->bytes; i += sizeof(float)) {
    const float value = t->middle + t->spread * ((float)(noise(state) >> 40) / 8388608.0f - 1.0f);
    memcpy(to + i, &value, sizeof value);
  }
}

/* Any of the tensors may be the pack's last one. */
static void write_tensors(struct input *in, struct made *m) {
  const int first = between(in, 0, m->tensors - 1);
  uint64_t state = 0x9E3779B97F4A7C15 ^ take(in, 4), end = 64;
  for (int i = 0; i < m->tensors; i++) {
    const int t = (first + i) % m->tensors;
    *m->place[t] = end;
    m->size = end + m->tensor[t].bytes;
    end = (uint64_t)up((int64_t)m->size, 64) + 64;
  }
  m->pack = allocate(m->size);
  memset(m->pack, 0, m->size);
  for (int i = 0; i < m->tensors; i++) {
    const int t = (first + i) % m->tensors;
    const uint64_t at = *m->place[t], stop = at + m->tensor[t].bytes;
    fill(m, &m->tensor[t], m->pack + at, &state);
    if (stop < m->size) FORBID(m->pack + stop, *m->place[(t + 1) % m->tensors] - stop);
  }
}

static void make_model(struct input *in, struct made *m, int is_wild) {
  memset(m, 0, sizeof *m);
  m->is_wild = is_wild;
  draw_shape(in, m);
  add_embeddings(m);
  add_layers(m);
  draw_steps(in, m);
  write_tensors(in, m);
}

struct texts { struct embk_batch batch; int32_t *ids, *types, *lengths; };

static int32_t *numbers(int32_t count, uint64_t *state, int32_t below) {
  int32_t *to = malloc(sizeof *to * (size_t)count);
  require(to != 0, "no memory");
  for (int32_t i = 0; i < count; i++) to[i] = (int32_t)(noise(state) % (uint64_t)below);
  return to;
}

static struct texts draw_texts(struct input *in, const struct embk_shape *s) {
  struct texts t = {0};
  uint64_t state = 0x9E3779B97F4A7C15 ^ take(in, 2);
  t.batch.texts = between(in, 1, 6);
  t.lengths = numbers(t.batch.texts, &state, 1);
  const int32_t longest = s->positions < MOST_TOKENS / 6 ? s->positions : MOST_TOKENS / 6;
  for (int i = 0; i < t.batch.texts; i++) {
    t.lengths[i] = between(in, 1, between(in, 0, 3) && longest > 8 ? 8 : longest);
    t.batch.tokens += t.lengths[i];
  }
  t.ids = numbers(t.batch.tokens, &state, s->vocabulary);
  if (take(in, 1) % 2) t.types = numbers(t.batch.tokens, &state, s->token_types ? s->token_types : 1);
  t.batch.ids = t.ids;
  t.batch.types = t.types;
  t.batch.lengths = t.lengths;
  return t;
}

static void free_texts(struct texts *t) {
  free(t->ids);
  free(t->types);
  free(t->lengths);
}

static struct embk_model *open_model(const struct made *m, const char *isa, int32_t *status) {
  uint64_t *offsets = malloc(sizeof *offsets * (size_t)m->count + 1);
  struct embk_shape *shape = malloc(sizeof *shape);
  require(offsets && shape, "no memory");
  memcpy(offsets, m->offsets, sizeof *offsets * (size_t)m->count);
  *shape = m->shape;
  struct embk_model *model = (struct embk_model *)(uintptr_t)1;
  *status = embk_open(m->pack, m->size, shape, sizeof *shape, offsets, (uint64_t)m->count, isa, &model);
  free(offsets); /* embk_open keeps the pack and nothing else */
  free(shape);
  require(*status >= EMBK_OK && *status <= EMBK_BAD_ISA && (*status == EMBK_OK) == (model != 0), "embk_open's status");
  return model;
}

/* Returns the output, of `bytes`, to be freed. */
static float *encode(const struct embk_model *model, const struct embk_batch *batch, const struct embk_shape *s, int kind,
                     uint64_t *bytes) {
  const uint64_t room = embk_workspace_bytes(model, batch->tokens, 1);
  const int32_t rows = kind == EMBK_TOKENS ? batch->tokens : batch->texts;
  *bytes = sizeof(float) * (uint64_t)rows * (uint64_t)(kind == EMBK_TOKENS ? s->hidden : embk_dimension(model));
  float *output = malloc(*bytes);
  void *workspace = allocate(room);
  require(output && room, "no memory");
  require(embk_encode(model, batch, kind, output, *bytes, workspace, room, 0, 1) == EMBK_OK, "a right call is refused");
  CHECK_WRITTEN(output, *bytes);
  free(workspace);
  return output;
}

/* The last text alone gives what it gave in the batch. */
static void compare_alone(const struct embk_model *model, const struct texts *t, const struct embk_shape *s, int kind,
                          const float *output, uint64_t bytes) {
  const int32_t last = t->batch.texts - 1, length = t->lengths[last], start = t->batch.tokens - length;
  const struct embk_batch one = {t->ids + start, t->types ? t->types + start : 0, t->lengths + last, 1, length};
  uint64_t part;
  float *alone = encode(model, &one, s, kind, &part);
  require(memcmp(alone, (const char *)output + bytes - part, part) == 0, "alone a text has other bits than in its batch");
  free(alone);
}

struct isas { char names[128], *rest; };

/* Gives one name after another, and null behind the last. */
static const char *next_isa(struct isas *all) {
  if (!all->rest) {
    snprintf(all->names, sizeof all->names, "%s", embk_isas());
    all->rest = all->names;
  }
  char *name = all->rest, *comma = strchr(name, ',');
  if (comma) *comma = 0;
  all->rest = comma ? comma + 1 : name + strlen(name);
  return *name ? name : 0;
}

static int32_t outside(struct input *in, int32_t limit) {
  const int32_t wrong[] = {limit, -1, INT32_MAX, INT32_MIN};
  return wrong[between(in, 0, 3)];
}

/* Makes one mistake, or none, and returns the status that it is to get. */
static int32_t spoil(struct input *in, const struct embk_shape *s, struct texts *t) {
  const int32_t token = between(in, 0, t->batch.tokens - 1);
  int32_t *length = t->lengths + between(in, 0, t->batch.texts - 1);
  switch (between(in, 0, 4)) {
    case 0: t->ids[token] = outside(in, s->vocabulary); return EMBK_BAD_TOKEN;
    case 1:
      if (!t->types) return EMBK_OK;
      t->types[token] = outside(in, s->token_types ? s->token_types : 1);
      return EMBK_BAD_TOKEN;
    case 2: *length = between(in, 0, 1) * outside(in, s->positions + 1); return EMBK_BAD_LENGTH;
    case 3: return (*length)++ < s->positions ? EMBK_BAD_INPUT : EMBK_BAD_LENGTH;
    default: return EMBK_OK;
  }
}

static void misuse(struct input *in, const struct embk_model *model, const struct embk_shape *s, struct texts *t) {
  const uint64_t bytes = sizeof(float) * (uint64_t)t->batch.texts * (uint64_t)embk_dimension(model);
  const uint64_t room = embk_workspace_bytes(model, t->batch.tokens, 1), cut = (uint64_t)between(in, 0, 1);
  const uint64_t more = (uint64_t)between(in, 0, 1);
  int32_t expected = spoil(in, s, t);
  if (expected == EMBK_OK && more) expected = EMBK_BAD_OUTPUT;
  if ((expected == EMBK_OK || expected == EMBK_BAD_OUTPUT) && cut) expected = EMBK_BAD_WORKSPACE;
  float *output = malloc(bytes + more);
  void *workspace = allocate(room - cut);
  require(output != 0, "no memory");
  const int32_t status =
      embk_encode(model, &t->batch, EMBK_SENTENCES, output, bytes + more, workspace, room - cut, 0, 1);
  require(status == expected, "a wrong call gets another status");
  free(output);
  free(workspace);
}

static void run_everywhere(struct input *in, const struct made *m, struct texts *t, int kind) {
  struct isas all = {0};
  float *expected = 0;
  for (const char *isa; (isa = next_isa(&all));) {
    int32_t status;
    struct embk_model *model = open_model(m, isa, &status);
    require(status == EMBK_OK, "a right model is refused");
    uint64_t bytes;
    float *output = encode(model, &t->batch, &m->shape, kind, &bytes);
    if (!m->is_wild && expected) require(memcmp(output, expected, bytes) == 0, "instruction sets differ");
    if (!m->is_wild && !expected) compare_alone(model, t, &m->shape, kind, output, bytes);
    if (expected) free(output);
    if (!expected) expected = output;
    if (!*all.rest) misuse(in, model, &m->shape, t); /* at last: it spoils the texts */
    embk_close(model);
  }
  free(expected);
}

static int32_t odd_number(struct input *in) {
  static const int32_t odd[] = {0, 1, -1, 2, 3, 63, 64, 65, 127, 513, 8192, 65536, 1 << 20, 1 << 25, INT32_MAX, INT32_MIN};
  const int which = between(in, 0, 31);
  return which < 16 ? odd[which] : between(in, 0, 300);
}

/* One of the shape's numbers, or of its first four steps'. */
static void damage_shape(struct input *in, struct embk_shape *shape, int is_step) {
  const int before = (int)(offsetof(struct embk_shape, step) / sizeof(int32_t));
  const int field = is_step ? before + between(in, 0, 39) : between(in, 0, before - 1);
  const int32_t value = odd_number(in);
  memcpy((unsigned char *)shape + sizeof value * (size_t)field, &value, sizeof value);
}

static void damage(struct input *in, struct made *m) {
  const int where = between(in, 0, 5);
  if (where < 3) {
    damage_shape(in, &m->shape, where == 2);
  } else if (where == 3) {
    /* Anywhere, but mostly close before the end. */
    const uint64_t lines = m->size / 64 + 1, before = take(in, 1) % 4 ? take(in, 1) % 8 : take(in, 2);
    const uint64_t off_line = take(in, 1) % 8 ? 0 : (uint64_t)between(in, 0, 63);
    m->offsets[between(in, 0, m->count - 1)] = (lines - before % lines) * 64 + off_line;
  } else if (where == 4) {
    const int from = between(in, 0, m->count - 1);
    m->offsets[between(in, 0, m->count - 1)] = m->offsets[from];
  } else {
    m->count = between(in, 1, MOST_TENSORS);
  }
}

/* Without what is forbidden between tensors: a changed offset may well point there. */
static void damage_pack(struct input *in, struct made *m) {
  unsigned char *whole = m->pack;
  const uint64_t cut = take(in, 1) % 4 ? take(in, 1) : take(in, 3), size = m->size - cut % m->size;
  m->pack = allocate(size);
  m->size = size;
  uint64_t state = 0x9E3779B97F4A7C15 ^ take(in, 1);
  fill(m, &(struct tensor){size, 0.0f, 0.0f}, m->pack, &state);
  free(whole);
}

/* Whatever was opened takes a right batch; and a wrong one gets its status. */
static void run_anything(struct input *in, const struct made *m) {
  struct isas all = {0};
  const char *isa = next_isa(&all);
  for (int skipped = between(in, 0, 3); skipped && *all.rest; skipped--) isa = next_isa(&all);
  int32_t status;
  struct embk_model *model = open_model(m, isa, &status);
  if (!model) return;
  struct texts t = draw_texts(in, &m->shape);
  uint64_t bytes;
  free(encode(model, &t.batch, &m->shape, between(in, 0, 1), &bytes));
  misuse(in, model, &m->shape, &t);
  (void)embk_workspace_bytes(model, odd_number(in), odd_number(in));
  free_texts(&t);
  embk_close(model);
}

static void read_bytes(struct input *in, struct made *m) {
  memset(m, 0, sizeof *m);
  m->count = between(in, 0, MOST_TENSORS);
  unsigned char *shape = (unsigned char *)&m->shape;
  for (size_t i = 0; i < sizeof m->shape; i++) shape[i] = (unsigned char)take(in, 1);
  for (int i = 0; i < m->count; i++) m->offsets[i] = (uint64_t)take(in, 2) * (take(in, 1) % 4 ? 64 : 1);
  m->size = in->left / 2;
  m->pack = allocate(m->size);
  if (m->size) memcpy(m->pack, in->at, m->size);
  in->at += m->size;
  in->left -= m->size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct input in = {data, size};
  struct made m;
  const uint32_t how = take(&in, 1) % 8;
  if (how == 7) {
    read_bytes(&in, &m);
    run_anything(&in, &m);
  } else {
    make_model(&in, &m, how >= 3);
    if (how < 4) {
      struct texts t = draw_texts(&in, &m.shape);
      run_everywhere(&in, &m, &t, between(&in, 0, 1));
      free_texts(&t);
    } else {
      damage_pack(&in, &m);
      for (int changes = between(&in, 1, 3); changes; changes--) damage(&in, &m);
      run_anything(&in, &m);
    }
  }
  free(m.pack);
  return 0;
}
