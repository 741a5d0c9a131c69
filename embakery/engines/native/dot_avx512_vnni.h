/* vpdpbusd on 512 bits: 64 products an instruction. Six rows by four vectors are 24 accumulators; four registers hold
   the panel's values and the rest the broadcast activations. */

#include <immintrin.h>

INLINE void dot_tile(const int rows, const int vectors, const int offset, const uint8_t *a, size_t stride,
                     const int8_t *b, size_t pitch, int groups, const int8_t *next, const int32_t *sums,
                     i32x16 acc[TILE_ROWS][PANEL_VECTORS]) {
  __m512i sum[TILE_ROWS][PANEL_VECTORS];
UNROLL
  for (int v = 0; v < vectors; v++) {
    i32x16 start = dot_signed(i_set(0), offset, sums + v * LANES);
UNROLL
    for (int r = 0; r < rows; r++) sum[r][v] = (__m512i)start;
  }
UNROLL_TWICE
  for (int g = 0; g < groups; g++) {
    __m512i column[PANEL_VECTORS];
UNROLL
    for (int v = 0; v < vectors; v++) {
      column[v] = _mm512_load_si512(b + (size_t)g * pitch + 64 * v);
      if (next) __builtin_prefetch(next + (size_t)g * pitch + 64 * v, 0, 2);
    }
UNROLL
    for (int r = 0; r < rows; r++) {
      __m512i row = _mm512_set1_epi32(dot_four(a, stride, r, g));
UNROLL
      for (int v = 0; v < vectors; v++) sum[r][v] = _mm512_dpbusd_epi32(sum[r][v], row, column[v]);
    }
  }
UNROLL
  for (int r = 0; r < rows; r++)
UNROLL
    for (int v = 0; v < vectors; v++) acc[r][v] = (i32x16)sum[r][v];
}
