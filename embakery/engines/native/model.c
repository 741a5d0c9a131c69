/* Opening a model: every size and every tensor's place is checked here, so that nothing later has to. */

#include "model.h"

#include <stdlib.h>
#include <string.h>

struct reader {
  const unsigned char *pack;
  uint64_t bytes;
  const uint64_t *offsets;
  uint64_t next, count;
  int failed;
};

/* Gives the next tensor, of rows * columns elements of so many bytes. What the shape does not have is 0 in the table. */
static const void *take(struct reader *r, int64_t rows, int64_t columns, int size) {
  if (r->next >= r->count) {
    r->failed = 1;
    return 0;
  }
  const uint64_t offset = r->offsets[r->next++];
  if (rows == 0) {
    if (offset != 0) r->failed = 1;
    return 0;
  }
  /* No size is above 2^25, see check_shape. */
  const uint64_t needed = (uint64_t)rows * (uint64_t)columns * (uint64_t)size;
  if (offset == 0 || offset % 64 || offset > r->bytes || needed > r->bytes - offset) {
    r->failed = 1;
    return 0;
  }
  return r->pack + offset;
}

static const float *take_row(struct reader *r, int64_t columns) {
  return take(r, 1, ROUND_UP(columns, PANEL_COLUMNS), sizeof(float));
}

static struct matrix take_matrix(struct reader *r, int64_t inputs, int64_t outputs) {
  struct matrix m = {0};
  const int64_t present = inputs ? outputs : 0;
  m.groups = (int32_t)(ROUND_UP(inputs, 4) / 4);
  m.panels = (int32_t)(ROUND_UP(present, PANEL_COLUMNS) / PANEL_COLUMNS);
  m.tiles = take(r, m.panels, (int64_t)m.groups * 4 * PANEL_COLUMNS, 1);
  m.scale = take(r, m.panels, PANEL_COLUMNS, sizeof(float));
  m.offset = take(r, m.panels, PANEL_COLUMNS, sizeof(float));
  m.sums = take(r, m.panels, PANEL_COLUMNS, sizeof(int32_t));
  m.bias = take(r, m.panels, PANEL_COLUMNS, sizeof(float));
  return m;
}

static struct norm take_norm(struct reader *r, const struct embk_shape *s) {
  struct norm n = {0};
  n.gain = take_row(r, s->hidden);
  n.bias = take_row(r, s->hidden);
  n.residual = take_row(r, s->hidden);
  n.eps = s->eps;
  return n;
}

static struct layer take_layer(struct reader *r, const struct embk_shape *s) {
  struct layer l;
  l.query = take_matrix(r, s->hidden, s->hidden);
  l.key = take_matrix(r, s->hidden, s->hidden);
  l.value = take_matrix(r, s->hidden, s->hidden);
  l.output = take_matrix(r, s->hidden, s->hidden);
  l.attention_norm = take_norm(r, s);
  l.up = take_matrix(r, s->hidden, s->intermediate);
  l.loud = take_matrix(r, s->loud, s->hidden);
  l.down = take_matrix(r, s->intermediate - s->loud, s->hidden);
  l.ffn_norm = take_norm(r, s);
  return l;
}

static int within(int32_t value, int32_t least, int32_t most) { return value >= least && value <= most; }

static int check_step(const struct embk_step *step, int32_t inputs) {
  if (step->inputs != inputs || !within(step->activation, EMBK_IDENTITY, EMBK_SIGMOID)) return 0;
  if (step->kind == EMBK_DENSE) return within(step->outputs, 1, MOST_INPUTS) && step->weight;
  if (!within(step->kind, EMBK_LAYER_NORM, EMBK_ACTIVATE) || step->outputs != inputs) return 0;
  return step->kind != EMBK_LAYER_NORM || (step->weight && step->bias);
}

static int check_head(const struct embk_shape *s) {
  if (!within(s->poolings, 1, EMBK_MOST_POOLINGS) || !within(s->steps, 0, EMBK_MOST_STEPS)) return 0;
  for (int i = 0; i < s->poolings; i++)
    if (!within(s->pooling[i], EMBK_MEAN, EMBK_LAST_TOKEN)) return 0;
  int32_t size = s->hidden * s->poolings;
  for (int i = 0; i < s->steps; i++) {
    if (!check_step(&s->step[i], size)) return 0;
    size = s->step[i].outputs;
  }
  return 1;
}

