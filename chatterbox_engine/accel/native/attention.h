// One query's attention to the cache, in bf16 or in 8 bits.

#include "linear.h"

enum { HEAD_WIDTH = 64 };
enum { RECORD = HEAD_WIDTH + sizeof(float) }; // a head's key or value in 8 bits, and its scale

static void rotate(float *x, const float *cos, const float *sin) {
  enum { HALF = HEAD_WIDTH / 2 };
  for (int i = 0; i < HALF; i++) {
    float a = x[i], b = x[i + HALF];
    x[i] = a * cos[i] - b * sin[i];
    x[i + HALF] = b * cos[i + HALF] + a * sin[i + HALF];
  }
}

// e^x of 16 numbers within 2e-7 of it: 2^n by the exponent, the rest by a polynomial (Cephes, S. Moshier).
static inline Floats exponential(Floats x) {
  Floats n = roundscale_ps(mul_ps(x, set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
  Floats r = fnmadd_ps(n, set1_ps(0.693359375f), x);
  r = fnmadd_ps(n, set1_ps(-2.12194440e-4f), r);
  const float terms[] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 0.5f};
  Floats y = set1_ps(terms[0]);
  for (int i = 1; i < 6; i++) y = fmadd_ps(y, r, set1_ps(terms[i]));
  y = fmadd_ps(mul_ps(r, r), y, add_ps(r, set1_ps(1.0f)));
  return scalef_ps(y, n);
}

enum { SOON = 32 }; // keys fetched before they are needed

// Values are fetched while keys are multiplied, and in 8 bits, where both fit the first cache, the next head's keys while
// values are: memory is never idle.
static inline void fetch(const char *place, int64_t bytes) {
  for (int64_t line = 0; line + 64 <= bytes; line += 64) _mm_prefetch(place + line, _MM_HINT_T0);
}

// A head's new key or value.
static void put_place(const float *x, char *place, int quantised) {
  if (!quantised) {
    for (int i = 0; i < HEAD_WIDTH; i++) ((uint16_t *)place)[i] = to_bf16(x[i]);
    return;
  }
  float most = largest(x, HEAD_WIDTH), scale = most / LARGEST, inverse = LARGEST / most;
  for (int i = 0; i < HEAD_WIDTH; i++) place[i] = (char)(int32_t)nearbyintf(x[i] * inverse);
  memcpy(place + HEAD_WIDTH, &scale, sizeof scale);
}

// Products of a query with `length` keys -> scores, whole vectors of them. Queries are rounded to bf16; sums are in fp32.
static void score_bf16(const float *q, const char *keys, const char *values, int64_t length, float *scores) {
  uint16_t query[HEAD_WIDTH];
  for (int i = 0; i < HEAD_WIDTH; i++) query[i] = to_bf16(q[i]);
  Pairs low = pairs(query), high = pairs(query + 32);
  for (int64_t p = 0; p < length; p += 16) {
    Floats v[16];
    for (int i = 0; i < 16; i++) { // beyond the end the last place stands in
      int64_t place = (p + i < length ? p + i : length - 1) * 2 * HEAD_WIDTH;
      const char *key = keys + place;
      fetch(key + SOON * 2 * HEAD_WIDTH, 2 * HEAD_WIDTH), fetch(values + place, 2 * HEAD_WIDTH);
      v[i] = dpbf16_ps(setzero_ps(), low, pairs(key));
      v[i] = dpbf16_ps(v[i], high, pairs(key + 64));
    }
    storeu_ps(scores + p, sums_of(v));
  }
}

// The same with keys in 8 bits, by VNNI: the query is cut into two digits, so that the rounding left is the keys'. Keys
// get 128 added to be unsigned, which adds 128 times the query's sum to every product.
static void score_int8(const float *q, const char *keys, const char *values, int64_t length, float *scores) {
  int8_t digits[2][HEAD_WIDTH];
  float most = largest(q, HEAD_WIDTH), sum = 0.0f;
  float scale = most / (LARGEST * DIGIT), inverse = (LARGEST * DIGIT) / most;
  for (int i = 0; i < HEAD_WIDTH; i++) {
    float whole = nearbyintf(q[i] * inverse), high = nearbyintf(whole * (1.0f / DIGIT));
    digits[0][i] = (int8_t)(int32_t)high;
    digits[1][i] = (int8_t)(int32_t)(whole - DIGIT * high);
    sum += whole;
  }
  const Words high = loadu_si512(digits[0]), low = loadu_si512(digits[1]);
  const Words sign = set1_epi8((char)0x80), none = setzero_si512();
  const Words last = set1_epi32((int)(length - 1));
  const Words each = setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int64_t p = 0; p < length; p += 16) {
    Floats v[16];
    for (int i = 0; i < 16; i++) {
      int64_t place = (p + i < length ? p + i : length - 1) * RECORD;
      const char *key = keys + place;
      fetch(key + SOON * RECORD, RECORD), fetch(values + place, RECORD);
      Words own = xor_si512(loadu_si512(key), sign);
      Words whole = slli_epi32(dpbusd_epi32(none, own, high), 7);
      v[i] = cvtepi32_ps(dpbusd_epi32(whole, own, low));
    }
    Words places = min_epi32(add_epi32(set1_epi32((int)p), each), last);
    places = mullo_epi32(places, set1_epi32(RECORD));
    Floats scales = mul_ps(i32gather_ps(places, keys + HEAD_WIDTH, 1), set1_ps(scale));
    Floats products = sub_ps(sums_of(v), set1_ps(DIGIT * sum));
    storeu_ps(scores + p, mul_ps(products, scales));
  }
}

