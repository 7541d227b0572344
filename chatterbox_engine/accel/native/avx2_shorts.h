// Products of rows in whole numbers of 16 bits by AVX2, which take two thirds of the time that fp32's do. The flow's
// rows, keys and values are such: each group of numbers has a scale of its own, each output's weights have one, and
// sums of a group are exact. A number as large as its group's greatest is rounded at least 32 times as finely as to
// bf16, one of a thirty-second of that no worse.

#pragma once

#include "avx2_rows.h"

enum { MOST_SHORT = 8191, MOST_WEIGHT = 4095, GROUPED = 64 }; // 64 products of both, one by one, fill 31 bits

// A group is 32 numbers or 64, and then its scale.
static inline int64_t group_of(int64_t widths) { return widths % GROUPED ? GROUPED / 2 : GROUPED; }
static inline int64_t row_room(int64_t width, int64_t group) { return width + width / group * 2; }

// The nearest whole numbers of 16 bits.
static inline void store_shorts(Floats x, uint16_t *to) {
  __m256i both = _mm256_packs_epi32(_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high));
  _mm256_storeu_si256((__m256i *)to, _mm256_permute4x64_epi64(both, 0xd8));
}

// Numbers (count) as whole numbers up to `limit` -> to; returns their scale.
static inline float put_shorts(const float *x, int64_t count, float limit, uint16_t *to) {
  float most = largest(x, count);
  Floats inverse = set1_ps(limit / most);
  for (int64_t i = 0; i < count; i += 16) store_shorts(mul_ps(loadu_ps(x + i), inverse), to + i);
  return most / limit;
}

// Numbers (width), whole groups -> to.
static void put_line(const float *x, int64_t width, int64_t group, uint16_t *to) {
  for (int64_t begin = 0; begin < width; begin += group, to += group + 2) {
    float scale = put_shorts(x + begin, group, MOST_SHORT, to);
    memcpy(to + group, &scale, sizeof scale);
  }
}

// The same in two steps: 16 numbers of a row, and when all are there.
static inline void put_part(Floats x, int64_t i, float *row, uint16_t *to) {
  (void)to;
  storeu_ps(row + i, x);
}
static inline void end_line(const float *row, int64_t width, int64_t group, uint16_t *to) {
  put_line(row, width, group, to);
}

// What attention has found (count, width), as rows to be multiplied, for which there is room.
static inline const uint16_t *as_lines(const Number *found, int64_t count, int64_t width, int64_t group, uint16_t *room) {
  int64_t stride = row_room(width, group);
  for (int64_t m = 0; m < count; m++) put_line(found + m * width, width, group, room + m * stride);
  return room;
}

typedef struct {
  const uint16_t *rows;
  int64_t stride, taps, apart; // of the rows and taps, as Lines has them
  int64_t inputs, group;       // of a tap; a multiple of the group
} ShortLines;

static inline ShortLines short_lines(const uint16_t *rows, int64_t stride, int64_t taps, int64_t apart, int64_t inputs,
                                     int64_t group) {
  return (ShortLines){rows, stride, taps, apart, inputs, group};
}

