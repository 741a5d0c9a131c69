/* Products of eight-bit rows with a matrix, and what is done to each tile while it is still in registers.

     y = step * scale * (values . W)  +  low * scale * sums(W)  +  bias         scale * sums(W) is the matrix's `offset`

   A panel of 64 columns stays in the first-level cache while all rows pass by it, six at a time. */

#ifndef EMBK_LINEAR_H
#define EMBK_LINEAR_H

#include "dot.h"
#include "kernels.h"
#include "maths.h"

INLINE void finish_tile(const enum epilogue epilogue, const int rows, const struct product *p, int row, int panel,
                        i32x16 acc[TILE_ROWS][PANEL_VECTORS]) {
  const struct matrix *m = p->matrix;
  /* A row of FINE is two rows of the tile: its high bytes and its low ones. */
  const int planes = epilogue == FINE ? 2 : 1;
UNROLL
  for (int v = 0; v < PANEL_VECTORS; v++) {
    const size_t column = (size_t)panel * PANEL_COLUMNS + v * LANES;
    f32x16 scale = f_load(m->scale + column), offset = f_load(m->offset + column);
    f32x16 bias = epilogue == ADD ? f_set(0.0f) : f_load(m->bias + column);
    f32x16 residual_scale = epilogue == RESIDUAL ? f_load(p->residual_scale + column) : f_set(0.0f);
UNROLL
    for (int r = 0; r < rows / planes; r++) {
      const size_t at = (size_t)row + r;
      float *to = p->y.values + at * p->y.stride + (size_t)(panel - p->first_panel) * PANEL_COLUMNS + v * LANES;
      f32x16 start = epilogue == ADD ? f_load(to) : bias;
      if (epilogue == RESIDUAL)
        start = f_fma(f_load(p->residual.values + at * p->residual.stride + column), residual_scale, start);
      f32x16 sum = f_from_i(acc[r * planes][v]);
      if (epilogue == FINE) sum = f_fma(f_from_i(acc[r * planes + 1][v]), f_set(1.0f / 256.0f), sum);
      start = f_fma(f_set(p->x.low[at]), offset, start);
      f32x16 y = f_fma(f_set(p->x.step[at]), f_mul(sum, scale), start);
      f_store(to, epilogue == GELU ? f_gelu(y) : y);
    }
  }
}

INLINE void multiply_tile(const enum epilogue epilogue, const int rows, const struct product *p, int row, int panel,
                          const int8_t *next) {
  const struct matrix *m = p->matrix;
  i32x16 acc[TILE_ROWS][PANEL_VECTORS];
  const int planes = epilogue == FINE ? 2 : 1;
  dot_tile(rows, PANEL_VECTORS, 0, p->x.values + (size_t)row * planes * p->x.stride, p->x.stride,
           panel_at(m, panel), 4 * PANEL_COLUMNS, m->groups, next, m->sums + (size_t)panel * PANEL_COLUMNS, acc);
  finish_tile(epilogue, rows, p, row, panel, acc);
}

INLINE void multiply_panels(const enum epilogue epilogue, const struct product *p) {
  const int planes = epilogue == FINE ? 2 : 1, step = TILE_ROWS / planes;
  for (int panel = p->first_panel; panel < p->last_panel; panel++) {
    /* The last tile fetches the next panel; the others fetch what they have, which costs nothing. */
    const int8_t *here = panel_at(p->matrix, panel), *next = p->next ? p->next : here;
    if (panel + 1 < p->last_panel) next = panel_at(p->matrix, panel + 1);
    int row = 0;
    for (; row + step <= p->rows; row += step)
      multiply_tile(epilogue, TILE_ROWS, p, row, panel, row + step < p->rows ? here : next);
    switch ((p->rows - row) * planes) {
      case 5: multiply_tile(epilogue, 5, p, row, panel, next); break;
      case 4: multiply_tile(epilogue, 4, p, row, panel, next); break;
      case 3: multiply_tile(epilogue, 3, p, row, panel, next); break;
      case 2: multiply_tile(epilogue, 2, p, row, panel, next); break;
      case 1: multiply_tile(epilogue, 1, p, row, panel, next); break;
      default: break;
    }
  }
}

static void multiply(const struct product *product, enum epilogue epilogue) {
  switch (epilogue) {
    case PLAIN: multiply_panels(PLAIN, product); break;
    case FINE: multiply_panels(FINE, product); break;
    case GELU: multiply_panels(GELU, product); break;
    case RESIDUAL: multiply_panels(RESIDUAL, product); break;
    case ADD: multiply_panels(ADD, product); break;
  }
}

static void activate(int activation, struct rows x, int32_t rows, int32_t columns) {
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < columns; c += LANES) {
      float *at = x.values + r * x.stride + c;
      f_store(at, f_activate(activation, f_load(at)));
    }
}

#endif
