/* What the encoder is made of. Each instruction set has all of it, in a table of its own; the encoder calls through the
   model's table and knows no instruction set. */

#ifndef EMBK_KERNELS_H
#define EMBK_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "embakery.h"

/* The dot product's panels, and with them the width of every row of activations; the rows of its tiles; the widest head. */
#define PANEL_COLUMNS 64
#define TILE_ROWS 6
#define MOST_HEAD_SIZE 512

#define ROUND_UP(n, to) (((n) + (to) - 1) / (to) * (to))

/* A product's constant side: int8 [panels][groups][64][4]; rows of float and int for each of 64 * panels columns. */
struct matrix {
  const int8_t *tiles;
  const float *scale, *offset, *bias;
  const int32_t *sums;
  int32_t groups, panels;
};

static inline const int8_t *panel_at(const struct matrix *m, int panel) {
  return m->tiles + (size_t)panel * (size_t)m->groups * 4 * PANEL_COLUMNS;
}

struct norm {
  const float *gain, *bias;
  const float *residual; /* what a residual that reads the norm multiplies it by */
  float eps;
};

/* Rows of activations as eight bits: x = low + step * value, of each row. Or as sixteen, in two planes one behind the
   other: x = low + step * (high + fine / 256); the high bytes alone are rounded down, so that x = coarse_low + step * high. */
struct rows8 {
  uint8_t *values;
  size_t stride;
  float *step, *low, *coarse_low;
};

/* Floating-point rows. */
struct rows {
  float *values;
  size_t stride;
};

/* What happens to a product's rows before they are stored. */
enum epilogue {
  PLAIN,    /* y = x W + bias */
  FINE,     /* the same, of activations of sixteen bits; x.stride is that from plane to plane */
  GELU,     /* y = gelu(x W + bias) */
  RESIDUAL, /* y = x W + bias + residual * residual_scale */
  ADD,      /* y = y + x W */
};

struct product {
  struct rows8 x;
  const struct matrix *matrix;
  struct rows y;             /* panel p's columns go to 64 * (p - first_panel) */
  struct rows residual;      /* RESIDUAL: at 64 * p */
  const float *residual_scale;
  int32_t rows, first_panel, last_panel;
  const int8_t *next; /* the panel that will be wanted after this product's last one, or null: it is fetched ahead */
};

/* One head's attention over one text: tokens rows of query, key and value, each head_size wide. */
struct attention {
  struct rows query, key, value, context;
  const float *bias; /* by distance, the middle one at 0; or null */
  int32_t farthest;
  int32_t tokens, head_size;
  struct attention_scratch {
    int8_t *keys;      /* panels of 64 tokens, tiled as a matrix's columns are */
    int8_t *values;    /* tiled as a matrix's rows are, four tokens to a group; head_size up to a multiple of 16 columns */
    float *key_scale;  /* each of tokens, up to a multiple of 64; so are the next three */
    int32_t *key_sums;
    float *value_scale, *value_inverse;
    float *scores;     /* TILE_ROWS rows of as many */
    uint8_t *shares;   /* the same */
    uint8_t *queries;  /* TILE_ROWS rows of head_size up to a multiple of 16 */
  } scratch;
};

struct embedding {
  const int8_t *word;
  const float *word_scale, *position, *type;
  int32_t hidden, width;
};

struct kernels {
  const char *name;
  int (*is_here)(void);
  void (*embed)(const struct embedding *table, int32_t id, int32_t place, int32_t type, float *to);
  /* Rows in place; `width` is hidden up to a multiple of 64, what lies between is and stays zero. */
  void (*layer_norm)(const struct norm *norm, struct rows x, int32_t rows, int32_t hidden, int32_t width);
  void (*quantize)(struct rows x, int32_t rows, int32_t columns, struct rows8 to);
  /* Sixteen bits: the fine plane is `columns` bytes behind the high one. */
  void (*quantize_fine)(struct rows x, int32_t rows, int32_t columns, struct rows8 to);
  void (*multiply)(const struct product *product, enum epilogue epilogue);
  void (*activate)(int activation, struct rows x, int32_t rows, int32_t columns);
  void (*attend)(const struct attention *attention);
  /* One text's rows to one vector. */
  void (*pool)(enum embk_pooling pooling, struct rows x, int32_t tokens, int32_t hidden, float *to);
  /* One step of the head, from a vector to another or in place. */
  void (*dense)(const float *weight, const float *bias, const float *x, int32_t inputs, int32_t outputs, float *to);
  void (*norm_vector)(const float *gain, const float *bias, float eps, float *x, int32_t size);
  void (*unit_vector)(float *x, int32_t size);
};

/* This build's tables, best first, ended by null. */
extern const struct kernels *const embk_kernels[];

#endif
