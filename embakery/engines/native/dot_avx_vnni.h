/* vpdpbusd on 256 bits. Sixteen registers: three rows by four half-vectors at a time. */

#include <immintrin.h>

INLINE void dot_part(const int rows, const int vectors, const int offset, const uint8_t *a, size_t stride,
                     const int8_t *b, size_t pitch, int groups, const int8_t *next, const int32_t *sums, int32_t *to) {
  __m256i sum[3][4];
  for (int h = 0; h < 2 * vectors; h++) {
    __m256i start = _mm256_setzero_si256();
    if (offset)
      start = _mm256_mullo_epi32(_mm256_loadu_si256((const __m256i *)(sums + 8 * h)), _mm256_set1_epi32(-offset));
    for (int r = 0; r < rows; r++) sum[r][h] = start;
  }
  for (int g = 0; g < groups; g++) {
    __m256i column[4];
UNROLL
    for (int h = 0; h < 2 * vectors; h++) {
      if (next && h % 2 == 0) __builtin_prefetch(next + (size_t)g * pitch + 32 * h, 0, 2);
      column[h] = _mm256_load_si256((const __m256i *)(b + (size_t)g * pitch + 32 * h));
    }
UNROLL
    for (int r = 0; r < rows; r++) {
      __m256i row = _mm256_set1_epi32(dot_four(a, stride, r, g));
UNROLL
      for (int h = 0; h < 2 * vectors; h++) sum[r][h] = _mm256_dpbusd_avx_epi32(sum[r][h], row, column[h]);
    }
  }
  for (int r = 0; r < rows; r++)
    for (int h = 0; h < 2 * vectors; h++)
      _mm256_storeu_si256((__m256i *)(to + r * PANEL_COLUMNS + 8 * h), sum[r][h]);
}

INLINE void dot_tile(const int rows, const int vectors, const int offset, const uint8_t *a, size_t stride,
                     const int8_t *b, size_t pitch, int groups, const int8_t *next, const int32_t *sums,
                     i32x16 acc[TILE_ROWS][PANEL_VECTORS]) {
UNROLL
  for (int v = 0; v < vectors; v += 2)
UNROLL
    for (int r = 0; r < rows; r += 3)
      dot_part(rows - r < 3 ? rows - r : 3, vectors - v < 2 ? vectors - v : 2, offset, a + r * stride, stride,
               b + 64 * v, pitch, groups, next ? next + 64 * v : next, sums ? sums + v * LANES : sums,
               (int32_t *)&acc[r][v]);
}
