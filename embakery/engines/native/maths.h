/* Our own exponential, and what is made of it: libm's differ from machine to machine, these do not. */

#ifndef EMBK_MATHS_H
#define EMBK_MATHS_H

#include "embakery.h"
#include "lanes.h"

#define LOG2_E 1.44269504f
/* 1.5 * 2^23: adding it rounds to a whole number, which then stands in the low bits. */
#define ROUNDER 12582912.0f

/* 2^t for t in -126..126, to 3e-6 relative; what lies outside is taken as the bound. 2^0 is exactly 1. */
INLINE f32x16 f_exp2(f32x16 t) {
  t = f_min(f_max(t, f_set(-126.0f)), f_set(126.0f));
  f32x16 shifted = f_add(t, f_set(ROUNDER));
  f32x16 f = f_sub(t, f_sub(shifted, f_set(ROUNDER)));
  /* Least squares, reweighted towards the least largest error, of 2^f on -1/2..1/2. */
  f32x16 p = f_set(9.582843631505966e-3f);
  p = f_fma(p, f, f_set(5.590642988681793e-2f));
  p = f_fma(p, f, f_set(2.4024099111557007e-1f));
  p = f_fma(p, f, f_set(6.931241750717163e-1f));
  p = f_fma(p, f, f_set(1.0f));
  return i_as_f(i_add(f_bits(p), i_shift_left(f_bits(shifted), 23)));
}

/* log2 of a normal, positive x, to 2e-6. */
INLINE f32x16 f_log2(f32x16 x) {
  const int32_t root_half = 0x3f3504f3; /* the bits of sqrt(1/2): x = 2^e m, m from there to sqrt(2) */
  i32x16 above = i_add(f_bits(x), i_set(-root_half));
  f32x16 f = f_sub(i_as_f(i_add(i_and(above, i_set(0x7fffff)), i_set(root_half))), f_set(1.0f));
  f32x16 p = f_set(-2.0659062266349792e-1f);
  p = f_fma(p, f, f_set(3.2215479016304016e-1f));
  p = f_fma(p, f, f_set(-3.674902319908142e-1f));
  p = f_fma(p, f, f_set(4.793480336666107e-1f));
  p = f_fma(p, f, f_set(-7.211318612098694e-1f));
  p = f_fma(p, f, f_set(1.4427134990692139f));
  return f_fma(p, f, f_from_i(i_shift_right(above, 23)));
}
INLINE f32x16 f_sigmoid(f32x16 x) {
  return f_div(f_set(1.0f), f_add(f_set(1.0f), f_exp2(f_mul(x, f_set(-LOG2_E)))));
}

INLINE f32x16 f_tanh(f32x16 x) {
  f32x16 grown = f_exp2(f_mul(x, f_set(2.0f * LOG2_E)));
  return f_sub(f_set(1.0f), f_div(f_set(2.0f), f_add(grown, f_set(1.0f))));
}

/* x Phi(x), to 1e-4 absolute: an eighth of the rounding to eight bits that always follows. Phi(x) - 1/2 is odd: x times a
   polynomial in x^2 up to 4.1, where it is 1/2 and stays it. */
INLINE f32x16 f_gelu(f32x16 x) {
  f32x16 t = f_min(f_max(x, f_set(-4.1f)), f_set(4.1f)), u = f_mul(t, t);
  f32x16 p = f_set(-1.1077386785629528e-9f);
  p = f_fma(p, u, f_set(9.255498412130692e-8f));
  p = f_fma(p, u, f_set(-3.3753528896340868e-6f));
  p = f_fma(p, u, f_set(7.13466652086936e-5f));
  p = f_fma(p, u, f_set(-9.827009635046124e-4f));
  p = f_fma(p, u, f_set(9.420080110430717e-3f));
  p = f_fma(p, u, f_set(-6.57447800040245e-2f));
  p = f_fma(p, u, f_set(3.985936939716339e-1f));
  return f_mul(x, f_fma(t, p, f_set(0.5f)));
}

INLINE f32x16 f_gelu_tanh(f32x16 x) {
  /* x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3)), which is the same. */
  f32x16 inner = f_mul(x, f_fma(f_mul(x, x), f_set(0.044715f), f_set(1.0f)));
  return f_mul(x, f_sigmoid(f_mul(inner, f_set(1.5957691216f))));
}

INLINE f32x16 f_activate(int activation, f32x16 x) {
  switch (activation) {
    case EMBK_GELU: return f_gelu(x);
    case EMBK_GELU_TANH: return f_gelu_tanh(x);
    case EMBK_RELU: return f_max(x, f_set(0.0f));
    case EMBK_SILU: return f_mul(x, f_sigmoid(x));
    case EMBK_TANH: return f_tanh(x);
    case EMBK_SIGMOID: return f_sigmoid(x);
    default: return x;
  }
}

#endif