// Softmax of `length` scores, in whole vectors.
static void soften(float *scores, int64_t length) {
  Floats most = set1_ps(-INFINITY), total = setzero_ps();
  for (int64_t p = 0; p < length; p += 16) most = max_ps(most, loadu_ps(scores + p));
  most = set1_ps(reduce_max_ps(most));
  for (int64_t p = 0; p < length; p += 16) {
    __mmask16 inside = length - p >= 16 ? 0xffff : (__mmask16)((1 << (length - p)) - 1);
    Floats own = maskz_mov_ps(inside, exponential(sub_ps(loadu_ps(scores + p), most)));
    total = add_ps(total, own);
    storeu_ps(scores + p, own);
  }
  Floats share = set1_ps(1.0f / reduce_add_ps(total));
  for (int64_t p = 0; p < length; p += 16) storeu_ps(scores + p, mul_ps(loadu_ps(scores + p), share));
}

// Values by their weights -> to (HEAD_WIDTH). A pair of bf16 is a float's upper half and, shifted, another's: values at
// even and odd places are summed apart.
static void mix_bf16(const float *weights, const char *values, int64_t length, float *to) {
  const Words upper = set1_epi32((int)0xffff0000);
  Floats even[2] = {setzero_ps(), setzero_ps()}, odd[2] = {even[0], even[0]};
  for (int64_t p = 0; p < length; p++) {
    const char *value = values + p * 2 * HEAD_WIDTH;
    Floats w = set1_ps(weights[p]);
    for (int half = 0; half < 2; half++) {
      Words pairs = loadu_si512(value + 64 * half);
      even[half] = fmadd_ps(w, castsi512_ps(slli_epi32(pairs, 16)), even[half]);
      odd[half] = fmadd_ps(w, castsi512_ps(and_si512(pairs, upper)), odd[half]);
    }
  }
  for (int half = 0; half < 2; half++) {
    float first[16], second[16];
    storeu_ps(first, even[half]), storeu_ps(second, odd[half]);
    for (int i = 0; i < 16; i++) to[32 * half + 2 * i] = first[i], to[32 * half + 2 * i + 1] = second[i];
  }
}

static void mix_int8(const float *weights, const char *values, const char *next, int64_t length, float *to) {
  Floats sums[4] = {setzero_ps(), setzero_ps(), setzero_ps(), setzero_ps()};
  for (int64_t p = 0; p < length; p++) {
    const char *value = values + p * RECORD;
    float scale;
    fetch(next + p * RECORD, RECORD);
    memcpy(&scale, value + HEAD_WIDTH, sizeof scale);
    Floats w = set1_ps(weights[p] * scale);
    for (int i = 0; i < 4; i++) {
      Words own = cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(value + 16 * i)));
      sums[i] = fmadd_ps(w, cvtepi32_ps(own), sums[i]);
    }
  }
  for (int i = 0; i < 4; i++) storeu_ps(to + 16 * i, sums[i]);
}
