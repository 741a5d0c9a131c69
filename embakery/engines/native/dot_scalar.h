/* Plain loops: the reference. */

INLINE void dot_tile(const int rows, const int vectors, const int offset, const uint8_t *a, size_t stride,
                     const int8_t *b, size_t pitch, int groups, const int8_t *next, const int32_t *sums,
                     i32x16 acc[TILE_ROWS][PANEL_VECTORS]) {
  (void)next;
  for (int r = 0; r < rows; r++) {
    int32_t row[PANEL_COLUMNS] = {0};
    for (int g = 0; g < groups; g++)
      for (int column = 0; column < vectors * LANES; column++)
        for (int k = 0; k < 4; k++)
          row[column] += (int32_t)a[r * stride + 4 * (size_t)g + k] * b[(size_t)g * pitch + 4 * column + k];
    for (int v = 0; v < vectors; v++) acc[r][v] = dot_signed(i_load(row + v * LANES), offset, sums + v * LANES);
  }
}
