/* A batch's way through the model. Texts stand packed one after another, without padding; only attention looks at where
   one ends. Every row of activations is computed by itself, and every text's attention too: that is why neither the batch,
   nor its order, nor the number of threads can change a bit. */

#include "model.h"
#include "team.h"

#include <fenv.h>
#include <string.h>

/* Rows of a feed-forward layer at a time: their wide activations stay in the second-level cache. */
#define FFN_ROWS 48

enum stage { EMBEDDING, PROJECTION, ATTENTION, OUTPUT, FFN_UP, FFN_DOWN, ROUNDING, HEAD };

/* A workspace, cut up. Offsets in bytes; `own` parts are each thread's, `own_bytes` apart. */
struct layout {
  uint64_t x, y, planes, step, low, coarse_low;
  uint64_t wide, wide_values, wide_step, wide_low, loud_step, loud_low;
  uint64_t own, own_bytes, total;
  /* within `own`: */
  uint64_t query, key, value, keys, values, key_scale, key_sums, value_scale, value_inverse, scores, shares, queries;
  uint64_t vector, other_vector;
};

/* Heads whose columns fill whole panels are projected and attended to together, so that their queries, keys and values
   need not leave the cache: so many heads and panels a group, so many groups. */
struct grouping { int heads, panels, groups; };

static struct grouping grouping_of(const struct embk_model *m) {
  int heads = m->head_size % PANEL_COLUMNS == 0 ? 1 : m->shape.heads;
  if (PANEL_COLUMNS % m->head_size == 0) heads = PANEL_COLUMNS / m->head_size;
  const int panels = ROUND_UP(heads * m->head_size, PANEL_COLUMNS) / PANEL_COLUMNS;
  return (struct grouping){heads, panels, ROUND_UP(m->shape.heads, heads) / heads};
}

static uint64_t place(uint64_t *end, uint64_t elements, uint64_t size) {
  const uint64_t start = *end;
  *end += ROUND_UP(elements * size, 64);
  return start;
}

static struct layout lay_out(const struct embk_model *m, uint64_t tokens, uint64_t team) {
  struct layout l = {0};
  const uint64_t width = (uint64_t)m->width, middle = (uint64_t)m->middle;
  const uint64_t group = (uint64_t)grouping_of(m).panels * PANEL_COLUMNS;
  const uint64_t keys = ROUND_UP(tokens, PANEL_COLUMNS), head = ROUND_UP((uint64_t)m->head_size, 16);
  uint64_t end = sizeof(struct team);
  l.x = place(&end, tokens * width, sizeof(float));
  l.y = place(&end, tokens * width, sizeof(float));
  l.planes = place(&end, tokens * width * 2, 1);
  l.step = place(&end, tokens, sizeof(float));
  l.low = place(&end, tokens, sizeof(float));
  l.coarse_low = place(&end, tokens, sizeof(float));
  l.wide = place(&end, FFN_ROWS * middle, sizeof(float));
  l.wide_values = place(&end, FFN_ROWS * middle, 1);
  l.wide_step = place(&end, FFN_ROWS, sizeof(float));
  l.wide_low = place(&end, FFN_ROWS, sizeof(float));
  l.loud_step = place(&end, FFN_ROWS, sizeof(float));
  l.loud_low = place(&end, FFN_ROWS, sizeof(float));
  l.own = end;
  end = 0;
  l.query = place(&end, tokens * group, sizeof(float));
  l.key = place(&end, tokens * group, sizeof(float));
  l.value = place(&end, tokens * group, sizeof(float));
  l.keys = place(&end, keys * head, 1);
  l.values = place(&end, keys * head, 1);
  l.key_scale = place(&end, keys, sizeof(float));
  l.key_sums = place(&end, keys, sizeof(int32_t));
  l.value_scale = place(&end, keys, sizeof(float));
  l.value_inverse = place(&end, keys, sizeof(float));
  l.scores = place(&end, keys * TILE_ROWS, sizeof(float));
  l.shares = place(&end, keys * TILE_ROWS, 1);
  l.queries = place(&end, head * TILE_ROWS, 1);
  l.vector = place(&end, ROUND_UP((uint64_t)m->widest, PANEL_COLUMNS), sizeof(float));
  l.other_vector = place(&end, ROUND_UP((uint64_t)m->widest, PANEL_COLUMNS), sizeof(float));
  l.own_bytes = end;
  l.total = l.own + end * team;
  return l;
}

