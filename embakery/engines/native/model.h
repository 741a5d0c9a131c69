/* An opened model: the pack's tensors, found and measured. */

#ifndef EMBK_MODEL_H
#define EMBK_MODEL_H

#include "kernels.h"

/* Of a matrix, and tokens of a text: the integer sums stay within 32 bits, 255 * 127 * 65536 < 2^31. */
#define MOST_INPUTS 65536

struct layer {
  struct matrix query, key, value, output;
  struct norm attention_norm;
  struct matrix up, loud, down;
  struct norm ffn_norm;
};

struct embk_model {
  struct embk_shape shape;
  const struct kernels *kernels;
  const unsigned char *pack;
  int32_t width, middle, head_size; /* hidden and intermediate up to whole panels; hidden / heads */
  int32_t dimension, widest;        /* of the output, and of any vector on the way to it */
  struct embedding embedding;
  const float *relative_bias;
  struct norm norm;
  struct layer layers[];
};

#endif
