/* Encodes texts from files and prints a digest of the vectors' bits: how machines without Python are compared.

     driver ISA PACK PLAN BATCH

   PLAN: struct embk_shape, then the offsets. BATCH: int32 texts, tokens, token output (0 or 1), lengths, ids. */

#include "embakery.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct file { unsigned char *bytes; size_t size; };

static struct file read_file(const char *path) {
  FILE *f = fopen(path, "rb");
  if (!f) exit(2);
  fseek(f, 0, SEEK_END);
  struct file file = {0, (size_t)ftell(f)};
  rewind(f);
  file.bytes = aligned_alloc(64, (file.size + 63) / 64 * 64);
  if (!file.bytes || fread(file.bytes, 1, file.size, f) != file.size) exit(2);
  fclose(f);
  return file;
}

int main(int count, char **arguments) {
  if (count != 5) return 2;
  const struct file pack = read_file(arguments[2]), plan = read_file(arguments[3]), batch_file = read_file(arguments[4]);
  const size_t shape_bytes = sizeof(struct embk_shape);
  struct embk_model *model;
  int status = embk_open(pack.bytes, pack.size, (const struct embk_shape *)plan.bytes, shape_bytes,
                         (const uint64_t *)(plan.bytes + shape_bytes), (plan.size - shape_bytes) / 8, arguments[1], &model);
  if (status) return printf("embk_open: %d; this machine has %s\n", status, embk_isas()), 1;
  const int32_t *head = (const int32_t *)batch_file.bytes;
  const struct embk_batch batch = {head + 3 + head[0], 0, head + 3, head[0], head[1]};
  const size_t columns = head[2] ? (size_t)((const struct embk_shape *)plan.bytes)->hidden : (size_t)embk_dimension(model);
  const size_t rows = (size_t)(head[2] ? head[1] : head[0]), bytes = rows * columns * sizeof(float);
  float *output = malloc(bytes);
  const uint64_t room = embk_workspace_bytes(model, head[1], 1);
  void *workspace = aligned_alloc(64, (room + 63) / 64 * 64);
  memset(workspace, 0xA5, room); /* what lies there must not matter */
  status = embk_encode(model, &batch, head[2] ? EMBK_TOKENS : EMBK_SENTENCES, output, bytes, workspace, room, 0, 1);
  if (status) return printf("embk_encode: %d\n", status), 1;
  uint64_t digest = 14695981039346656037u; /* FNV-1a */
  for (size_t i = 0; i < bytes; i++) digest = (digest ^ ((const unsigned char *)output)[i]) * 1099511628211u;
  printf("%016llx\n", (unsigned long long)digest);
  embk_close(model);
  return 0;
}
