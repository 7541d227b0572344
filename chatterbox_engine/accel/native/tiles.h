// Products of many rows with packed weights, through AMX's tiles. Rows are in bf16.

#pragma once

#include "attention.h"

#ifdef __AMX_BF16__

typedef uint16_t Number;   // of a row that is to be multiplied, in bf16
enum { PLANES = 2 };       // of such rows: what rounding leaves of them is the second
enum { WHOLE_ROWS = 16 };  // rows are read and written in so many
enum { PANEL = 256 };      // rows, at most: as many as a core's second cache has room for beside passing weights
enum { QUERIES = 32 };     // that are scored at a time

static inline void put_bf16(Floats x, void *to) { _mm256_storeu_si256(to, (__m256i)_mm512_cvtneps_pbh(x)); }

static inline void put_numbers(Floats x, Number *to) { put_bf16(x, to); }

// Numbers, and what rounding to bf16 leaves of them.
static inline void put_exact(Floats x, Number *to, Number *rest) {
  __m256i rounded = (__m256i)_mm512_cvtneps_pbh(x);
  _mm256_storeu_si256((__m256i *)to, rounded);
  put_bf16(sub_ps(x, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16))), rest);
}

// Rows in bf16, and of which of them each output row is made: with more than one tap, of those a convolution's window
// spans, which lie `apart` bytes from each other.
typedef struct {
  const char *rows;
  int64_t stride; // bytes from one row to the next
  int64_t taps, apart;
  int64_t bytes;   // of a row that a tap takes, a multiple of 64
  const char *low; // what rounding to bf16 has left of the rows, in bf16 too, or NULL. Then the weights' own rest
                   // follows each block's, and both count: three products of bf16 make one of nearly fp32's exactness
} Lines;

// All sizes in numbers; `exact`: `rest` is counted, too.
static inline Lines lines(const Number *rows, int64_t stride, int64_t taps, int64_t apart, int64_t inputs, int64_t exact,
                          const Number *rest) {
  return (Lines){(const char *)rows, 2 * stride, taps, 2 * apart, 2 * inputs, exact ? (const char *)rest : NULL};
}

// The flow's rows are the same: there are no groups of numbers that have a scale.
typedef Lines ShortLines;

static inline int64_t group_of(int64_t widths) {
  (void)widths;
  return 0;
}
static inline int64_t row_room(int64_t width, int64_t group) {
  (void)group;
  return width;
}
static inline ShortLines short_lines(const uint16_t *rows, int64_t stride, int64_t taps, int64_t apart, int64_t inputs,
                                     int64_t group) {
  (void)group;
  return lines(rows, stride, taps, apart, inputs, 0, NULL);
}
static inline void put_line(const float *x, int64_t width, int64_t group, uint16_t *to) {
  (void)group;
  for (int64_t i = 0; i < width; i += 16) put_bf16(loadu_ps(x + i), to + i);
}
static inline void put_part(Floats x, int64_t i, float *row, uint16_t *to) {
  (void)row;
  put_bf16(x, to + i);
}
static inline void end_line(const float *row, int64_t width, int64_t group, uint16_t *to) {
  (void)row, (void)width, (void)group, (void)to;
}
static inline const uint16_t *as_lines(const Number *found, int64_t count, int64_t width, int64_t group, uint16_t *room) {
  (void)count, (void)width, (void)group, (void)room;
  return found;
}