/* One thread's view of a call. */
struct worker {
  const struct embk_model *model;
  const struct kernels *kernels;
  const struct embk_batch *batch;
  struct member member;
  struct rows x, y;
  struct rows8 planes;
  struct rows wide;
  struct rows8 wide_loud, wide_rest;
  struct rows query, key, value;
  struct attention attention;
  float *vector, *other_vector;
};

static struct worker new_worker(const struct embk_model *m, const struct embk_batch *batch, unsigned char *base,
                                const struct layout *l, int rank, int team) {
  unsigned char *own = base + l->own + l->own_bytes * (uint64_t)rank;
  const size_t width = (size_t)m->width, middle = (size_t)m->middle;
  const size_t group = (size_t)grouping_of(m).panels * PANEL_COLUMNS;
  struct worker w = {0};
  w.model = m;
  w.kernels = m->kernels;
  w.batch = batch;
  w.member = (struct member){(struct team *)base, rank, team};
  w.x = (struct rows){(float *)(base + l->x), width};
  w.y = (struct rows){(float *)(base + l->y), width};
  w.planes = (struct rows8){base + l->planes, 2 * width, (float *)(base + l->step), (float *)(base + l->low),
                            (float *)(base + l->coarse_low)};
  w.wide = (struct rows){(float *)(base + l->wide), middle};
  w.wide_loud = (struct rows8){base + l->wide_values, middle, (float *)(base + l->loud_step),
                               (float *)(base + l->loud_low), 0};
  w.wide_rest = (struct rows8){base + l->wide_values + m->shape.loud, middle, (float *)(base + l->wide_step),
                               (float *)(base + l->wide_low), 0};
  w.query = (struct rows){(float *)(own + l->query), group};
  w.key = (struct rows){(float *)(own + l->key), group};
  w.value = (struct rows){(float *)(own + l->value), group};
  w.attention.scratch = (struct attention_scratch){
      .keys = (int8_t *)(own + l->keys),
      .values = (int8_t *)(own + l->values),
      .key_scale = (float *)(own + l->key_scale),
      .key_sums = (int32_t *)(own + l->key_sums),
      .value_scale = (float *)(own + l->value_scale),
      .value_inverse = (float *)(own + l->value_inverse),
      .scores = (float *)(own + l->scores),
      .shares = own + l->shares,
      .queries = own + l->queries,
  };
  w.attention.head_size = m->head_size;
  w.attention.farthest = m->shape.farthest;
  w.vector = (float *)(own + l->vector);
  w.other_vector = (float *)(own + l->other_vector);
  return w;
}

static struct rows rows_from(struct rows x, int row) {
  x.values += (size_t)row * x.stride;
  return x;
}

static struct rows8 rows8_from(struct rows8 x, int row) {
  x.values += (size_t)row * x.stride;
  x.step += row;
  x.low += row;
  if (x.coarse_low) x.coarse_low += row;
  return x;
}

static void embed_tokens(struct worker *w) {
  const struct embk_shape *s = &w->model->shape;
  const struct embk_batch *batch = w->batch;
  const struct share mine = share_of(&w->member, batch->tokens);
  for (int text = 0, token = 0; text < batch->texts; text++) {
    int counted = 0;
    for (int i = 0; i < batch->lengths[text]; i++, token++) {
      const int is_pad = batch->ids[token] == s->pad_token;
      const int row = s->pad_token < 0 ? i : is_pad ? 0 : ++counted;
      if (token < mine.first || token >= mine.last) continue;
      const int type = batch->types ? batch->types[token] : 0;
      w->kernels->embed(&w->model->embedding, batch->ids[token], row, type, rows_from(w->x, token).values);
      float *y = rows_from(w->y, token).values;
      memset(y + s->hidden, 0, sizeof *y * (size_t)(w->model->width - s->hidden));
    }
  }
}

/* Normalizes rows and rounds them: to sixteen bits where attention reads them, to eight before a feed-forward layer. */
static void norm_rows(struct worker *w, struct rows x, const struct norm *norm, int first, int last, int fine) {
  const struct embk_model *m = w->model;
  struct rows rows = rows_from(x, first);
  struct rows8 planes = rows8_from(w->planes, first);
  w->kernels->layer_norm(norm, rows, last - first, m->shape.hidden, m->width);
  (fine ? w->kernels->quantize_fine : w->kernels->quantize)(rows, last - first, m->width, planes);
}

