// The next token of each stream, as `process` and `draw` of chatterbox_engine/t3/sampling.py choose it where nothing is
// sorted. What a token must win is argmax(p / Exp(1)), which a factor common to all p does not change: so their sum is
// never taken, and min-p compares with the likeliest one's weight of 1.

#include "noise.h"

enum { SAMPLING = 1 }; // the draws' domain

// Repetition penalty and temperature, in place -> the largest logit.
static float temper(float *logits, const uint8_t *seen, int64_t count, float penalty, float temperature) {
  __m512 most = _mm512_set1_ps(-INFINITY), cost = _mm512_set1_ps(penalty), warmth = _mm512_set1_ps(temperature);
  for (int64_t i = 0; i < count; i += 16) {
    __mmask16 inside = count - i >= 16 ? 0xffff : (__mmask16)((1 << (count - i)) - 1);
    __m512 own = _mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), inside, logits + i);
    __m128i marks = _mm_maskz_loadu_epi8(inside, seen + i);
    __mmask16 costs = _mm_test_epi8_mask(marks, marks), below = _mm512_cmp_ps_mask(own, _mm512_setzero_ps(), _CMP_LT_OQ);
    own = _mm512_mask_mul_ps(own, costs & below, own, cost);
    own = _mm512_mask_div_ps(own, costs & ~below, own, cost);
    own = _mm512_div_ps(own, warmth);
    most = _mm512_max_ps(most, own);
    _mm512_mask_storeu_ps(logits + i, inside, own);
  }
  return _mm512_reduce_max_ps(most);
}

// The winner among logits of which the largest is `most`; `first` is the place of its noise.
//
// Exp(1) is -log(u), which is at least 1 - u: a logarithm is taken only for those that this lets win.
static int64_t race(const float *logits, int64_t count, float most, float min_p, __m512i key, int64_t first) {
  const __m512i each = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const float range = 4294967296.0f, slack = 0.999999f; // 2**32; more than the bound's roundings
  __m512i high = noise_high(key, first); // no row crosses 2**32
  float best = 0.0f;
  int64_t winner = 0;
  for (int64_t i = 0; i < count; i += 16) {
    __mmask16 runs = count - i >= 16 ? 0xffff : (__mmask16)((1 << (count - i)) - 1);
    __m512 weight = exponential(_mm512_sub_ps(_mm512_maskz_loadu_ps(runs, logits + i), _mm512_set1_ps(most)));
    runs = _mm512_mask_cmp_ps_mask(runs, weight, _mm512_set1_ps(min_p), _CMP_GE_OQ);
    if (!runs) continue;
    __m512i place = _mm512_add_epi32(_mm512_set1_epi32((int)(first + i)), each);
    __m512i word = noise_words(key, high, place);
    __m512 bound = _mm512_cvtepu32_ps(_mm512_xor_si512(word, _mm512_set1_epi32(-1)));
    bound = _mm512_mul_ps(_mm512_add_ps(bound, _mm512_set1_ps(0.5f)), _mm512_set1_ps(best * slack / range));
    runs = _mm512_mask_cmp_ps_mask(runs, weight, bound, _CMP_GT_OQ);
    if (!runs) continue;
    float weights[16];
    uint32_t words[16];
    _mm512_storeu_ps(weights, weight), _mm512_storeu_si512(words, word);
    for (int n = 0; n < 16; n++) {
      float speed = weights[n] / (float)-log((words[n] + 0.5) / range);
      if (runs >> n & 1 && speed > best) best = speed, winner = i + n;
    }
  }
  return winner;
}

// `count` streams draw -> drawn (count). logits (count, vocabulary) are changed; the rest is by slot.
void sample(float *logits, const int64_t *slots, const uint8_t *seen, const float *penalty, const float *temperature,
            const float *min_p, const int64_t *seeds, const int64_t *steps, int64_t *drawn, int64_t count,
            int64_t vocabulary) {
  for (int64_t s = 0; s < count; s++, logits += vocabulary) {
    int64_t slot = slots[s];
    float most = temper(logits, seen + slot * vocabulary, vocabulary, penalty[slot], temperature[slot]);
    drawn[s] = race(logits, vocabulary, most, min_p[slot], noise_key(seeds[slot], SAMPLING, 0), steps[slot] * vocabulary);
  }
}
