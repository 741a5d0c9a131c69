/* Attention of one head over one text: softmax(Q K') V. The query's weights hold the factor 1/sqrt(head size).

   Both products are of eight bits. Queries, keys and values are rounded by token, symmetric, each token's part of a head
   with a scale of its own. A value's scale s[j] goes into the scores, as log2 s[j]: what the softmax then gives is

     share[i][j] = p[i][j] s[j] / max over j of the same        in 0..1, rounded to 0..255
     context[i]  = sum over j of share[i][j] v[j]  /  sum over j of share[i][j] / s[j]

   so that the 255 levels are spent on what a token adds to the result. A token that draws most of the attention and adds
   next to nothing, as separators do, no longer drowns the others. */

#ifndef EMBK_ATTENTION_H
#define EMBK_ATTENTION_H

#include "dot.h"
#include "kernels.h"
#include "maths.h"

/* Below every score: its share is 2^-126, which is rounded to 0. */
#define NO_SCORE -1e30f
/* Parts smaller than this are rounded to zeros. */
#define SMALLEST_PEAK 1e-15f

/* One token's part of a head in vectors of whole numbers, -127..127, as f_bits of ROUNDER + number. Returns the scale. */
INLINE float round_token(const float *x, const int head_size, f32x16 rounded[MOST_HEAD_SIZE / LANES]) {
  f32x16 peak = f_set(SMALLEST_PEAK);
  const int whole = head_size / LANES, vectors = ROUND_UP(head_size, LANES) / LANES;
  for (int v = 0; v < whole; v++) peak = f_max(peak, f_abs(rounded[v] = f_load(x + v * LANES)));
  if (whole < vectors) {
    float rest[LANES] = {0};
    memcpy(rest, x + whole * LANES, (size_t)(head_size - whole * LANES) * sizeof *x);
    peak = f_max(peak, f_abs(rounded[whole] = f_load(rest)));
  }
  const float greatest = f_greatest(peak);
  const f32x16 inverse = f_set(127.0f / greatest);
  for (int v = 0; v < vectors; v++) rounded[v] = f_fma(rounded[v], inverse, f_set(ROUNDER));
  return greatest * (1.0f / 127.0f);
}

/* Where the keys' matrix has a token's column: panels of 64 tokens. */
INLINE int8_t *key_column(const struct attention *a, int groups, int token) {
  return a->scratch.keys + (size_t)(token / PANEL_COLUMNS) * groups * 4 * PANEL_COLUMNS + 4 * (token % PANEL_COLUMNS);
}

/* Keys become the columns of a matrix. */
INLINE void prepare_keys(const struct attention *a, const int head_size) {
  const int groups = ROUND_UP(head_size, 4) / 4, vectors = ROUND_UP(head_size, LANES) / LANES;
  const int padded = ROUND_UP(a->tokens, LANES);
  for (int t = 0; t < a->tokens; t++) {
    f32x16 rounded[MOST_HEAD_SIZE / LANES];
    a->scratch.key_scale[t] = round_token(a->key.values + t * a->key.stride, head_size, rounded);
    int8_t *to = key_column(a, groups, t);
    for (int v = 0; v < vectors; v++) {
      uint8_t bytes[LANES];
      store_bytes(bytes, i_low_bytes(f_bits(rounded[v])));
      for (int g = 0; g < 4 && 4 * v + g < groups; g++)
        memcpy(to + (size_t)(4 * v + g) * 4 * PANEL_COLUMNS, bytes + 4 * g, 4);
    }
  }
  for (int t = a->tokens; t < padded; t++) a->scratch.key_scale[t] = 0.0f;
  /* The columns' sums, which the queries' offset asks for, are a product with ones. */
  uint8_t ones[MOST_HEAD_SIZE];
  memset(ones, 1, sizeof ones);
  for (int t = 0; t < padded; t += LANES) {
    i32x16 sums[TILE_ROWS][PANEL_VECTORS];
    dot_tile(1, 1, 0, ones, 0, key_column(a, groups, t), 4 * PANEL_COLUMNS, groups, NO_NEXT, NO_SUMS, sums);
    memcpy(a->scratch.key_sums + t, &sums[0][0], sizeof sums[0][0]);
  }
}

