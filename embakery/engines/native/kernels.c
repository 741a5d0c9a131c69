/* Compiled once for each instruction set, with EMBK_TABLE naming its table and one EMBK_* choosing its integer product.
   Everything else is the same source, and gives the same bits. */

#include "kernels.h"

#include "attention.h"
#include "head.h"
#include "layer_norm.h"
#include "linear.h"
#include "quantize.h"

#define QUOTED(name) #name
#define NAME(name) QUOTED(name)
#define JOINED(left, right) left##right
#define SYMBOL(left, right) JOINED(left, right)

extern int SYMBOL(embk_has_, EMBK_TABLE)(void);

const struct kernels SYMBOL(embk_kernels_, EMBK_TABLE) = {
    .name = NAME(EMBK_TABLE),
    .is_here = SYMBOL(embk_has_, EMBK_TABLE),
    .embed = embed,
    .layer_norm = layer_norm,
    .quantize = quantize,
    .quantize_fine = quantize_fine,
    .multiply = multiply,
    .activate = activate,
    .attend = attend,
    .pool = pool,
    .dense = dense,
    .norm_vector = norm_vector,
    .unit_vector = unit_vector,
};
