/* How many 8-bit products this core can do in a second at most: vpdpbusd on registers alone, sixteen sums at a time. */

#define _GNU_SOURCE
#include <immintrin.h>
#include <stdio.h>
#include <time.h>

#define SUMS 16

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int main(void) {
  const long rounds = 5000000;
  double best = 0;
  for (int repeat = 0; repeat < 20; repeat++) {
    __m512i sum[SUMS], a = _mm512_set1_epi32(3), b = _mm512_set1_epi32(5);
    for (int i = 0; i < SUMS; i++) sum[i] = _mm512_set1_epi32(i);
    const double started = seconds();
    for (long round = 0; round < rounds; round++) {
#pragma clang loop unroll(full)
      for (int i = 0; i < SUMS; i++) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sum[i]) : "v"(a), "v"(b));
    }
    const double products = (double)rounds * SUMS * 64 / (seconds() - started);
    if (products > best) best = products;
  }
  printf("%.1f\n", best / 1e9);
  return 0;
}
