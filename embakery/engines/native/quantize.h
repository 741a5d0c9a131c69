/* Rows of activations to eight or sixteen bits, each row with a scale and an offset of its own.

     step = (high - low) / levels,   value = round((x - low) / step)

   Nothing here looks beyond a row: that is what makes a vector independent of its batch. */

#ifndef EMBK_QUANTIZE_H
#define EMBK_QUANTIZE_H

#include "kernels.h"
#include "maths.h"

/* A row of equal values would divide 0 by 0: with the smallest useful span it quantizes to all zeros. */
#define SMALLEST_SPAN 1e-20f

struct range { float low, span; };

/* columns: a multiple of 64. */
INLINE struct range row_range(const float *x, int columns) {
  f32x16 low[4], high[4];
  for (int i = 0; i < 4; i++) low[i] = high[i] = f_load(x + i * LANES);
  for (int c = 4 * LANES; c < columns; c += 4 * LANES)
    for (int i = 0; i < 4; i++) {
      f32x16 v = f_load(x + c + i * LANES);
      low[i] = f_min(low[i], v);
      high[i] = f_max(high[i], v);
    }
  const float least = f_least(f_min(f_min(low[0], low[1]), f_min(low[2], low[3])));
  const float most = f_greatest(f_max(f_max(high[0], high[1]), f_max(high[2], high[3])));
  return (struct range){least, scalar_max(most - least, SMALLEST_SPAN)};
}

static void quantize(struct rows x, int32_t rows, int32_t columns, struct rows8 to) {
  for (int r = 0; r < rows; r++) {
    const float *from = x.values + r * x.stride;
    uint8_t *values = to.values + r * to.stride;
    struct range range = row_range(from, columns);
    f32x16 low = f_set(range.low), inverse = f_set(255.0f / range.span);
    for (int c = 0; c < columns; c += LANES) {
      f32x16 level = f_fma(f_sub(f_load(from + c), low), inverse, f_set(ROUNDER));
      store_bytes(values + c, i_low_bytes(f_bits(level)));
    }
    to.step[r] = range.span / 255.0f;
    to.low[r] = range.low;
  }
}

static void quantize_fine(struct rows x, int32_t rows, int32_t columns, struct rows8 to) {
  for (int r = 0; r < rows; r++) {
    const float *from = x.values + r * x.stride;
    uint8_t *high = to.values + r * to.stride, *fine = high + columns;
    struct range range = row_range(from, columns);
    f32x16 low = f_set(range.low), inverse = f_set(65535.0f / range.span);
    for (int c = 0; c < columns; c += LANES) {
      i32x16 level = f_bits(f_fma(f_sub(f_load(from + c), low), inverse, f_set(ROUNDER)));
      store_bytes(high + c, i_low_bytes(i_shift_right(level, 8)));
      store_bytes(fine + c, i_low_bytes(level));
    }
    to.step[r] = range.span / 65535.0f * 256.0f;
    to.low[r] = range.low;
    to.coarse_low[r] = __builtin_fmaf(to.step[r], 127.5f / 256.0f, range.low);
  }
}

#endif
