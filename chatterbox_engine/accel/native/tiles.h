// Products of many rows with packed weights, through AMX's tiles, and what is done to a row between two of them.

#pragma once

#include "attention.h"

#ifdef __AMX_BF16__

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

static inline int64_t whole_blocks(int64_t outputs) { return (outputs + BLOCK - 1) / BLOCK * BLOCK; }

static inline void multiply(const Linear *l, Lines in, int64_t rows, float *to, int64_t to_stride) {
  multiply_some(l, in, rows, 0, whole_blocks(l->outputs) / BLOCK, to, to_stride);
}

// A multiple of four products of tiles on each thread, of whatever is in them: the most that the matrix unit can do.
int multiply_tiles(int64_t products) {
#pragma omp parallel
  {
    enter();
    for (int64_t i = 0; i < products; i += 4) {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    leave();
  }
  return 0;
}

// ---- rows of a multiple of 16 numbers ------------------------------------------------------------------------------

static inline void put_bf16(__m512 x, void *to) { _mm256_storeu_si256(to, (__m256i)_mm512_cvtneps_pbh(x)); }

// Norm over a row (1607.06450), then gain and shift.
static inline void norm_row(const float *x, int64_t width, const float *gain, const float *shift, float *to) {
  __m512 sum = _mm512_setzero_ps(), square = sum;
  for (int64_t i = 0; i < width; i += 16) sum = _mm512_add_ps(sum, _mm512_loadu_ps(x + i));
  __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / width);
  for (int64_t i = 0; i < width; i += 16) {
    __m512 own = _mm512_sub_ps(_mm512_loadu_ps(x + i), mean);
    square = _mm512_fmadd_ps(own, own, square);
  }
  __m512 factor = _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(square) / width + 1e-5f));
  for (int64_t i = 0; i < width; i += 16) {
    __m512 own = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + i), mean), factor);
    _mm512_storeu_ps(to + i, _mm512_fmadd_ps(own, _mm512_loadu_ps(gain + i), _mm512_loadu_ps(shift + i)));
  }
}

// 2^x within 1e-4 of it, for results in bf16: by the exponent, and a polynomial of what x is above a whole number.
static inline __m512 power_of_two(__m512 x) {
  __m512 r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF);
  __m512 y = _mm512_fmadd_ps(r, _mm512_set1_ps(0.078022868f), _mm512_set1_ps(0.22606596f));
  y = _mm512_fmadd_ps(_mm512_fmadd_ps(y, r, _mm512_set1_ps(0.69583592f)), r, _mm512_set1_ps(0.99992477f));
  return _mm512_scalef_ps(y, x);
}

// x tanh(log(1 + e^x)) (1908.08681), as exact as `power_of_two` and the processor's approximate inverse are.
static inline __m512 mish(__m512 x) {
  __m512 power = power_of_two(_mm512_mul_ps(_mm512_min_ps(x, _mm512_set1_ps(20.0f)), _mm512_set1_ps(1.44269504f)));
  __m512 factor = _mm512_fmadd_ps(power, power, _mm512_add_ps(power, power)); // beyond 20 the ratio is 1
  return _mm512_mul_ps(_mm512_mul_ps(x, factor), _mm512_rcp14_ps(_mm512_add_ps(factor, _mm512_set1_ps(2.0f))));
}

// x times the normal distribution's share below x (1606.08415), by Abramowitz and Stegun's error function, 7.1.26; as
// exact as `mish`.
static inline __m512 gelu(__m512 x) {
  const float terms[] = {1.061405429f, -1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f};
  const __m512 one = _mm512_set1_ps(1.0f);
  __m512 z = _mm512_abs_ps(_mm512_mul_ps(x, _mm512_set1_ps(0.70710678f)));
  __m512 t = _mm512_rcp14_ps(_mm512_fmadd_ps(z, _mm512_set1_ps(0.3275911f), one));
  __m512 sum = _mm512_set1_ps(terms[0]);
  for (int i = 1; i < 5; i++) sum = _mm512_fmadd_ps(sum, t, _mm512_set1_ps(terms[i]));
  __m512 power = power_of_two(_mm512_mul_ps(_mm512_mul_ps(z, z), _mm512_set1_ps(-1.44269504f)));
  __m512 rest = _mm512_mul_ps(_mm512_mul_ps(sum, t), _mm512_mul_ps(power, _mm512_set1_ps(0.5f))); // of the tail
  __mmask16 below = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
  return _mm512_mul_ps(x, _mm512_mask_mov_ps(_mm512_sub_ps(one, rest), below, rest));
}

#endif
