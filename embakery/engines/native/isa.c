/* Which instruction sets this build has and this CPU offers. */

#include "kernels.h"

#include <string.h>

#if defined(__x86_64__)

#include <cpuid.h>

/* What the operating system saves of the registers: 6 are the 256-bit halves, 0xE6 the 512-bit ones too. */
static int saves(unsigned wanted) {
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1)) return 0;
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & wanted) == wanted;
}

static int leaf7(unsigned subleaf, unsigned *b, unsigned *c) {
  unsigned a, d;
  unsigned most = __get_cpuid_max(0, 0);
  if (most < 7) return 0;
  __cpuid_count(7, subleaf, a, *b, *c, d);
  if (subleaf == 1) *b = a; /* AVX-VNNI is said in eax */
  return 1;
}

int embk_has_avx2(void) {
  unsigned a, b, c, d, extended_b, extended_c;
  if (!saves(0x6) || !__get_cpuid(1, &a, &b, &c, &d) || !leaf7(0, &extended_b, &extended_c)) return 0;
  return (c >> 12 & 1) && (c >> 29 & 1) && (extended_b >> 5 & 1) && (extended_b >> 8 & 1); /* fma f16c avx2 bmi2 */
}

int embk_has_avx_vnni(void) {
  unsigned b, c;
  return embk_has_avx2() && leaf7(1, &b, &c) && (b >> 4 & 1);
}

int embk_has_avx512_vnni(void) {
  unsigned b, c;
  if (!embk_has_avx2() || !saves(0xE6) || !leaf7(0, &b, &c)) return 0;
  const unsigned foundation = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31; /* f dq cd bw vl */
  return (b & foundation) == foundation && (c >> 11 & 1);
}

extern const struct kernels embk_kernels_avx512_vnni, embk_kernels_avx_vnni, embk_kernels_avx2, embk_kernels_scalar;

const struct kernels *const embk_kernels[] = {
    &embk_kernels_avx512_vnni, &embk_kernels_avx_vnni, &embk_kernels_avx2, &embk_kernels_scalar, 0};

#elif defined(__aarch64__)

#if defined(__linux__)
#include <sys/auxv.h>
int embk_has_neon_dot(void) { return (int)(getauxval(AT_HWCAP) >> 20 & 1); }      /* HWCAP_ASIMDDP */
int embk_has_neon_i8mm(void) { return embk_has_neon_dot() && (getauxval(AT_HWCAP2) >> 13 & 1); } /* HWCAP2_I8MM */
#elif defined(__APPLE__)
#include <sys/sysctl.h>
static int feature(const char *name) {
  int value = 0;
  size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, 0, 0) == 0 && value;
}
int embk_has_neon_dot(void) { return feature("hw.optional.arm.FEAT_DotProd"); }
int embk_has_neon_i8mm(void) { return embk_has_neon_dot() && feature("hw.optional.arm.FEAT_I8MM"); }
#endif

extern const struct kernels embk_kernels_neon_i8mm, embk_kernels_neon_dot, embk_kernels_scalar;

const struct kernels *const embk_kernels[] = {&embk_kernels_neon_i8mm, &embk_kernels_neon_dot, &embk_kernels_scalar, 0};

#else

extern const struct kernels embk_kernels_scalar;

const struct kernels *const embk_kernels[] = {&embk_kernels_scalar, 0};

#endif

int embk_has_scalar(void) { return 1; }
