// Products of many rows in fp32 with packed weights by AVX2, which become fp32 on their way where they are in bf16.

#pragma once

#include "attention.h"

typedef float Number;     // of a row of HiFT's, of a query and of what it finds
enum { PLANES = 1 };      // of such rows: nothing is left by rounding
enum { WHOLE_ROWS = 1 };  // rows are read and written in so many
enum { PANEL = 96 };      // rows, at most: as many as a core's second cache has room for beside passing weights
enum { QUERIES = 36 };    // that are scored at a time
enum { SIX = 6 };         // rows at a time: with both halves of a block twelve sums, of sixteen registers

static inline void put_numbers(Floats x, Number *to) { storeu_ps(to, x); }

static inline void put_exact(Floats x, Number *to, Number *rest) {
  (void)rest;
  storeu_ps(to, x);
}

// Rows, and of which of them each output row is made: with more than one tap, of those a convolution's window spans.
typedef struct {
  const Number *rows;
  int64_t stride; // numbers from one row to the next
  int64_t taps, apart;
  int64_t inputs; // of a tap, an even number
  int64_t exact;  // weights are in fp32
} Lines;

static inline Lines lines(const Number *rows, int64_t stride, int64_t taps, int64_t apart, int64_t inputs, int64_t exact,
                          const Number *rest) {
  (void)rest;
  return (Lines){rows, stride, taps, apart, inputs, exact};
}

// Up to SIX rows with a block of weights -> to. How many, and of what, is known when this is compiled.
static inline __attribute__((always_inline)) void block_dots(int rows, int exact, Lines in, const char *w, float *to,
                                                             int64_t to_stride) {
  const __m256i upper = _mm256_set1_epi32((int)0xffff0000);
  __m256 sum[SIX][2];
#pragma GCC unroll 6
  for (int m = 0; m < rows; m++)
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) sum[m][h] = _mm256_setzero_ps();
  for (int64_t tap = 0; tap < in.taps; tap++) {
    const float *x = in.rows + tap * in.apart;
    for (int64_t k = 0; k < in.inputs; k += 2, x += 2, w += exact ? 128 : 64)
#pragma GCC unroll 2
      for (int odd = 0; odd < 2; odd++) {
        __m256 own[2];
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
          __m256i word = _mm256_loadu_si256((const __m256i *)(w + (exact ? 64 * odd : 0)) + h);
          if (!exact) word = odd ? _mm256_and_si256(word, upper) : _mm256_slli_epi32(word, 16);
          own[h] = _mm256_castsi256_ps(word);
          __asm__("" : "+x"(own[h])); // read once, not with each row
        }
#pragma GCC unroll 6
        for (int m = 0; m < rows; m++) {
          __m256 number = _mm256_broadcast_ss(x + m * in.stride + odd);
#pragma GCC unroll 2
          for (int h = 0; h < 2; h++) {
            sum[m][h] = _mm256_fmadd_ps(number, own[h], sum[m][h]);
            __asm__ volatile("" : "+x"(sum[m][h])); // sums stay in registers: else all products are made first
          }
        }
      }
  }
#pragma GCC unroll 6
  for (int m = 0; m < rows; m++)
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) _mm256_storeu_ps(to + m * to_stride + 8 * h, sum[m][h]);
}

#define ROW_COUNT(rows, exact) case rows: block_dots(rows, exact, in, w, to, to_stride); break;
#define ROW_COUNTS(exact) \
  switch (least(rows, SIX)) { \
    ROW_COUNT(1, exact) ROW_COUNT(2, exact) ROW_COUNT(3, exact) \
    ROW_COUNT(4, exact) ROW_COUNT(5, exact) ROW_COUNT(6, exact) \
  }

// Any number of rows with a block.
static void block_rows(Lines in, int64_t rows, const char *w, float *to, int64_t to_stride) {
  for (; rows > 0; rows -= SIX, in.rows += SIX * in.stride, to += SIX * to_stride)
    if (in.exact) ROW_COUNTS(1)
    else ROW_COUNTS(0)
}

// Rows with a layer's weights, without its bias -> to (rows, to_stride), of which whole blocks are written.
static void multiply(const Linear *l, Lines in, int64_t rows, float *to, int64_t to_stride) {
  int64_t bytes = BLOCK * in.taps * in.inputs * (in.exact ? 4 : 2);
  const char *w = l->weight;
  for (int64_t n = 0; n < l->outputs; n += BLOCK, w += bytes) block_rows(in, rows, w, to + n, to_stride);
}
