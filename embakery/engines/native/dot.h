/* The integer product, the one thing that each instruction set does in its own way. Integers are exact, so the way does
   not show.

     acc[r][v] lane i  =  sum over k of  a[r][k] * b[k][16 v + i]  -  offset * sums[16 v + i]

   a: `rows` rows of u8, `stride` bytes apart, 4 * groups values each. b: s8, groups of four values of each of 16 * vectors
   columns side by side, `pitch` bytes from group to group. offset: what was added to signed values to make them u8, 0 or
   128. next: where the values are that will be wanted after these, fetched ahead; or NO_NEXT. sums: the columns' sums
   over k, or NO_SUMS where the offset is 0 and they are not at hand.

   rows, vectors and offset are constants in every caller, so that the loops unroll and acc lives in registers. */

#ifndef EMBK_DOT_H
#define EMBK_DOT_H

#include "kernels.h"
#include "lanes.h"

#define PANEL_VECTORS (PANEL_COLUMNS / LANES)
#define NO_SUMS ((const int32_t *)0)
#define NO_NEXT ((const int8_t *)0)

/* Four values of a row, as one number to be broadcast. */
INLINE int32_t dot_four(const uint8_t *a, size_t stride, int row, int group) {
  int32_t four;
  memcpy(&four, a + row * stride + 4 * (size_t)group, 4);
  return four;
}

/* A vector of sums over unsigned values, as it would be over the signed ones. */
INLINE i32x16 dot_signed(i32x16 sum, const int offset, const int32_t *sums) {
  return offset ? i_add(sum, i_mul(i_load(sums), i_set(-offset))) : sum;
}

#if defined(EMBK_AVX512_VNNI)
#include "dot_avx512_vnni.h"
#elif defined(EMBK_AVX_VNNI)
#include "dot_avx_vnni.h"
#elif defined(EMBK_AVX2)
#include "dot_avx2.h"
#elif defined(EMBK_NEON_I8MM)
#include "dot_neon_i8mm.h"
#elif defined(EMBK_NEON_DOT)
#include "dot_neon.h"
#else
#include "dot_scalar.h"
#endif

/* Where few registers make a tile come in parts: dot_part does PART_ROWS rows of one vector. */
#ifdef PART_ROWS
INLINE void dot_tile(const int rows, const int vectors, const int offset, const uint8_t *a, size_t stride,
                     const int8_t *b, size_t pitch, int groups, const int8_t *next, const int32_t *sums,
                     i32x16 acc[TILE_ROWS][PANEL_VECTORS]) {
UNROLL_NOT
  for (int v = 0; v < vectors; v++)
UNROLL
    for (int r = 0; r < rows; r += PART_ROWS)
      dot_part(rows - r < PART_ROWS ? rows - r : PART_ROWS, offset, a + r * stride, stride, b + 64 * v, pitch, groups,
               next ? next + 64 * v : next, sums ? sums + v * LANES : sums, &acc[r][v]);
}
#endif

#endif