/* The panel with which this thread begins a product that the team shares. */
static const int8_t *first_panel(const struct worker *w, const struct matrix *m) {
  return panel_at(m, share_of(&w->member, m->panels).first);
}

/* And with which it begins a layer. */
static const int8_t *first_query_panel(const struct worker *w, const struct layer *layer) {
  const struct grouping g = grouping_of(w->model);
  return panel_at(&layer->query, share_of(&w->member, g.groups).first * g.panels);
}

/* This thread's part of a product: its panels, written to their own columns of y. */
static struct product shared_product(const struct worker *w, struct rows8 x, const struct matrix *m, struct rows y,
                                     int rows, const int8_t *next) {
  const struct share panels = share_of(&w->member, m->panels);
  y.values += (size_t)panels.first * PANEL_COLUMNS;
  return (struct product){.x = x, .matrix = m, .y = y, .rows = rows,
                          .first_panel = panels.first, .last_panel = panels.last, .next = next};
}

static void project(struct worker *w, const struct matrix *matrix, int fine, struct share panels, struct rows to,
                    const int8_t *next) {
  struct product p = {.x = w->planes, .matrix = matrix, .y = to, .rows = w->batch->tokens,
                      .first_panel = panels.first, .last_panel = panels.last, .next = next};
  if (fine)
    p.x.stride /= 2;
  else
    p.x.low = p.x.coarse_low;
  w->kernels->multiply(&p, fine ? FINE : PLAIN);
}

static void attend_to_texts(struct worker *w, int head, int column) {
  struct attention a = w->attention;
  if (w->model->relative_bias)
    a.bias = w->model->relative_bias + (size_t)head * (2 * (size_t)a.farthest + 1) + a.farthest;
  for (int text = 0, token = 0; text < w->batch->texts; token += w->batch->lengths[text++]) {
    a.tokens = w->batch->lengths[text];
    a.query = rows_from(w->query, token);
    a.key = rows_from(w->key, token);
    a.value = rows_from(w->value, token);
    a.context = rows_from(w->y, token);
    a.query.values += column;
    a.key.values += column;
    a.value.values += column;
    a.context.values += (size_t)head * (size_t)a.head_size;
    w->kernels->attend(&a);
  }
}

static void attention_block(struct worker *w, const struct layer *layer) {
  const struct embk_model *m = w->model;
  const struct grouping g = grouping_of(m);
  const struct share mine = share_of(&w->member, g.groups);
  for (int group = mine.first; group < mine.last; group++) {
    struct share panels = {group * g.panels, (group + 1) * g.panels};
    if (panels.last > layer->query.panels) panels.last = layer->query.panels;
    const int8_t *next = first_panel(w, &layer->output);
    if (group + 1 < mine.last) next = panel_at(&layer->query, panels.last);
    uint64_t started = stage_start();
    project(w, &layer->query, 0, panels, w->query, panel_at(&layer->key, panels.first));
    project(w, &layer->key, 0, panels, w->key, panel_at(&layer->value, panels.first));
    project(w, &layer->value, 1, panels, w->value, next);
    started = stage_end(&w->member, PROJECTION, started);
    for (int i = 0; i < g.heads && group * g.heads + i < m->shape.heads; i++)
      attend_to_texts(w, group * g.heads + i, i * m->head_size);
    stage_end(&w->member, ATTENTION, started);
  }
}

static void output_block(struct worker *w, const struct layer *layer, const struct norm *before) {
  const struct share rows = share_of(&w->member, w->batch->tokens);
  uint64_t started = stage_start();
  w->kernels->quantize(rows_from(w->y, rows.first), rows.last - rows.first, w->model->width,
                       rows8_from(w->planes, rows.first));
  started = stage_end(&w->member, ROUNDING, started);
  meet(&w->member);
  struct product p = shared_product(w, w->planes, &layer->output, w->y, w->batch->tokens, first_panel(w, &layer->up));
  p.residual = w->x;
  p.residual_scale = before->residual;
  w->kernels->multiply(&p, RESIDUAL);
  started = stage_end(&w->member, OUTPUT, started);
  meet(&w->member);
  norm_rows(w, w->y, &layer->attention_norm, rows.first, rows.last, 0);
  stage_end(&w->member, ROUNDING, started);
}

