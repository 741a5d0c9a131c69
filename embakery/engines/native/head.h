/* From a text's tokens to what leaves the model: pooling, dense layers, normalization. */

#ifndef EMBK_HEAD_H
#define EMBK_HEAD_H

#include "kernels.h"
#include "layer_norm.h"
#include "maths.h"

static void embed(const struct embedding *table, int32_t id, int32_t place, int32_t type, float *to) {
  const int8_t *word = table->word + (size_t)id * table->hidden;
  const float *position = table->position + (size_t)place * table->hidden;
  const float *types = table->type ? table->type + (size_t)type * table->hidden : 0;
  const f32x16 scale = f_set(table->word_scale[id]);
  int c = 0;
  for (; c + LANES <= table->hidden; c += LANES) {
    f32x16 x = f_fma(f_from_s8(word + c), scale, f_load(position + c));
    f_store(to + c, types ? f_add(x, f_load(types + c)) : x);
  }
  for (; c < table->hidden; c++) {
    float x = __builtin_fmaf((float)word[c], table->word_scale[id], position[c]);
    to[c] = types ? x + types[c] : x;
  }
  for (; c < table->width; c++) to[c] = 0.0f;
}

/* Sums weigh tokens by 1, 2, 3, ... where `weigh`. Rows are as wide as a multiple of 16. */
INLINE void pool_sum(struct rows x, int tokens, int hidden, int weigh, float divisor, float *to) {
  for (int c = 0; c < hidden; c += LANES) {
    f32x16 sum = f_set(0.0f);
    for (int t = 0; t < tokens; t++)
      sum = f_fma(f_load(x.values + t * x.stride + c), f_set(weigh ? (float)(t + 1) : 1.0f), sum);
    sum = f_div(sum, f_set(divisor));
    memcpy(to + c, &sum, sizeof(float) * (size_t)(hidden - c < LANES ? hidden - c : LANES));
  }
}

static void pool(enum embk_pooling pooling, struct rows x, int32_t tokens, int32_t hidden, float *to) {
  const float count = (float)tokens;
  switch (pooling) {
    case EMBK_MEAN: pool_sum(x, tokens, hidden, 0, count, to); break;
    case EMBK_MEAN_SQRT_LENGTH: pool_sum(x, tokens, hidden, 0, __builtin_sqrtf(count), to); break;
    case EMBK_WEIGHTED_MEAN: pool_sum(x, tokens, hidden, 1, count * (count + 1.0f) / 2.0f, to); break;
    case EMBK_CLS: memcpy(to, x.values, sizeof(float) * (size_t)hidden); break;
    case EMBK_LAST_TOKEN: memcpy(to, x.values + (tokens - 1) * x.stride, sizeof(float) * (size_t)hidden); break;
    case EMBK_MAX:
      for (int c = 0; c < hidden; c++) {
        to[c] = x.values[c];
        for (int t = 1; t < tokens; t++) to[c] = scalar_max(x.values[t * x.stride + c], to[c]);
      }
      break;
  }
}

INLINE f32x16 load_part(const float *from, int count) {
  if (count >= LANES) return f_load(from);
  float part[LANES] = {0};
  memcpy(part, from, sizeof(float) * (size_t)count);
  return f_load(part);
}

static void dense(const float *weight, const float *bias, const float *x, int32_t inputs, int32_t outputs, float *to) {
  for (int o = 0; o < outputs; o++) {
    const float *row = weight + (size_t)o * inputs;
    f32x16 sum = f_set(0.0f);
    for (int c = 0; c < inputs; c += LANES) sum = f_fma(load_part(row + c, inputs - c), load_part(x + c, inputs - c), sum);
    to[o] = bias ? f_sum(sum) + bias[o] : f_sum(sum);
  }
}

/* x has room for `size` up to a multiple of 64, where a longer vector may have been; gain and bias may be read that far. */
static void norm_vector(const float *gain, const float *bias, float eps, float *x, int32_t size) {
  for (int c = size; c < ROUND_UP(size, 64); c++) x[c] = 0.0f;
  normalize_row(gain, bias, eps, x, size, ROUND_UP(size, 64));
}

/* As torch.nn.functional.normalize: never divides by less than 1e-12. */
static void unit_vector(float *x, int32_t size) {
  f32x16 squares = f_set(0.0f);
  for (int c = 0; c < size; c += LANES) {
    f32x16 v = load_part(x + c, size - c);
    squares = f_fma(v, v, squares);
  }
  const float length = scalar_max(__builtin_sqrtf(f_sum(squares)), 1e-12f);
  for (int c = 0; c < size; c++) x[c] = x[c] / length;
}

#endif
