// HiFT's convolutions, chatterbox_engine/s3gen/hift.py, through AMX's tiles: activations are rows, one for each place,
// in fp32 between two convolutions. A piece of rows is activated, put into bf16 and multiplied while it is in a core's
// cache.

#include "tiles.h"

#ifdef __AMX_BF16__

enum { PIECE = 256 }; // rows

typedef enum { PLAIN, LEAKY, SNAKE } Activation;

typedef struct {
  Linear weights;
  int64_t inputs, width;          // of a row, and filled up to whole tiles
  int64_t taps, dilation, stride; // of the rows that make one
  int64_t padding;                // rows of zeros before the first
  int64_t exact;                  // what rounding to bf16 leaves of rows and weights counts too
  int64_t activation;             // of what is convolved
  float slope;                    // LEAKY
  const float *alpha, *inverse;   // SNAKE: (width), and what the squares are multiplied by
} Convolution;

// x + sin(alpha x)^2 / alpha (2006.08195). The square repeats with every pi.
static inline __m512 snake(__m512 x, __m512 alpha, __m512 inverse) {
  const float terms[] = {7.7220529e-2f, -0.598045379f, 2.55003141f, -5.16770688f, 3.14159258f};
  __m512 turns =
      _mm512_reduce_ps(_mm512_mul_ps(_mm512_mul_ps(x, alpha), _mm512_set1_ps(0.318309886f)), _MM_FROUND_TO_NEAREST_INT);
  __m512 square = _mm512_mul_ps(turns, turns), sine = _mm512_set1_ps(terms[0]);
  for (int i = 1; i < 5; i++) sine = _mm512_fmadd_ps(sine, square, _mm512_set1_ps(terms[i]));
  sine = _mm512_mul_ps(sine, turns);
  return _mm512_fmadd_ps(_mm512_mul_ps(sine, sine), inverse, x);
}

// The rows [first, first + count) of x (frames, inputs) and `bias`, zero outside, as they are convolved -> high and low
// (count, width).
static void activate_rows(const Convolution *c, const float *x, const float *bias, int64_t frames, int64_t first,
                          int64_t count, uint16_t *high, uint16_t *low) {
  for (int64_t m = 0; m < count; m++, high += c->width, low += c->width) {
    int64_t frame = first + m;
    if (frame < 0 || frame >= frames) {
      memset(high, 0, 2 * c->width);
      if (c->exact) memset(low, 0, 2 * c->width);
      continue;
    }
    for (int64_t i = 0; i < c->width; i += 16) {
      int64_t left = c->inputs - i;
      __mmask16 inside = left >= 16 ? 0xffff : left <= 0 ? 0 : (__mmask16)((1 << left) - 1);
      __m512 own = _mm512_maskz_loadu_ps(inside, x + frame * c->inputs + i);
      if (bias) own = _mm512_add_ps(own, _mm512_maskz_loadu_ps(inside, bias + i));
      if (c->activation == LEAKY) own = _mm512_max_ps(own, _mm512_mul_ps(own, _mm512_set1_ps(c->slope)));
      if (c->activation == SNAKE) own = snake(own, _mm512_loadu_ps(c->alpha + i), _mm512_loadu_ps(c->inverse + i));
      __m256i rounded = (__m256i)_mm512_cvtneps_pbh(own);
      _mm256_storeu_si256((__m256i *)(high + i), rounded);
      if (!c->exact) continue;
      __m512 whole = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16));
      put_bf16(_mm512_sub_ps(own, whole), low + i);
    }
  }
}

// Rows of input that make `made` rows, and as many more as are read with them.
static int64_t rows_for(const Convolution *c, int64_t made) {
  return ((made + 15) / 16 * 16 - 1) * c->stride + (c->taps - 1) * c->dilation + 1;
}