static void feed_forward_up(struct worker *w, const struct layer *layer, int first, int rows) {
  const int is_gelu = w->model->shape.activation == EMBK_GELU;
  const struct rows8 x = rows8_from(w->planes, first);
  const struct product p = shared_product(w, x, &layer->up, w->wide, rows, first_panel(w, &layer->down));
  w->kernels->multiply(&p, is_gelu ? GELU : PLAIN);
  if (!is_gelu)
    w->kernels->activate(w->model->shape.activation, p.y, rows, (p.last_panel - p.first_panel) * PANEL_COLUMNS);
}

static void round_wide(struct worker *w, int rows) {
  const int loud = w->model->shape.loud;
  const struct share mine = share_of(&w->member, rows);
  struct rows from = rows_from(w->wide, mine.first);
  if (loud) w->kernels->quantize(from, mine.last - mine.first, loud, rows8_from(w->wide_loud, mine.first));
  from.values += loud;
  w->kernels->quantize(from, mine.last - mine.first, w->model->middle - loud, rows8_from(w->wide_rest, mine.first));
}

static void feed_forward_down(struct worker *w, const struct layer *layer, int first, int rows, const int8_t *next) {
  struct product p = shared_product(w, w->wide_rest, &layer->down, rows_from(w->y, first), rows, next);
  p.residual = rows_from(w->x, first);
  p.residual_scale = layer->attention_norm.residual;
  w->kernels->multiply(&p, RESIDUAL);
  if (!w->model->shape.loud) return;
  p.matrix = &layer->loud;
  p.x = w->wide_loud;
  w->kernels->multiply(&p, ADD);
}

static void feed_forward_block(struct worker *w, const struct layer *layer, const int8_t *after) {
  for (int first = 0; first < w->batch->tokens; first += FFN_ROWS) {
    const int left = w->batch->tokens - first, rows = left < FFN_ROWS ? left : FFN_ROWS;
    uint64_t started = stage_start();
    feed_forward_up(w, layer, first, rows);
    started = stage_end(&w->member, FFN_UP, started);
    meet(&w->member);
    round_wide(w, rows);
    started = stage_end(&w->member, ROUNDING, started);
    meet(&w->member);
    feed_forward_down(w, layer, first, rows, left > FFN_ROWS ? first_panel(w, &layer->up) : after);
    started = stage_end(&w->member, FFN_DOWN, started);
    meet(&w->member);
    const struct share mine = share_of(&w->member, rows);
    norm_rows(w, w->y, &layer->ffn_norm, first + mine.first, first + mine.last, 1);
    stage_end(&w->member, ROUNDING, started);
  }
}

static void swap_rows(struct worker *w) {
  const struct rows kept = w->x;
  w->x = w->y;
  w->y = kept;
}

static void encode_tokens(struct worker *w) {
  const struct embk_model *m = w->model;
  const struct share mine = share_of(&w->member, w->batch->tokens);
  const uint64_t started = stage_start();
  embed_tokens(w);
  norm_rows(w, w->x, &m->norm, mine.first, mine.last, 1);
  stage_end(&w->member, EMBEDDING, started);
  meet(&w->member);
  const struct norm *before = &m->norm;
  for (int i = 0; i < m->shape.layers; i++) {
    const struct layer *layer = &m->layers[i];
    attention_block(w, layer);
    meet(&w->member);
    output_block(w, layer, before);
    meet(&w->member);
    swap_rows(w);
    feed_forward_block(w, layer, i + 1 < m->shape.layers ? first_query_panel(w, layer + 1) : 0);
    meet(&w->member);
    swap_rows(w);
    before = &layer->ffn_norm;
  }
}

static void take_step(struct worker *w, const struct embk_step *step) {
  const unsigned char *pack = w->model->pack;
  const float *weight = (const float *)(pack + step->weight);
  const float *bias = step->bias ? (const float *)(pack + step->bias) : 0;
  if (step->kind == EMBK_DENSE) {
    w->kernels->dense(weight, bias, w->vector, step->inputs, step->outputs, w->other_vector);
    float *kept = w->vector;
    w->vector = w->other_vector;
    w->other_vector = kept;
  } else if (step->kind == EMBK_LAYER_NORM) {
    w->kernels->norm_vector(weight, bias, step->eps, w->vector, step->inputs);
  } else if (step->kind == EMBK_NORMALIZE) {
    w->kernels->unit_vector(w->vector, step->inputs);
  }
  if (step->activation != EMBK_IDENTITY)
    w->kernels->activate(step->activation, (struct rows){w->vector, 0}, 1, step->outputs);
}

