// Rows of a multiple of 16 numbers: their products with packed weights, many rows at a time, and what is done to a row
// between two of them.

#pragma once

#ifdef __AVX512F__
#include "tiles.h"
#else
#include "avx2_shorts.h"
#endif

#if defined(__AMX_BF16__) || !defined(__AVX512F__)
#define MANY_ROWS

static inline int64_t whole_rows(int64_t rows) { return (rows + WHOLE_ROWS - 1) / WHOLE_ROWS * WHOLE_ROWS; }

static inline int64_t whole_blocks(int64_t outputs) { return (outputs + BLOCK - 1) / BLOCK * BLOCK; }

// Norm over a row (1607.06450), then gain and shift.
static inline void norm_row(const float *x, int64_t width, const float *gain, const float *shift, float *to) {
  Floats sum = setzero_ps(), square = sum;
  for (int64_t i = 0; i < width; i += 16) sum = add_ps(sum, loadu_ps(x + i));
  Floats mean = set1_ps(reduce_add_ps(sum) / width);
  for (int64_t i = 0; i < width; i += 16) {
    Floats own = sub_ps(loadu_ps(x + i), mean);
    square = fmadd_ps(own, own, square);
  }
  Floats factor = set1_ps(1.0f / sqrtf(reduce_add_ps(square) / width + 1e-5f));
  for (int64_t i = 0; i < width; i += 16) {
    Floats own = mul_ps(sub_ps(loadu_ps(x + i), mean), factor);
    storeu_ps(to + i, fmadd_ps(own, loadu_ps(gain + i), loadu_ps(shift + i)));
  }
}

// 2^x within 1e-4 of it, for results in bf16: by the exponent, and a polynomial of what x is above a whole number.
static inline Floats power_of_two(Floats x) {
  Floats r = reduce_ps(x, _MM_FROUND_TO_NEG_INF);
  Floats y = fmadd_ps(r, set1_ps(0.078022868f), set1_ps(0.22606596f));
  y = fmadd_ps(fmadd_ps(y, r, set1_ps(0.69583592f)), r, set1_ps(0.99992477f));
  return times_power(y, x);
}

// x tanh(log(1 + e^x)) (1908.08681), as exact as `power_of_two` and the processor's approximate inverse are.
static inline Floats mish(Floats x) {
  Floats power = power_of_two(mul_ps(min_ps(x, set1_ps(20.0f)), set1_ps(1.44269504f)));
  Floats factor = fmadd_ps(power, power, add_ps(power, power)); // beyond 20 the ratio is 1
  return mul_ps(mul_ps(x, factor), rcp14_ps(add_ps(factor, set1_ps(2.0f))));
}

// x times the normal distribution's share below x (1606.08415), by Abramowitz and Stegun's error function, 7.1.26; as
// exact as `mish`.
static inline Floats gelu(Floats x) {
  const float terms[] = {1.061405429f, -1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f};
  const Floats one = set1_ps(1.0f);
  Floats z = abs_ps(mul_ps(x, set1_ps(0.70710678f)));
  Floats t = rcp14_ps(fmadd_ps(z, set1_ps(0.3275911f), one));
  Floats sum = set1_ps(terms[0]);
  for (int i = 1; i < 5; i++) sum = fmadd_ps(sum, t, set1_ps(terms[i]));
  Floats power = power_of_two(mul_ps(mul_ps(z, z), set1_ps(-1.44269504f)));
  Floats rest = mul_ps(mul_ps(sum, t), mul_ps(power, set1_ps(0.5f))); // of the tail
  __mmask16 below = cmp_ps_mask(x, setzero_ps(), _CMP_LT_OQ);
  return mul_ps(x, mask_mov_ps(sub_ps(one, rest), below, rest));
}

#endif
