/* The native engine's C interface: int8 BERT-family encoders on the CPU, the same bits on every one of them.

   A model is a view of a pack (encoder.pack, memory-mapped by the caller) and owns none of it. Everything that comes in
   is checked; nothing is trusted. A call needs a workspace, which only one call may use at a time; different calls may
   run side by side on one model. No function keeps a pointer after it returns, but embk_open into the pack. */

#ifndef EMBAKERY_H
#define EMBAKERY_H

#include <stdint.h>

#define EMBK_EXPORT __attribute__((visibility("default")))

/* What the caller and this library must agree on; raised with every change of the structures below. */
#define EMBK_ABI 2

enum embk_status {
  EMBK_OK = 0,
  EMBK_BAD_SHAPE = 1,     /* a size that no model has, or that does not fit the others */
  EMBK_BAD_PACK = 2,      /* a tensor is missing, unaligned, or ends beyond the pack */
  EMBK_BAD_INPUT = 3,     /* a null pointer, or a number of texts or tokens that does not fit */
  EMBK_BAD_LENGTH = 4,    /* a text of no tokens, or of more than the model has positions */
  EMBK_BAD_TOKEN = 5,     /* an id outside the vocabulary, or a type outside the types */
  EMBK_BAD_OUTPUT = 6,    /* the output has not the size of the result */
  EMBK_BAD_WORKSPACE = 7, /* the workspace is too small or unaligned */
  EMBK_NO_MEMORY = 8,
  EMBK_BAD_ISA = 9, /* this CPU, or this build, has no such instruction set */
};

enum embk_activation {
  EMBK_IDENTITY = 0,
  EMBK_GELU = 1,
  EMBK_GELU_TANH = 2,
  EMBK_RELU = 3,
  EMBK_SILU = 4,
  EMBK_TANH = 5,
  EMBK_SIGMOID = 6,
};

enum embk_pooling {
  EMBK_MEAN = 0,
  EMBK_CLS = 1,
  EMBK_MAX = 2,
  EMBK_MEAN_SQRT_LENGTH = 3,
  EMBK_WEIGHTED_MEAN = 4, /* weights 1, 2, 3, ... along the text */
  EMBK_LAST_TOKEN = 5,
};

enum embk_step_kind { EMBK_DENSE = 0, EMBK_LAYER_NORM = 1, EMBK_NORMALIZE = 2, EMBK_ACTIVATE = 3 };

#define EMBK_MOST_POOLINGS 6
#define EMBK_MOST_STEPS 16

/* One step from the pooled vector to the output. weight and bias are offsets into the pack, 0 for none: float32
   (outputs, inputs) and (outputs,) of a dense layer, gain and bias (inputs,) of a layer norm. */
struct embk_step {
  int32_t kind, activation, inputs, outputs;
  float eps;
  int32_t reserved;
  uint64_t weight, bias;
};

struct embk_shape {
  int32_t layers, hidden, heads, intermediate;
  int32_t loud;       /* hidden units of the feed-forward layers that have scales of their own, first in order; or 0 */
  int32_t activation; /* of the feed-forward layers */
  int32_t vocabulary, positions, token_types; /* token_types: rows of the table, 0 where there is none */
  int32_t pad_token;  /* the token that takes no position, and then the position table has a row 0 for it; or -1 */
  int32_t farthest;   /* farthest distance with a bias of its own (MPNet); or 0 */
  float eps;          /* the layer norms' */
  int32_t poolings, steps;
  int32_t pooling[EMBK_MOST_POOLINGS]; /* joined in this order */
  struct embk_step step[EMBK_MOST_STEPS];
};

/* Offsets of tensors in the pack, in this order; 0 stands for a tensor that the shape does not have. All are aligned to
   64 bytes. `matrix` is int8 tiles [N/64][K/4][64][4], then float32 (N,) scale, offset and bias, int32 (N,) column sums.
   float32 and int32 rows may be read up to the next multiple of 64 elements.

     word int8 (vocabulary, hidden), its scale float32 (vocabulary,), positions float32 (positions [+ 1], hidden),
     token types float32 (token_types, hidden), relative bias float32 (heads, 2 farthest + 1), norm gain, bias, residual
     each layer: matrices query, key, value, output; norm gain, bias, residual; matrices up, loud, down; norm ... */
enum { EMBK_HEAD_OFFSETS = 8, EMBK_MATRIX_OFFSETS = 5, EMBK_NORM_OFFSETS = 3, EMBK_LAYER_OFFSETS = 7 * 5 + 2 * 3 };

struct embk_model;

struct embk_batch {
  const int32_t *ids;     /* the tokens of all texts, one text after another */
  const int32_t *types;   /* each token's type, or null: all 0 */
  const int32_t *lengths; /* each text's number of tokens */
  int32_t texts, tokens;
};

enum embk_output { EMBK_SENTENCES = 0, EMBK_TOKENS = 1 };

EMBK_EXPORT int32_t embk_abi(void);

/* The instruction sets of this build that this CPU has, best first, as names separated by commas. */
EMBK_EXPORT const char *embk_isas(void);

/* Opens a model over a pack. isa: one of embk_isas. *model is to be closed; the pack must outlive it. */
EMBK_EXPORT int32_t embk_open(const void *pack, uint64_t pack_bytes, const struct embk_shape *shape,
                              uint64_t shape_bytes, const uint64_t *offsets, uint64_t offset_count, const char *isa,
                              struct embk_model **model);
EMBK_EXPORT void embk_close(struct embk_model *model);

/* Values of one sentence's output. */
EMBK_EXPORT int32_t embk_dimension(const struct embk_model *model);

/* Bytes of a workspace for batches of so many tokens and a team of so many threads; 0 if they make no sense. */
EMBK_EXPORT uint64_t embk_workspace_bytes(const struct embk_model *model, int32_t tokens, int32_t team);

/* Encodes a batch. output: float32 (texts, dimension), or (tokens, hidden) for EMBK_TOKENS.

   A team of threads may share the work of one call: each makes the same call with its own rank, 0 to team - 1, on one
   workspace whose first 64 bytes were zeroed before. When one of them returns the output is whole, but the workspace is in
   use until all have. The bits do not depend on the team. workspace: aligned to 64 bytes. */
EMBK_EXPORT int32_t embk_encode(const struct embk_model *model, const struct embk_batch *batch, int32_t output_kind,
                                float *output, uint64_t output_bytes, void *workspace, uint64_t workspace_bytes,
                                int32_t rank, int32_t team);

/* Threads of the caller's that wait in here for work: waking them from here takes a third of what it takes from Python.
   embk_crew_join gives the calling thread to the crew and returns when the crew is dismissed. embk_crew_encode is
   embk_encode for the calling thread and those that come in time, one call at a time; its workspace must do for all.
   threads: how many will join; the crew is freed when it was dismissed and all of them have left. */
struct embk_crew;

EMBK_EXPORT struct embk_crew *embk_crew_new(int32_t threads);
EMBK_EXPORT void embk_crew_join(struct embk_crew *crew);
EMBK_EXPORT void embk_crew_dismiss(struct embk_crew *crew);
EMBK_EXPORT int32_t embk_crew_encode(struct embk_crew *crew, const struct embk_model *model, const struct embk_batch *batch,
                                     int32_t output_kind, float *output, uint64_t output_bytes, void *workspace,
                                     uint64_t workspace_bytes);

#endif
