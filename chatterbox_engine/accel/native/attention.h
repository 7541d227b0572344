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
static inline __m512 exponential(__m512 x) {
  __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  const float terms[] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 0.5f};
  __m512 y = _mm512_set1_ps(terms[0]);
  for (int i = 1; i < 6; i++) y = _mm512_fmadd_ps(y, r, _mm512_set1_ps(terms[i]));
  y = _mm512_fmadd_ps(_mm512_mul_ps(r, r), y, _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_scalef_ps(y, n);
}

// The sum of each of 16 vectors: halves are added side by side, four times.
static inline __m512 sums_of(__m512 v[16]) {
  for (int i = 0; i < 8; i++)
    v[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[i], v[i + 8], 0x44), _mm512_shuffle_f32x4(v[i], v[i + 8], 0xee));
  for (int i = 0; i < 4; i++)
    v[i] = _mm512_add_ps(_mm512_shuffle_f32x4(v[i], v[i + 4], 0x88), _mm512_shuffle_f32x4(v[i], v[i + 4], 0xdd));
  for (int i = 0; i < 2; i++)
    v[i] = _mm512_add_ps(_mm512_shuffle_ps(v[i], v[i + 2], 0x44), _mm512_shuffle_ps(v[i], v[i + 2], 0xee));
  v[0] = _mm512_add_ps(_mm512_shuffle_ps(v[0], v[1], 0x88), _mm512_shuffle_ps(v[0], v[1], 0xdd));
  const __m512i order = _mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
  return _mm512_permutexvar_ps(order, v[0]);
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
  __m512bh low = (__m512bh)_mm512_loadu_si512(query), high = (__m512bh)_mm512_loadu_si512(query + 32);
  for (int64_t p = 0; p < length; p += 16) {
    __m512 v[16];
    for (int i = 0; i < 16; i++) { // beyond the end the last place stands in
      int64_t place = (p + i < length ? p + i : length - 1) * 2 * HEAD_WIDTH;
      const char *key = keys + place;
      fetch(key + SOON * 2 * HEAD_WIDTH, 2 * HEAD_WIDTH), fetch(values + place, 2 * HEAD_WIDTH);
      v[i] = _mm512_dpbf16_ps(_mm512_setzero_ps(), low, (__m512bh)_mm512_loadu_si512(key));
      v[i] = _mm512_dpbf16_ps(v[i], high, (__m512bh)_mm512_loadu_si512(key + 64));
    }
    _mm512_storeu_ps(scores + p, sums_of(v));
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
  const __m512i high = _mm512_loadu_si512(digits[0]), low = _mm512_loadu_si512(digits[1]);
  const __m512i sign = _mm512_set1_epi8((char)0x80), none = _mm512_setzero_si512();
  const __m512i last = _mm512_set1_epi32((int)(length - 1));
  const __m512i each = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int64_t p = 0; p < length; p += 16) {
    __m512 v[16];
    for (int i = 0; i < 16; i++) {
      int64_t place = (p + i < length ? p + i : length - 1) * RECORD;
      const char *key = keys + place;
      fetch(key + SOON * RECORD, RECORD), fetch(values + place, RECORD);
      __m512i own = _mm512_xor_si512(_mm512_loadu_si512(key), sign);
      __m512i whole = _mm512_slli_epi32(_mm512_dpbusd_epi32(none, own, high), 7);
      v[i] = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(whole, own, low));
    }
    __m512i places = _mm512_min_epi32(_mm512_add_epi32(_mm512_set1_epi32((int)p), each), last);
    places = _mm512_mullo_epi32(places, _mm512_set1_epi32(RECORD));
    __m512 scales = _mm512_mul_ps(_mm512_i32gather_ps(places, keys + HEAD_WIDTH, 1), _mm512_set1_ps(scale));
    __m512 products = _mm512_sub_ps(sums_of(v), _mm512_set1_ps(DIGIT * sum));
    _mm512_storeu_ps(scores + p, _mm512_mul_ps(products, scales));
  }
}

// Softmax of `length` scores, in whole vectors.
static void soften(float *scores, int64_t length) {
  __m512 most = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
  for (int64_t p = 0; p < length; p += 16) most = _mm512_max_ps(most, _mm512_loadu_ps(scores + p));
  most = _mm512_set1_ps(_mm512_reduce_max_ps(most));
  for (int64_t p = 0; p < length; p += 16) {
    __mmask16 inside = length - p >= 16 ? 0xffff : (__mmask16)((1 << (length - p)) - 1);
    __m512 own = _mm512_maskz_mov_ps(inside, exponential(_mm512_sub_ps(_mm512_loadu_ps(scores + p), most)));
    total = _mm512_add_ps(total, own);
    _mm512_storeu_ps(scores + p, own);
  }
  __m512 share = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(total));
  for (int64_t p = 0; p < length; p += 16) _mm512_storeu_ps(scores + p, _mm512_mul_ps(_mm512_loadu_ps(scores + p), share));
}

// Values by their weights -> to (HEAD_WIDTH). A pair of bf16 is a float's upper half and, shifted, another's: values at
// even and odd places are summed apart.
static void mix_bf16(const float *weights, const char *values, int64_t length, float *to) {
  const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
  __m512 even[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, odd[2] = {even[0], even[0]};
  for (int64_t p = 0; p < length; p++) {
    const char *value = values + p * 2 * HEAD_WIDTH;
    __m512 w = _mm512_set1_ps(weights[p]);
    for (int half = 0; half < 2; half++) {
      __m512i pairs = _mm512_loadu_si512(value + 64 * half);
      even[half] = _mm512_fmadd_ps(w, _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)), even[half]);
      odd[half] = _mm512_fmadd_ps(w, _mm512_castsi512_ps(_mm512_and_si512(pairs, upper)), odd[half]);
    }
  }
  for (int half = 0; half < 2; half++)
    for (int i = 0; i < 16; i++) {
      to[32 * half + 2 * i] = even[half][i];
      to[32 * half + 2 * i + 1] = odd[half][i];
    }
}

static void mix_int8(const float *weights, const char *values, const char *next, int64_t length, float *to) {
  __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
  for (int64_t p = 0; p < length; p++) {
    const char *value = values + p * RECORD;
    float scale;
    fetch(next + p * RECORD, RECORD);
    memcpy(&scale, value + HEAD_WIDTH, sizeof scale);
    __m512 w = _mm512_set1_ps(weights[p] * scale);
    for (int i = 0; i < 4; i++) {
      __m512i own = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(value + 16 * i)));
      sums[i] = _mm512_fmadd_ps(w, _mm512_cvtepi32_ps(own), sums[i]);
    }
  }
  for (int i = 0; i < 4; i++) _mm512_storeu_ps(to + 16 * i, sums[i]);
}