// Up to SIX rows with a block of weights -> to or, where these have no scales, added to it.
static inline __attribute__((always_inline)) void short_dots(int rows, int scaled, ShortLines in, const char *w,
                                                             const float *scale, float *to, int64_t to_stride) {
  for (int64_t tap = 0; tap < in.taps; tap++) {
    const uint16_t *x = in.rows + tap * in.apart;
    for (int64_t begin = 0; begin < in.inputs; begin += in.group, x += in.group + 2) {
      __m256i sum[SIX][2];
#pragma GCC unroll 6
      for (int m = 0; m < rows; m++)
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) sum[m][h] = _mm256_setzero_si256();
      for (int64_t k = 0; k < in.group; k += 2, w += 64) {
        __m256i own[2];
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
          own[h] = _mm256_loadu_si256((const __m256i *)w + h);
          __asm__("" : "+x"(own[h])); // read once, not with each row
        }
#pragma GCC unroll 6
        for (int m = 0; m < rows; m++) {
          int32_t pair;
          memcpy(&pair, x + m * in.stride + k, sizeof pair);
          __m256i numbers = _mm256_set1_epi32(pair);
#pragma GCC unroll 2
          for (int h = 0; h < 2; h++) {
            sum[m][h] = _mm256_add_epi32(sum[m][h], _mm256_madd_epi16(numbers, own[h]));
            __asm__ volatile("" : "+x"(sum[m][h])); // sums stay in registers
          }
        }
      }
      int fresh = scaled && !tap && !begin, last = tap == in.taps - 1 && begin + in.group == in.inputs;
#pragma GCC unroll 6
      for (int m = 0; m < rows; m++) {
        float size;
        memcpy(&size, x + m * in.stride + in.group, sizeof size);
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
          float *place = to + m * to_stride + 8 * h;
          __m256 made = fresh ? _mm256_setzero_ps() : _mm256_loadu_ps(place);
          made = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[m][h]), _mm256_set1_ps(size), made);
          __asm__("" : "+x"(made)); // rounded here, however many rows there are
          if (scaled && last) made = _mm256_mul_ps(made, _mm256_loadu_ps(scale + 8 * h));
          _mm256_storeu_ps(place, made);
        }
      }
    }
  }
}

#define SHORT_COUNT(rows, scaled) case rows: short_dots(rows, scaled, in, w, scale, to, to_stride); break;
#define SHORT_COUNTS(scaled) \
  switch (least(rows, SIX)) { \
    SHORT_COUNT(1, scaled) SHORT_COUNT(2, scaled) SHORT_COUNT(3, scaled) \
    SHORT_COUNT(4, scaled) SHORT_COUNT(5, scaled) SHORT_COUNT(6, scaled) \
  }

// Any number of rows with a block and its scales.
static void short_rows(ShortLines in, int64_t rows, const char *w, const float *scale, float *to, int64_t to_stride) {
  for (; rows > 0; rows -= SIX, in.rows += SIX * in.stride, to += SIX * to_stride) SHORT_COUNTS(1)
}

static void add_short_rows(ShortLines in, int64_t rows, const char *w, float *to, int64_t to_stride) {
  const float *scale = NULL;
  for (; rows > 0; rows -= SIX, in.rows += SIX * in.stride, to += SIX * to_stride) SHORT_COUNTS(0)
}

// Rows with some blocks of a layer's weights, without its bias -> to (rows, to_stride), of which whole blocks are
// written.
static void multiply_some(const Linear *l, ShortLines in, int64_t rows, int64_t first, int64_t blocks, float *to,
                          int64_t to_stride) {
  int64_t bytes = BLOCK * in.taps * in.inputs * 2;
  for (int64_t n = first; n < first + blocks; n++, to += BLOCK)
    short_rows(in, rows, (const char *)l->weight + n * bytes, l->scale + n * BLOCK, to, to_stride);
}

// Products over and over on each thread, of what is in registers: the most that AVX2 can do. Returns the
// multiplications and additions of a thread.
int64_t multiply_over(int64_t rounds) {
#pragma omp parallel
  {
    const __m256i own = _mm256_set1_epi16(1);
    __m256i sum[2 * SIX], number = own;
#pragma GCC unroll 12
    for (int i = 0; i < 2 * SIX; i++) sum[i] = _mm256_setzero_si256();
    for (int64_t round = 0; round < rounds; round++)
#pragma GCC unroll 12
      for (int i = 0; i < 2 * SIX; i++) {
        __asm__ volatile("" : "+x"(number)); // another one, for all that GCC knows
        sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(number, own));
        __asm__ volatile("" : "+x"(sum[i]));
      }
  }
  return rounds * 2 * SIX * 16 * 2;
}
