// HiFT's convolutions, chatterbox_engine/s3gen/hift.py: activations are rows, one for each place, in fp32 between two
// convolutions. A piece of rows is activated, put into the form of a product and multiplied while it is in a core's
// cache.

#include "rows.h"

#ifdef MANY_ROWS

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
static inline Floats snake(Floats x, Floats alpha, Floats inverse) {
  const float terms[] = {7.7220529e-2f, -0.598045379f, 2.55003141f, -5.16770688f, 3.14159258f};
  Floats turns = reduce_ps(mul_ps(mul_ps(x, alpha), set1_ps(0.318309886f)), _MM_FROUND_TO_NEAREST_INT);
  Floats square = mul_ps(turns, turns), sine = set1_ps(terms[0]);
  for (int i = 1; i < 5; i++) sine = fmadd_ps(sine, square, set1_ps(terms[i]));
  sine = mul_ps(sine, turns);
  return fmadd_ps(mul_ps(sine, sine), inverse, x);
}

// The rows [first, first + count) of x (frames, inputs) and `bias`, zero outside, as they are convolved -> to, and what
// rounding leaves of them, (count, width).
static void activate_rows(const Convolution *c, const float *x, const float *bias, int64_t frames, int64_t first,
                          int64_t count, Number *to, Number *rest) {
  for (int64_t m = 0; m < count; m++, to += c->width, rest += c->width) {
    int64_t frame = first + m;
    if (frame < 0 || frame >= frames) {
      memset(to, 0, c->width * sizeof(Number));
      if (c->exact && PLANES > 1) memset(rest, 0, c->width * sizeof(Number));
      continue;
    }
    for (int64_t i = 0; i < c->width; i += 16) {
      int64_t left = c->inputs - i;
      __mmask16 inside = left >= 16 ? 0xffff : left <= 0 ? 0 : (__mmask16)((1 << left) - 1);
      Floats own = maskz_loadu_ps(inside, x + frame * c->inputs + i);
      if (bias) own = add_ps(own, maskz_loadu_ps(inside, bias + i));
      if (c->activation == LEAKY) own = max_ps(own, mul_ps(own, set1_ps(c->slope)));
      if (c->activation == SNAKE) own = snake(own, loadu_ps(c->alpha + i), loadu_ps(c->inverse + i));
      if (c->exact) put_exact(own, to + i, rest + i);
      else put_numbers(own, to + i);
    }
  }
}

// Rows of input that make `made` rows, and as many more as are read with them.
static int64_t rows_for(const Convolution *c, int64_t made) {
  return (whole_rows(made) - 1) * c->stride + (c->taps - 1) * c->dilation + 1;
}

// Rows [first, first + made) of the convolution of x (frames, inputs) and `bias` -> to, in whole blocks of outputs,
// without its own bias, which whoever reads them next adds. planes: (PLANES, rows_for(made), width)
static void convolve_rows(const Convolution *c, const float *x, const float *bias, int64_t frames, int64_t first,
                          int64_t made, Number *planes, float *to) {
  int64_t rows = rows_for(c, made), width = c->width, whole = whole_blocks(c->weights.outputs);
  Number *rest = planes + (PLANES - 1) * rows * width;
  activate_rows(c, x, bias, frames, first * c->stride - c->padding, rows, planes, rest);
  Lines in = lines(planes, c->stride * width, c->taps, c->dilation * width, width, c->exact, rest);
  multiply(&c->weights, in, made, to, whole);
}

static int64_t planes_bytes(const Convolution *c, int64_t made) {
  return (PLANES * sizeof(Number) * rows_for(c, made) * c->width + 63) / 64 * 64;
}

static int64_t sums_bytes(const Convolution *c, int64_t made) {
  return whole_rows(made) * whole_blocks(c->weights.outputs) * sizeof(float);
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
      Floats made = add_ps(loadu_ps(sums + i), loadu_ps(bias + i));
      if (x) made = add_ps(made, maskz_loadu_ps(inside, x + m * outputs + i));
      made = mul_ps(made, set1_ps(share));
      if (add) made = add_ps(made, maskz_loadu_ps(inside, own));
      mask_storeu_ps(own, inside, made);
    }
}

// x (batch, frames, inputs) -> to (batch, made, outputs), of which the batch's rows lie `apart` numbers from each
// other: a convolution or, where there is `two`, a residual pair x + two(one(x)), whose widths and lengths are all the
// same. `share` of the result is put there, or added. Returns 0, or -1 where there is no memory.
int convolution(const Convolution *one, const Convolution *two, const float *x, int64_t batch, int64_t frames,
                int64_t made, float *to, int64_t apart, float share, int add) {
  if (batch <= 0 || made <= 0) return 0;
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
        convolve_rows(one, from, NULL, frames, first, rows_for(two, count), (Number *)mine, hidden);
        convolve_rows(two, before, one->weights.bias, frames, begin, count, (Number *)mine, sums);
      } else {
        convolve_rows(one, from, NULL, frames, begin, count, (Number *)mine, sums);
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
