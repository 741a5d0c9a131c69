/* Layer normalization of rows (arXiv 1607.06450). */

#ifndef EMBK_LAYER_NORM_H
#define EMBK_LAYER_NORM_H

#include "kernels.h"
#include "maths.h"

/* Four sums side by side, so that none waits for the one before; in this order, everywhere. */
#define SUMS 4

INLINE float sum_of(const f32x16 sum[SUMS]) { return f_sum(f_add(f_add(sum[0], sum[1]), f_add(sum[2], sum[3]))); }

/* x has `width` values, a multiple of 64, of which those from `size` on are zero; gain and bias are as long. */
INLINE void normalize_row(const float *gain, const float *bias, float eps, float *x, int size, int width) {
  f32x16 sum[SUMS], squares[SUMS];
  for (int i = 0; i < SUMS; i++) sum[i] = squares[i] = f_set(0.0f);
  for (int c = 0; c < width; c += SUMS * LANES)
    for (int i = 0; i < SUMS; i++) sum[i] = f_add(sum[i], f_load(x + c + i * LANES));
  const f32x16 mean = f_set(sum_of(sum) / (float)size);
  for (int c = 0; c < width; c += SUMS * LANES)
    for (int i = 0; i < SUMS; i++) {
      f32x16 centred = f_sub(f_load(x + c + i * LANES), mean);
      if (c + (i + 1) * LANES > size) centred = f_first(centred, f_set(0.0f), size - c - i * LANES);
      squares[i] = f_fma(centred, centred, squares[i]);
    }
  const f32x16 inverse = f_set(1.0f / __builtin_sqrtf(sum_of(squares) / (float)size + eps));
  for (int c = 0; c < width; c += LANES) {
    f32x16 unit = f_mul(f_sub(f_load(x + c), mean), inverse);
    f_store(x + c, f_fma(unit, f_load(gain + c), f_load(bias + c)));
  }
}

static void layer_norm(const struct norm *norm, struct rows x, int32_t rows, int32_t hidden, int32_t width) {
  for (int r = 0; r < rows; r++) normalize_row(norm->gain, norm->bias, norm->eps, x.values + r * x.stride, hidden, width);
}

#endif
