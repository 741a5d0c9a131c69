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

#include "lanes.h"

#define TILE_ROWS 6
#define PANEL_COLUMNS 64
#define PANEL_VECTORS 4
#define NO_SUMS ((const int32_t *)0)
#define NO_NEXT ((const int8_t *)0)

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

#endif