// Rows [first, first + made) of the convolution of x (frames, inputs) and `bias` -> to, in whole blocks of outputs,
// without its own bias, which whoever reads them next adds. planes: (2, rows_for(made), width)
static void convolve_rows(const Convolution *c, const float *x, const float *bias, int64_t frames, int64_t first,
                          int64_t made, uint16_t *planes, float *to) {
  int64_t rows = rows_for(c, made), bytes = 2 * c->width, whole = whole_blocks(c->weights.outputs);
  uint16_t *low = planes + rows * c->width;
  activate_rows(c, x, bias, frames, first * c->stride - c->padding, rows, planes, low);
  Lines in = {(char *)planes, c->stride * bytes, c->taps, c->dilation * bytes, bytes, c->exact ? (char *)low : NULL};
  multiply(&c->weights, in, made, to, whole);
}

static int64_t planes_bytes(const Convolution *c, int64_t made) {
  return (4 * rows_for(c, made) * c->width + 63) / 64 * 64;
}

static int64_t sums_bytes(const Convolution *c, int64_t made) {
  return (made + 15) / 16 * 16 * whole_blocks(c->weights.outputs) * sizeof(float);
}

// sums (count, whole blocks), their bias, and x (count, outputs) where it is there, times `share` -> to, or added to
// it.
static void put_piece(const float *sums, const float *bias, const float *x, int64_t count, int64_t outputs, float share,
                      int add, float *to) {
  int64_t whole = whole_blocks(outputs);
  for (int64_t m = 0; m < count; m++, sums += whole)
    for (int64_t i = 0; i < outputs; i += 16) {
      __mmask16 inside = outputs - i >= 16 ? 0xffff : (__mmask16)((1 << (outputs - i)) - 1);
      float *own = to + m * outputs + i;
      __m512 made = _mm512_add_ps(_mm512_loadu_ps(sums + i), _mm512_loadu_ps(bias + i));
      if (x) made = _mm512_add_ps(made, _mm512_maskz_loadu_ps(inside, x + m * outputs + i));
      made = _mm512_mul_ps(made, _mm512_set1_ps(share));
      if (add) made = _mm512_add_ps(made, _mm512_maskz_loadu_ps(inside, own));
      _mm512_mask_storeu_ps(own, inside, made);
    }
}

// x (batch, frames, inputs) -> to (batch, made, outputs), of which the batch's rows lie `apart` numbers from each
// other: a convolution or, where there is `two`, a residual pair x + two(one(x)), whose widths and lengths are all the
// same. `share` of the result is put there, or added. Returns 0, or -1 where there is no memory.
int convolution(const Convolution *one, const Convolution *two, const float *x, int64_t batch, int64_t frames,
                int64_t made, float *to, int64_t apart, float share, int add) {
  int64_t pieces = (made + PIECE - 1) / PIECE, longest = (made + pieces - 1) / pieces, outputs = one->weights.outputs;
  int64_t between = two ? rows_for(two, longest) : longest, threads = omp_get_max_threads();
  int64_t planes = most(planes_bytes(one, between), two ? planes_bytes(two, longest) : 0);
  int64_t room = planes + sums_bytes(one, between) + (two ? sums_bytes(two, longest) : 0);
  char *memory = aligned_alloc(64, threads * room);
  Team team;
  int failed = gather(&team, threads, 1) || !memory;
#pragma omp parallel num_threads(threads) if (!failed)
  if (!failed) {
    Member own = join(&team);
    enter();
    char *mine = memory + own.me * room;
    float *sums = (float *)(mine + planes), *hidden = (float *)(mine + room - sums_bytes(one, between));
    for (int64_t i; (i = take(&own, batch * pieces)) >= 0;) {
      int64_t row = i / pieces, begin = i % pieces * made / pieces, count = (i % pieces + 1) * made / pieces - begin;
      const float *from = x + row * frames * one->inputs;
      if (two) {
        int64_t first = begin - two->padding;
        const float *before = hidden - first * outputs;
        convolve_rows(one, from, NULL, frames, first, rows_for(two, count), (uint16_t *)mine, hidden);
        convolve_rows(two, before, one->weights.bias, frames, begin, count, (uint16_t *)mine, sums);
      } else {
        convolve_rows(one, from, NULL, frames, begin, count, (uint16_t *)mine, sums);
      }
      put_piece(sums, (two ? two : one)->weights.bias, two ? from + begin * outputs : NULL, count, outputs, share, add,
                to + row * apart + begin * outputs);
    }
    leave();
  }
  free(memory), disband(&team);
  return failed ? -1 : 0;
}

#endif