static int check_shape(const struct embk_shape *s) {
  return within(s->layers, 1, 512) && within(s->hidden, 1, 8192) && within(s->heads, 1, s->hidden) &&
         s->hidden % s->heads == 0 && s->hidden / s->heads <= MOST_HEAD_SIZE &&
         within(s->intermediate, 1, MOST_INPUTS) &&
         within(s->loud, 0, s->intermediate - 1) && s->loud % PANEL_COLUMNS == 0 &&
         within(s->activation, EMBK_IDENTITY, EMBK_SIGMOID) && within(s->vocabulary, 1, 1 << 25) &&
         within(s->positions, 1, MOST_INPUTS) && within(s->token_types, 0, 1 << 16) &&
         within(s->pad_token, -1, s->vocabulary - 1) && within(s->farthest, 0, 1 << 16) && check_head(s);
}

static int check_head_tensors(const struct reader *r, const struct embk_shape *s) {
  for (int i = 0; i < s->steps; i++) {
    const struct embk_step *step = &s->step[i];
    const int is_dense = step->kind == EMBK_DENSE;
    if (!is_dense && step->kind != EMBK_LAYER_NORM) continue;
    uint64_t offsets[2] = {step->weight, step->bias};
    struct reader part = {r->pack, r->bytes, offsets, 0, 2, 0};
    if (is_dense) {
      take(&part, step->outputs, step->inputs, sizeof(float));
      take(&part, step->bias ? 1 : 0, step->outputs, sizeof(float));
    } else {
      take_row(&part, step->inputs);
      take_row(&part, step->inputs);
    }
    if (part.failed) return 0;
  }
  return 1;
}

static int read_model(struct embk_model *m, struct reader *r) {
  const struct embk_shape *s = &m->shape;
  m->pack = r->pack;
  m->width = ROUND_UP(s->hidden, PANEL_COLUMNS);
  m->middle = ROUND_UP(s->intermediate, PANEL_COLUMNS);
  m->head_size = s->hidden / s->heads;
  m->dimension = m->widest = s->hidden * s->poolings;
  for (int i = 0; i < s->steps; i++) {
    m->dimension = s->step[i].outputs;
    if (m->dimension > m->widest) m->widest = m->dimension;
  }
  m->embedding.hidden = s->hidden;
  m->embedding.width = m->width;
  m->embedding.word = take(r, s->vocabulary, s->hidden, 1);
  m->embedding.word_scale = take(r, 1, s->vocabulary, sizeof(float));
  m->embedding.position = take(r, s->positions + (s->pad_token >= 0), s->hidden, sizeof(float));
  m->embedding.type = take(r, s->token_types, s->hidden, sizeof(float));
  m->relative_bias = take(r, s->farthest ? s->heads : 0, 2 * (int64_t)s->farthest + 1, sizeof(float));
  m->norm = take_norm(r, s);
  for (int i = 0; i < s->layers; i++) m->layers[i] = take_layer(r, s);
  return !r->failed && r->next == r->count && check_head_tensors(r, s);
}

static const struct kernels *find_isa(const char *name) {
  for (int i = 0; name && embk_kernels[i]; i++)
    if (!strcmp(embk_kernels[i]->name, name)) return embk_kernels[i]->is_here() ? embk_kernels[i] : 0;
  return 0;
}

int32_t embk_open(const void *pack, uint64_t pack_bytes, const struct embk_shape *shape, uint64_t shape_bytes,
                  const uint64_t *offsets, uint64_t offset_count, const char *isa, struct embk_model **model) {
  if (!pack || !shape || !offsets || !model || (uintptr_t)pack % 64) return EMBK_BAD_INPUT;
  *model = 0;
  if (shape_bytes != sizeof *shape || !check_shape(shape)) return EMBK_BAD_SHAPE;
  const struct kernels *kernels = find_isa(isa);
  if (!kernels) return EMBK_BAD_ISA;
  struct embk_model *m = calloc(1, sizeof *m + (size_t)shape->layers * sizeof m->layers[0]);
  if (!m) return EMBK_NO_MEMORY;
  m->shape = *shape;
  m->kernels = kernels;
  struct reader reader = {pack, pack_bytes, offsets, 0, offset_count, 0};
  if (!read_model(m, &reader)) {
    free(m);
    return EMBK_BAD_PACK;
  }
  *model = m;
  return EMBK_OK;
}

void embk_close(struct embk_model *model) { free(model); }

int32_t embk_dimension(const struct embk_model *model) { return model ? model->dimension : 0; }

int32_t embk_abi(void) { return EMBK_ABI; }

const char *embk_isas(void) {
  static _Thread_local char names[128];
  names[0] = 0;
  for (int i = 0; embk_kernels[i]; i++) {
    if (!embk_kernels[i]->is_here()) continue;
    if (names[0]) strcat(names, ",");
    strcat(names, embk_kernels[i]->name);
  }
  return names;
}
