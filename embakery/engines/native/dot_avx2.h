/* Without VNNI: vpmaddubsw would saturate at 16 bits (255 * 127 * 2), so both sides are widened to 16 bits and go
   through vpmaddwd, which is exact. A register then holds four columns, each as two sums, of even and odd pairs of k. */

#include <immintrin.h>

#define PART_ROWS 3

INLINE void dot_part(const int rows, const int offset, const uint8_t *a, size_t stride, const int8_t *b, size_t pitch,
                     int groups, const int8_t *next, const int32_t *sums, i32x16 *to) {
  __m256i sum[PART_ROWS][4];
  for (int r = 0; r < rows; r++)
    for (int q = 0; q < 4; q++) sum[r][q] = _mm256_setzero_si256();
  for (int g = 0; g < groups; g++) {
    if (next) __builtin_prefetch(next + (size_t)g * pitch, 0, 2);
    __m256i row[PART_ROWS];
UNROLL
    for (int r = 0; r < rows; r++) row[r] = _mm256_cvtepu8_epi16(_mm_set1_epi32(dot_four(a, stride, r, g)));
UNROLL
    for (int q = 0; q < 4; q++) {
      const int8_t *four_columns = b + (size_t)g * pitch + 16 * q;
      __m256i column = _mm256_cvtepi8_epi16(_mm_load_si128((const __m128i *)four_columns));
UNROLL
      for (int r = 0; r < rows; r++) sum[r][q] = _mm256_add_epi32(sum[r][q], _mm256_madd_epi16(row[r], column));
    }
  }
  for (int r = 0; r < rows; r++) {
    /* Within halves of a register: columns 0 1 4 5 | 2 3 6 7, put in order by the permutation. */
    __m256i low = _mm256_permute4x64_epi64(_mm256_hadd_epi32(sum[r][0], sum[r][1]), 0xD8);
    __m256i high = _mm256_permute4x64_epi64(_mm256_hadd_epi32(sum[r][2], sum[r][3]), 0xD8);
    int32_t row[LANES];
    _mm256_storeu_si256((__m256i *)row, low);
    _mm256_storeu_si256((__m256i *)(row + 8), high);
    to[r * PANEL_VECTORS] = dot_signed(i_load(row), offset, sums);
  }
}