/* Values become the rows of a matrix, four tokens to a group, `pitch` bytes a group. */
INLINE void prepare_values(const struct attention *a, const int head_size) {
  const int vectors = ROUND_UP(head_size, LANES) / LANES;
  const size_t pitch = 4 * LANES * (size_t)vectors;
  for (int t = 0; t < a->tokens; t += 4) {
    f32x16 rounded[4][MOST_HEAD_SIZE / LANES];
    for (int i = 0; i < 4; i++) {
      if (t + i < a->tokens) {
        const float scale = round_token(a->value.values + (t + i) * a->value.stride, head_size, rounded[i]);
        a->scratch.value_scale[t + i] = scale;
        a->scratch.value_inverse[t + i] = 1.0f / scale;
      } else {
        for (int v = 0; v < vectors; v++) rounded[i][v] = f_set(ROUNDER);
      }
    }
    int8_t *to = a->scratch.values + (size_t)(t / 4) * pitch;
    for (int v = 0; v < vectors; v++) {
      const i32x16 byte = i_set(255);
      i32x16 low = i_or(i_and(f_bits(rounded[0][v]), byte), i_shift_left(i_and(f_bits(rounded[1][v]), byte), 8));
      i32x16 high = i_or(i_and(f_bits(rounded[2][v]), byte), i_shift_left(f_bits(rounded[3][v]), 8));
      low = i_or(low, i_shift_left(high, 16));
      memcpy(to + v * 4 * LANES, &low, sizeof low);
    }
  }
  const int padded = ROUND_UP(a->tokens, LANES);
  for (int t = a->tokens; t < padded; t++) {
    a->scratch.value_scale[t] = 1.0f;
    a->scratch.value_inverse[t] = 0.0f;
  }
  for (int t = 0; t < padded; t += LANES)
    f_store(a->scratch.value_scale + t, f_log2(f_load(a->scratch.value_scale + t)));
}

/* Rounds TILE_ROWS queries, or as many as there are. */
INLINE void prepare_queries(const struct attention *a, const int head_size, int first, int rows, float scale[TILE_ROWS]) {
  const int stride = ROUND_UP(head_size, LANES);
  for (int r = 0; r < rows; r++) {
    f32x16 rounded[MOST_HEAD_SIZE / LANES];
    scale[r] = LOG2_E * round_token(a->query.values + (first + r) * a->query.stride, head_size, rounded);
    for (int v = 0; v < stride / LANES; v++)
      store_bytes(a->scratch.queries + r * stride + v * LANES, i_low_bytes(i_add(f_bits(rounded[v]), i_set(128))));
  }
}

INLINE f32x16 distance_bias(const struct attention *a, int query, int key) {
  float bias[LANES];
  for (int i = 0; i < LANES; i++) {
    const int distance = key + i - query;
    bias[i] = a->bias[distance < -a->farthest ? -a->farthest : distance > a->farthest ? a->farthest : distance];
  }
  return f_mul(f_load(bias), f_set(LOG2_E));
}

/* Scores, as powers of two, of 16 * vectors keys from `key` on, and the greatest so far of each row. */
INLINE void score_keys(const int vectors, const int head_size, const int biased, const struct attention *a, int first,
                       int key, const float scale[TILE_ROWS], f32x16 greatest[TILE_ROWS]) {
  const int groups = ROUND_UP(head_size, 4) / 4;
  const size_t width = ROUND_UP(a->tokens, PANEL_COLUMNS);
  i32x16 acc[TILE_ROWS][PANEL_VECTORS];
  dot_tile(TILE_ROWS, vectors, 128, a->scratch.queries, ROUND_UP(head_size, LANES),
           key_column(a, groups, key), 4 * PANEL_COLUMNS, groups, NO_NEXT, a->scratch.key_sums + key, acc);
UNROLL
  for (int v = 0; v < vectors; v++) {
    const int column = key + v * LANES;
    const f32x16 key_scale = f_load(a->scratch.key_scale + column), weight = f_load(a->scratch.value_scale + column);
    const int left = a->tokens - column;
UNROLL
    for (int r = 0; r < TILE_ROWS; r++) {
      f32x16 score = f_fma(f_mul(f_from_i(acc[r][v]), key_scale), f_set(scale[r]), weight);
      if (biased) score = f_add(score, distance_bias(a, first + r, column));
      if (left < LANES) score = f_first(score, f_set(NO_SCORE), left);
      greatest[r] = f_max(greatest[r], score);
      f_store(a->scratch.scores + r * width + column, score);
    }
  }
}

