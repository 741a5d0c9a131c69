/* usmmla: two rows by two columns, eight values of k each, u8 by s8: 32 products an instruction. Two groups of four
   columns, zipped, give the right operands of two instructions. */

#include <arm_neon.h>

#define PART_ROWS TILE_ROWS

INLINE int8x16_t dot_zip(int8x16_t a, int8x16_t b, const int upper) {
  int32x4_t x = vreinterpretq_s32_s8(a), y = vreinterpretq_s32_s8(b);
  return vreinterpretq_s8_s32(upper ? vzip2q_s32(x, y) : vzip1q_s32(x, y));
}

/* `bytes` values of k of two rows; zeros where there are fewer. */
INLINE uint8x16_t dot_pair(const uint8_t *a, size_t stride, const int bytes, const int rows) {
  uint64_t two[2] = {0, 0};
  memcpy(&two[0], a, bytes);
  if (rows > 1) memcpy(&two[1], a + stride, bytes);
  return vreinterpretq_u8_u64(vld1q_u64(two));
}

/* Up to eight values of k of 16 columns. sum[r][c], r even, holds rows r and r + 1 of columns 2c and 2c + 1. */
INLINE void dot_step(const int rows, const int bytes, const uint8_t *a, size_t stride, const int8_t *first,
                     const int8_t *second, int32x4_t sum[TILE_ROWS / 2][8]) {
  uint8x16_t pair[TILE_ROWS / 2];
UNROLL
  for (int r = 0; r < rows; r += 2) pair[r / 2] = dot_pair(a + r * stride, stride, bytes, rows - r);
UNROLL
  for (int q = 0; q < 4; q++) {
    int8x16_t upper = bytes > 4 ? vld1q_s8(second + 16 * q) : vdupq_n_s8(0), lower = vld1q_s8(first + 16 * q);
    int8x16_t columns[2] = {dot_zip(lower, upper, 0), dot_zip(lower, upper, 1)};
UNROLL
    for (int r = 0; r < rows; r += 2) {
      sum[r / 2][2 * q] = vusmmlaq_s32(sum[r / 2][2 * q], pair[r / 2], columns[0]);
      sum[r / 2][2 * q + 1] = vusmmlaq_s32(sum[r / 2][2 * q + 1], pair[r / 2], columns[1]);
    }
  }
}

INLINE void dot_part(const int rows, const int offset, const uint8_t *a, size_t stride, const int8_t *b, size_t pitch,
                     int groups, const int8_t *next, const int32_t *sums, i32x16 *to) {
  int32x4_t sum[TILE_ROWS / 2][8];
UNROLL
  for (int r = 0; r < TILE_ROWS / 2; r++)
UNROLL
    for (int c = 0; c < 8; c++) sum[r][c] = vdupq_n_s32(0);
  int g = 0;
  for (; g + 2 <= groups; g += 2) {
    const int8_t *first = b + (size_t)g * pitch;
    if (next) __builtin_prefetch(next + (size_t)g * pitch, 0, 2);
    if (next) __builtin_prefetch(next + (size_t)(g + 1) * pitch, 0, 2);
    dot_step(rows, 8, a + 4 * (size_t)g, stride, first, first + pitch, sum);
  }
  if (g < groups) dot_step(rows, 4, a + 4 * (size_t)g, stride, b + (size_t)g * pitch, NULL, sum);
  for (int r = 0; r < rows; r++) {
    int32_t row[LANES];
    for (int c = 0; c < 8; c++)
      vst1_s32(row + 2 * c, r % 2 ? vget_high_s32(sum[r / 2][c]) : vget_low_s32(sum[r / 2][c]));
    to[r * PANEL_VECTORS] = dot_signed(i_load(row), offset, sums);
  }
}
