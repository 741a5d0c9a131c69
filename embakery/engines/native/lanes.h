/* Sixteen lanes: the one vector type of all floating-point arithmetic here, whatever the CPU's registers hold.

   Every operation is IEEE single, rounded to nearest, lane by lane, so that each instruction set gives equal bits: a fused
   multiply-add only where f_fma stands, sums across lanes only by f_sum's tree. -ffp-contract=off keeps the compiler from
   fusing what is written apart.

   EMBK_SCALAR says the same in plain loops: the reference that the others are held to. */

#ifndef EMBK_LANES_H
#define EMBK_LANES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LANES 16

/* Constants of a caller become constants of the function, and vectors stay in registers. The reference is to be small
   instead, and readable for any compiler. */
#ifdef EMBK_SCALAR
#define INLINE static inline
#define UNROLL
#define UNROLL_TWICE
#define UNROLL_NOT
#else
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("clang loop unroll(full)")
#define UNROLL_TWICE _Pragma("clang loop unroll_count(2)")
#define UNROLL_NOT _Pragma("clang loop unroll(disable)")
#endif

#ifdef EMBK_SCALAR

typedef struct { float at[LANES]; } f32x16;
typedef struct { int32_t at[LANES]; } i32x16;
typedef struct { uint8_t at[LANES]; } u8x16;

#define EACH_LANE for (int i = 0; i < LANES; i++)

INLINE f32x16 f_set(float value) { f32x16 r; EACH_LANE r.at[i] = value; return r; }
INLINE f32x16 f_add(f32x16 a, f32x16 b) { EACH_LANE a.at[i] = a.at[i] + b.at[i]; return a; }
INLINE f32x16 f_sub(f32x16 a, f32x16 b) { EACH_LANE a.at[i] = a.at[i] - b.at[i]; return a; }
INLINE f32x16 f_mul(f32x16 a, f32x16 b) { EACH_LANE a.at[i] = a.at[i] * b.at[i]; return a; }
INLINE f32x16 f_div(f32x16 a, f32x16 b) { EACH_LANE a.at[i] = a.at[i] / b.at[i]; return a; }
INLINE f32x16 f_fma(f32x16 a, f32x16 b, f32x16 c) { EACH_LANE c.at[i] = __builtin_fmaf(a.at[i], b.at[i], c.at[i]); return c; }
INLINE f32x16 f_min(f32x16 a, f32x16 b) { EACH_LANE a.at[i] = a.at[i] < b.at[i] ? a.at[i] : b.at[i]; return a; }
INLINE f32x16 f_max(f32x16 a, f32x16 b) { EACH_LANE a.at[i] = a.at[i] > b.at[i] ? a.at[i] : b.at[i]; return a; }
INLINE f32x16 f_first(f32x16 a, f32x16 b, int count) { EACH_LANE a.at[i] = i < count ? a.at[i] : b.at[i]; return a; }
INLINE f32x16 f_from_i(i32x16 a) { f32x16 r; EACH_LANE r.at[i] = (float)a.at[i]; return r; }
INLINE i32x16 f_bits(f32x16 a) { i32x16 r; memcpy(&r, &a, sizeof r); return r; }
INLINE f32x16 i_as_f(i32x16 a) { f32x16 r; memcpy(&r, &a, sizeof r); return r; }
INLINE i32x16 i_set(int32_t value) { i32x16 r; EACH_LANE r.at[i] = value; return r; }
INLINE i32x16 i_add(i32x16 a, i32x16 b) { EACH_LANE a.at[i] = (int32_t)((uint32_t)a.at[i] + (uint32_t)b.at[i]); return a; }
INLINE i32x16 i_mul(i32x16 a, i32x16 b) { EACH_LANE a.at[i] = (int32_t)((uint32_t)a.at[i] * (uint32_t)b.at[i]); return a; }
INLINE i32x16 i_and(i32x16 a, i32x16 b) { EACH_LANE a.at[i] = a.at[i] & b.at[i]; return a; }
INLINE i32x16 i_or(i32x16 a, i32x16 b) { EACH_LANE a.at[i] = a.at[i] | b.at[i]; return a; }
INLINE i32x16 i_shift_left(i32x16 a, int by) { EACH_LANE a.at[i] = (int32_t)((uint32_t)a.at[i] << by); return a; }
/* With the sign. */
INLINE i32x16 i_shift_right(i32x16 a, int by) { EACH_LANE a.at[i] = a.at[i] >> by; return a; }
INLINE u8x16 i_low_bytes(i32x16 a) { u8x16 r; EACH_LANE r.at[i] = (uint8_t)a.at[i]; return r; }
INLINE f32x16 f_from_s8(const int8_t *from) { f32x16 r; EACH_LANE r.at[i] = (float)from[i]; return r; }
INLINE float f_sum(f32x16 a) {
  for (int width = LANES / 2; width; width /= 2)
    for (int i = 0; i < width; i++) a.at[i] = a.at[i] + a.at[i + width];
  return a.at[0];
}
INLINE float f_least(f32x16 a) {
  for (int width = LANES / 2; width; width /= 2)
    for (int i = 0; i < width; i++) a.at[i] = a.at[i] < a.at[i + width] ? a.at[i] : a.at[i + width];
  return a.at[0];
}
INLINE float f_greatest(f32x16 a) {
  for (int width = LANES / 2; width; width /= 2)
    for (int i = 0; i < width; i++) a.at[i] = a.at[i] > a.at[i + width] ? a.at[i] : a.at[i + width];
  return a.at[0];
}