/* One row's scores to shares of eight bits; returns the sum of all p, in units of the greatest share. */
INLINE float round_shares(const struct attention *a, int row, float greatest) {
  const size_t width = ROUND_UP(a->tokens, PANEL_COLUMNS);
  const float *scores = a->scratch.scores + row * width;
  uint8_t *shares = a->scratch.shares + row * width;
  f32x16 most = f_set(greatest), sum = f_set(0.0f);
  for (int c = 0; c < a->tokens; c += LANES) {
    const f32x16 share = f_exp2(f_sub(f_load(scores + c), most));
    sum = f_fma(share, f_load(a->scratch.value_inverse + c), sum);
    store_bytes(shares + c, i_low_bytes(f_bits(f_fma(share, f_set(255.0f), f_set(ROUNDER)))));
  }
  return f_sum(sum);
}

INLINE void mix_values(const int vectors, const struct attention *a, const int head_size, int first, int rows, int column,
                       const float factor[TILE_ROWS]) {
  const size_t width = ROUND_UP(a->tokens, PANEL_COLUMNS);
  i32x16 acc[TILE_ROWS][PANEL_VECTORS];
  dot_tile(TILE_ROWS, vectors, 0, a->scratch.shares, width, a->scratch.values + 4 * column,
           4 * ROUND_UP(head_size, LANES), ROUND_UP(a->tokens, 4) / 4, NO_NEXT, NO_SUMS, acc);
  for (int r = 0; r < rows; r++) {
    float *to = a->context.values + (first + r) * a->context.stride + column;
UNROLL
    for (int v = 0; v < vectors; v++) {
      const f32x16 mixed = f_mul(f_from_i(acc[r][v]), f_set(factor[r]));
      const int left = head_size - column - v * LANES;
      if (left >= LANES)
        f_store(to + v * LANES, mixed);
      else if (left > 0)
        memcpy(to + v * LANES, &mixed, (size_t)left * sizeof(float));
    }
  }
}

INLINE void attend_tile(const struct attention *a, const int head_size, const int biased, int first) {
  const int rows = a->tokens - first < TILE_ROWS ? a->tokens - first : TILE_ROWS;
  float scale[TILE_ROWS] = {0}, factor[TILE_ROWS] = {0};
  f32x16 greatest[TILE_ROWS];
  prepare_queries(a, head_size, first, rows, scale);
  for (int r = 0; r < TILE_ROWS; r++) greatest[r] = f_set(NO_SCORE);
  int key = 0;
  for (; key + 2 * LANES < a->tokens; key += PANEL_COLUMNS)
    score_keys(PANEL_VECTORS, head_size, biased, a, first, key, scale, greatest);
  if (key + LANES < a->tokens)
    score_keys(2, head_size, biased, a, first, key, scale, greatest);
  else if (key < a->tokens)
    score_keys(1, head_size, biased, a, first, key, scale, greatest);
  for (int r = 0; r < rows; r++) factor[r] = 1.0f / (255.0f * round_shares(a, r, f_greatest(greatest[r])));
  int column = 0;
  for (; column + 2 * LANES < head_size; column += PANEL_COLUMNS)
    mix_values(PANEL_VECTORS, a, head_size, first, rows, column, factor);
  if (column + LANES < head_size)
    mix_values(2, a, head_size, first, rows, column, factor);
  else if (column < head_size)
    mix_values(1, a, head_size, first, rows, column, factor);
}

INLINE void attend_head(const struct attention *a, const int head_size, const int biased) {
  prepare_keys(a, head_size);
  prepare_values(a, head_size);
  for (int first = 0; first < a->tokens; first += TILE_ROWS) attend_tile(a, head_size, biased, first);
}

/* The common sizes are constants, so that their loops unroll. */
static void attend(const struct attention *a) {
  if (a->bias)
    attend_head(a, a->head_size, 1);
  else if (a->head_size == 32)
    attend_head(a, 32, 0);
  else if (a->head_size == 64)
    attend_head(a, 64, 0);
  else
    attend_head(a, a->head_size, 0);
}

#endif