static void write_sentences(struct worker *w, float *output) {
  const struct embk_model *m = w->model;
  const struct share mine = share_of(&w->member, w->batch->texts);
  for (int text = 0, token = 0; text < w->batch->texts; token += w->batch->lengths[text++]) {
    if (text < mine.first || text >= mine.last) continue;
    memset(w->vector, 0, sizeof(float) * ROUND_UP((size_t)m->widest, PANEL_COLUMNS));
    for (int i = 0; i < m->shape.poolings; i++)
      w->kernels->pool((enum embk_pooling)m->shape.pooling[i], rows_from(w->x, token), w->batch->lengths[text],
                       m->shape.hidden, w->vector + (size_t)i * (size_t)m->shape.hidden);
    for (int i = 0; i < m->shape.steps; i++) take_step(w, &m->shape.step[i]);
    memcpy(output + (size_t)text * (size_t)m->dimension, w->vector, sizeof(float) * (size_t)m->dimension);
  }
}

static void write_tokens(struct worker *w, float *output) {
  const size_t hidden = (size_t)w->model->shape.hidden;
  const struct share mine = share_of(&w->member, w->batch->tokens);
  for (int token = mine.first; token < mine.last; token++)
    memcpy(output + (size_t)token * hidden, rows_from(w->x, token).values, sizeof(float) * hidden);
}

static int32_t check_batch(const struct embk_shape *s, const struct embk_batch *b) {
  if (!b || !b->ids || !b->lengths || b->texts < 1 || b->tokens < 1) return EMBK_BAD_INPUT;
  int64_t tokens = 0;
  for (int i = 0; i < b->texts; i++) {
    if (b->lengths[i] < 1 || b->lengths[i] > s->positions) return EMBK_BAD_LENGTH;
    tokens += b->lengths[i];
    if (tokens > b->tokens) return EMBK_BAD_INPUT;
  }
  if (tokens != b->tokens) return EMBK_BAD_INPUT;
  const int types = s->token_types ? s->token_types : 1;
  for (int i = 0; i < b->tokens; i++) {
    if (b->ids[i] < 0 || b->ids[i] >= s->vocabulary) return EMBK_BAD_TOKEN;
    if (b->types && (b->types[i] < 0 || b->types[i] >= types)) return EMBK_BAD_TOKEN;
  }
  return EMBK_OK;
}

uint64_t embk_workspace_bytes(const struct embk_model *model, int32_t tokens, int32_t team) {
  if (!model || tokens < 1 || tokens > 1 << 20 || team < 1 || team > MOST_THREADS) return 0;
  return lay_out(model, (uint64_t)tokens, (uint64_t)team).total;
}

int32_t embk_encode(const struct embk_model *model, const struct embk_batch *batch, int32_t output_kind, float *output,
                    uint64_t output_bytes, void *workspace, uint64_t workspace_bytes, int32_t rank, int32_t team) {
  if (!model || !output || !workspace || rank < 0 || rank >= team) return EMBK_BAD_INPUT;
  const int32_t status = check_batch(&model->shape, batch);
  if (status != EMBK_OK) return status;
  const uint64_t needed = embk_workspace_bytes(model, batch->tokens, team);
  if (needed == 0 || workspace_bytes < needed || (uintptr_t)workspace % 64) return EMBK_BAD_WORKSPACE;
  const int sentences = output_kind == EMBK_SENTENCES;
  const uint64_t rows = (uint64_t)(sentences ? batch->texts : batch->tokens);
  const uint64_t columns = (uint64_t)(sentences ? model->dimension : model->shape.hidden);
  if ((!sentences && output_kind != EMBK_TOKENS) || output_bytes != rows * columns * sizeof(float)) return EMBK_BAD_OUTPUT;
  const struct layout layout = lay_out(model, (uint64_t)batch->tokens, (uint64_t)team);
  struct worker worker = new_worker(model, batch, workspace, &layout, rank, team);
  /* Another library may have told this thread to flush small numbers to zero, or to round otherwise. */
  fenv_t callers;
  fegetenv(&callers);
  fesetenv(FE_DFL_ENV);
  encode_tokens(&worker);
  const uint64_t started = stage_start();
  (sentences ? write_sentences : write_tokens)(&worker, output);
  /* So that rank 0, or any other, has the whole output when it returns. */
  meet(&worker.member);
  stage_end(&worker.member, HEAD, started);
  fesetenv(&callers);
  return EMBK_OK;
}
