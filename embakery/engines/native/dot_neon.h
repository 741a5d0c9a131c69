/* sdot: 16 products an instruction, signed by signed. The u8 activations become signed by turning their highest bit,
   which takes 128 off each: the columns' sums put it back, and are made along the way where they are not at hand. */

#include <arm_neon.h>

#define PART_ROWS TILE_ROWS

INLINE void dot_part(const int rows, const int offset, const uint8_t *a, size_t stride, const int8_t *b, size_t pitch,
                     int groups, const int8_t *next, const int32_t *sums, i32x16 *to) {
  int32x4_t sum[TILE_ROWS][4], total[4];
  const int counts = offset != 128 && !sums;
  const uint8x16_t highest = vdupq_n_u8(0x80);
UNROLL
  for (int q = 0; q < 4; q++) {
    int32x4_t start = vdupq_n_s32(0);
    total[q] = start;
    if (offset != 128 && sums) start = vmulq_n_s32(vld1q_s32(sums + 4 * q), 128 - offset);
UNROLL
    for (int r = 0; r < rows; r++) sum[r][q] = start;
  }
  for (int g = 0; g < groups; g++) {
    if (next) __builtin_prefetch(next + (size_t)g * pitch, 0, 2);
    int8x16_t column[4];
UNROLL
    for (int q = 0; q < 4; q++) {
      column[q] = vld1q_s8(b + (size_t)g * pitch + 16 * q);
      if (counts) total[q] = vdotq_s32(total[q], column[q], vdupq_n_s8(1));
    }
UNROLL
    for (int r = 0; r < rows; r++) {
      uint8x16_t four = vreinterpretq_u8_s32(vdupq_n_s32(dot_four(a, stride, r, g)));
      int8x16_t row = vreinterpretq_s8_u8(veorq_u8(four, highest));
UNROLL
      for (int q = 0; q < 4; q++) sum[r][q] = vdotq_s32(sum[r][q], column[q], row);
    }
  }
UNROLL
  for (int r = 0; r < rows; r++) {
    int32_t row[LANES];
    for (int q = 0; q < 4; q++) vst1q_s32(row + 4 * q, counts ? vmlaq_n_s32(sum[r][q], total[q], 128) : sum[r][q]);
    to[r * PANEL_VECTORS] = i_load(row);
  }
}
