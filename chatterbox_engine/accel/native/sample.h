// The next token of each stream, as `process` and `draw` of chatterbox_engine/t3/sampling.py choose it where nothing is
// sorted. What a token must win is argmax(p / Exp(1)), which a factor common to all p does not change: so their sum is
// never taken, and min-p compares with the likeliest one's weight of 1.

#include "noise.h"

enum { SAMPLING = 1 }; // the draws' domain

// Repetition penalty and temperature, in place -> the largest logit.
static float temper(float *logits, const uint8_t *seen, int64_t count, float penalty, float temperature) {
  Floats most = set1_ps(-INFINITY), cost = set1_ps(penalty), warmth = set1_ps(temperature);
  for (int64_t i = 0; i < count; i += 16) {
    __mmask16 inside = count - i >= 16 ? 0xffff : (__mmask16)((1 << (count - i)) - 1);
    Floats own = mask_loadu_ps(set1_ps(-INFINITY), inside, logits + i);
    __m128i marks = maskz_loadu_epi8(inside, seen + i);
    __mmask16 costs = test_epi8_mask(marks, marks), below = cmp_ps_mask(own, setzero_ps(), _CMP_LT_OQ);
    own = mask_mul_ps(own, costs & below, own, cost);
    own = mask_div_ps(own, costs & ~below, own, cost);
    own = div_ps(own, warmth);
    most = max_ps(most, own);
    mask_storeu_ps(logits + i, inside, own);
  }
  return reduce_max_ps(most);
}

// The winner among logits of which the largest is `most`; `first` is the place of its noise.
//
// Exp(1) is -log(u), which is at least 1 - u: a logarithm is taken only for those that this lets win.
static int64_t race(const float *logits, int64_t count, float most, float min_p, Words key, int64_t first) {
  const Words each = setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const float range = 4294967296.0f, slack = 0.999999f; // 2**32; more than the bound's roundings
  Words high = noise_high(key, first); // no row crosses 2**32
  float best = 0.0f;
  int64_t winner = 0;
  for (int64_t i = 0; i < count; i += 16) {
    __mmask16 runs = count - i >= 16 ? 0xffff : (__mmask16)((1 << (count - i)) - 1);
    Floats weight = exponential(sub_ps(maskz_loadu_ps(runs, logits + i), set1_ps(most)));
    runs = mask_cmp_ps_mask(runs, weight, set1_ps(min_p), _CMP_GE_OQ);
    if (!runs) continue;
    Words place = add_epi32(set1_epi32((int)(first + i)), each);
    Words word = noise_words(key, high, place);
    Floats bound = cvtepu32_ps(xor_si512(word, set1_epi32(-1)));
    bound = mul_ps(add_ps(bound, set1_ps(0.5f)), set1_ps(best * slack / range));
    runs = mask_cmp_ps_mask(runs, weight, bound, _CMP_GT_OQ);
    if (!runs) continue;
    float weights[16];
    uint32_t words[16];
    storeu_ps(weights, weight), storeu_si512(words, word);
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