#else

typedef float f32x16 __attribute__((ext_vector_type(16)));
typedef int32_t i32x16 __attribute__((ext_vector_type(16)));
typedef uint32_t u32x16 __attribute__((ext_vector_type(16)));
typedef uint8_t u8x16 __attribute__((ext_vector_type(16)));
typedef int8_t s8x16 __attribute__((ext_vector_type(16)));

INLINE f32x16 f_set(float value) { return (f32x16){0} + value; }
INLINE f32x16 f_add(f32x16 a, f32x16 b) { return a + b; }
INLINE f32x16 f_sub(f32x16 a, f32x16 b) { return a - b; }
INLINE f32x16 f_mul(f32x16 a, f32x16 b) { return a * b; }
INLINE f32x16 f_div(f32x16 a, f32x16 b) { return a / b; }
INLINE f32x16 f_fma(f32x16 a, f32x16 b, f32x16 c) { return __builtin_elementwise_fma(a, b, c); }
INLINE f32x16 f_min(f32x16 a, f32x16 b) { return a < b ? a : b; }
INLINE f32x16 f_max(f32x16 a, f32x16 b) { return a > b ? a : b; }
INLINE f32x16 f_first(f32x16 a, f32x16 b, int count) {
  const i32x16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return lane < count ? a : b;
}
INLINE f32x16 f_from_i(i32x16 a) { return __builtin_convertvector(a, f32x16); }
INLINE i32x16 f_bits(f32x16 a) { return (i32x16)a; }
INLINE f32x16 i_as_f(i32x16 a) { return (f32x16)a; }
INLINE i32x16 i_set(int32_t value) { return (i32x16){0} + value; }
INLINE i32x16 i_add(i32x16 a, i32x16 b) { return (i32x16)((u32x16)a + (u32x16)b); }
INLINE i32x16 i_mul(i32x16 a, i32x16 b) { return (i32x16)((u32x16)a * (u32x16)b); }
INLINE i32x16 i_and(i32x16 a, i32x16 b) { return a & b; }
INLINE i32x16 i_or(i32x16 a, i32x16 b) { return a | b; }
INLINE i32x16 i_shift_left(i32x16 a, int by) { return (i32x16)((u32x16)a << by); }
INLINE i32x16 i_shift_right(i32x16 a, int by) { return a >> by; }
INLINE u8x16 i_low_bytes(i32x16 a) { return __builtin_convertvector(a, u8x16); }
INLINE f32x16 f_from_s8(const int8_t *from) {
  s8x16 bytes;
  memcpy(&bytes, from, sizeof bytes);
  return __builtin_convertvector(bytes, f32x16);
}

/* The upper half onto the lower one, and again: 8 + 4 + 2 + 1, the same tree as the loops above. */
#define HALVES(v, n)                                                                                                   \
  __builtin_shufflevector(v, v, n, n + 1, n + 2, n + 3, n + 4, n + 5, n + 6, n + 7, -1, -1, -1, -1, -1, -1, -1, -1)
INLINE float f_sum(f32x16 a) {
  a = a + HALVES(a, 8);
  a = a + __builtin_shufflevector(a, a, 4, 5, 6, 7, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  a = a + __builtin_shufflevector(a, a, 2, 3, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  return a[0] + a[1];
}
INLINE float f_least(f32x16 a) {
  a = f_min(a, HALVES(a, 8));
  a = f_min(a, __builtin_shufflevector(a, a, 4, 5, 6, 7, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
  a = f_min(a, __builtin_shufflevector(a, a, 2, 3, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
  return a[0] < a[1] ? a[0] : a[1];
}
INLINE float f_greatest(f32x16 a) {
  a = f_max(a, HALVES(a, 8));
  a = f_max(a, __builtin_shufflevector(a, a, 4, 5, 6, 7, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
  a = f_max(a, __builtin_shufflevector(a, a, 2, 3, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
  return a[0] > a[1] ? a[0] : a[1];
}
#undef HALVES

#endif

INLINE f32x16 f_load(const float *from) { f32x16 r; memcpy(&r, from, sizeof r); return r; }
INLINE void f_store(float *to, f32x16 a) { memcpy(to, &a, sizeof a); }
INLINE i32x16 i_load(const int32_t *from) { i32x16 r; memcpy(&r, from, sizeof r); return r; }
INLINE void store_bytes(uint8_t *to, u8x16 a) { memcpy(to, &a, sizeof a); }
INLINE f32x16 f_neg(f32x16 a) { return f_sub(f_set(-0.0f), a); }
INLINE f32x16 f_abs(f32x16 a) { return f_max(a, f_neg(a)); }

INLINE float scalar_max(float a, float b) { return a > b ? a : b; }

#endif