// Nothing yet in the four tiles of sums. What was written to memory before is there for tiles to read, which the
// compiler does not see to.
static inline void clear_tiles(void) {
  __asm__ volatile("" ::: "memory");
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// Sums of earlier calls.
static inline __attribute__((always_inline)) void take_tiles(int rows, int blocks, const float *from, int64_t stride) {
  int64_t bytes = stride * sizeof(float);
  __asm__ volatile("" ::: "memory");
  _tile_loadd(0, from, bytes);
  if (blocks == 2) _tile_loadd(1, from + BLOCK, bytes);
  if (rows == 2) _tile_loadd(2, from + 16 * stride, bytes);
  if (rows == 2 && blocks == 2) _tile_loadd(3, from + 16 * stride + BLOCK, bytes);
}

// The sums of 1 or 2 tiles of rows with 1 or 2 of outputs -> to, `stride` numbers apart.
static inline __attribute__((always_inline)) void put_tiles(int rows, int blocks, float *to, int64_t stride) {
  int64_t bytes = stride * sizeof(float);
  _tile_stored(0, to, bytes);
  if (blocks == 2) _tile_stored(1, to + BLOCK, bytes);
  if (rows == 2) _tile_stored(2, to + 16 * stride, bytes);
  if (rows == 2 && blocks == 2) _tile_stored(3, to + 16 * stride + BLOCK, bytes);
}

// 16 or 32 rows with 16 or 32 outputs; both numbers are known when this is compiled.
static inline __attribute__((always_inline)) void tiles(int rows, int blocks, Lines in, const char *w,
                                                        int64_t block_bytes, float *to, int64_t to_stride) {
  clear_tiles();
  const char *next = w;
  for (int part = 0; part < (in.low ? 3 : 1); part++, next = part < 2 ? next : w)
    for (int64_t tap = 0; tap < in.taps; tap++)
      for (int64_t k = 0; k < in.bytes; k += 64, next += 1024) {
        const char *a = (part < 2 ? in.rows : in.low) + tap * in.apart + k;
        _tile_loadd(4, a, in.stride);
        _tile_loadd(6, next, 64);
        _tile_dpbf16ps(0, 4, 6);
        if (blocks == 2) _tile_loadd(7, next + block_bytes, 64);
        if (blocks == 2) _tile_dpbf16ps(1, 4, 7);
        if (rows == 2) _tile_loadd(5, a + 16 * in.stride, in.stride);
        if (rows == 2) _tile_dpbf16ps(2, 5, 6);
        if (rows == 2 && blocks == 2) _tile_dpbf16ps(3, 5, 7);
      }
  put_tiles(rows, blocks, to, to_stride);
}

// Rows with some blocks of a layer's weights, without its bias -> to (rows, to_stride), of which whole blocks are
// written. Rows are read and written in sixteens, whatever their number.
static void multiply_some(const Linear *l, Lines in, int64_t rows, int64_t first, int64_t blocks, float *to,
                          int64_t to_stride) {
  int64_t block_bytes = 16 * in.taps * in.bytes * (in.low ? 2 : 1);
  for (int64_t n = 0; n < blocks; n += 2)
    for (int64_t m = 0; m < rows; m += 32) {
      Lines own = in;
      own.rows += m * in.stride;
      if (in.low) own.low += m * in.stride;
      const char *w = (const char *)l->weight + (first + n) * block_bytes;
      float *out = to + m * to_stride + n * BLOCK;
      if (rows - m > 16 && n + 1 < blocks) tiles(2, 2, own, w, block_bytes, out, to_stride);
      else if (rows - m > 16)
        tiles(2, 1, own, w, block_bytes, out, to_stride);
      else if (n + 1 < blocks)
        tiles(1, 2, own, w, block_bytes, out, to_stride);
      else
        tiles(1, 1, own, w, block_bytes, out, to_stride);
    }
}

static inline void multiply(const Linear *l, Lines in, int64_t rows, float *to, int64_t to_stride) {
  multiply_some(l, in, rows, 0, (l->outputs + BLOCK - 1) / BLOCK, to, to_stride);
}

// Products over and over on each thread, of whatever is in the tiles: the most that the matrix unit can do. Returns the
// multiplications and additions of a thread.
int64_t multiply_over(int64_t rounds) {
#pragma omp parallel
  {
    enter();
    for (int64_t i = 0; i < rounds; i++) {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    leave();
  }
  return rounds * 4 * 2 * 16 * 16 * 32;
}

#endif
