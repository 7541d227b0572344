// Keys and values in pages, packed as AMX's tiles take them, and attention of many queries to them.

#include "tiles.h"

#ifdef __AMX_BF16__

enum { PAGE = 32 };                  // places of a page
enum { QUERIES = 32, TOGETHER = 4 }; // queries, and pages, that are scored at a time
enum {
  STRIDE = TOGETHER * PAGE + 32
};                  // of scores: a power of two would put them into the same few places of the cache
enum { LARGE = 8 }; // powers of two by which a weight may exceed 1

// Of one head a page has, in bf16, the keys of 16 places and then of 16 more, each as 16 x 16 pairs of numbers (pair,
// place) for every 32 numbers of a key, and then for every 16 numbers of a value 16 x 16 pairs of places (pair,
// number).
typedef struct {
  char *memory;
  int64_t there; // a bit for each place that is to be attended to, the first one's the lowest
} Page;

// A head's key (width) of one place.
static inline void put_key(char *page, int64_t place, int64_t width, const float *key) {
  const __m512i apart = _mm512_slli_epi32(_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), 4);
  char *to = page + place / 16 * 16 * width * 2 + place % 16 * 4;
  for (int64_t i = 0; i < width; i += 32, to += 1024) {
    __m512bh pairs = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(key + i + 16), _mm512_loadu_ps(key + i));
    _mm512_i32scatter_epi32(to, apart, (__m512i)pairs, 4);
  }
}

static inline void put_value(char *page, int64_t place, int64_t width, const float *value) {
  char *to = page + PAGE * width * 2 + place / 2 * 64;
  __mmask32 half = place % 2 ? 0xaaaaaaaa : 0x55555555;
  for (int64_t i = 0; i < width; i += 16, to += 1024) {
    __m512i own = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(value + i)));
    own = place % 2 ? _mm512_slli_epi32(own, 16) : own;
    _mm512_storeu_si512(to, _mm512_mask_mov_epi16(_mm512_loadu_si512(to), half, own));
  }
}

// Scores of 16 or 32 queries (rows, width) with a page's keys -> to (rows, STRIDE).
static inline __attribute__((always_inline)) void page_scores(int rows, const uint16_t *queries, int64_t width,
                                                              const char *keys, float *to) {
  clear_tiles();
  for (int64_t i = 0; i < width; i += 32) {
    _tile_loadd(4, queries + i, 2 * width);
    _tile_loadd(6, keys + 32 * i, 64);
    _tile_loadd(7, keys + 32 * i + 32 * width, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (rows == 2) _tile_loadd(5, queries + i + 16 * width, 2 * width);
    if (rows == 2) _tile_dpbf16ps(2, 5, 6);
    if (rows == 2) _tile_dpbf16ps(3, 5, 7);
  }
  put_tiles(rows, 2, to, STRIDE);
}

// Values by 16 or 32 queries' weights, 32 numbers of the values, are added to `to` (rows, width).
static inline __attribute__((always_inline)) void page_mix(int rows, const uint16_t *weights, const Page *pages,
                                                           int64_t count, int64_t plane, int64_t width, int64_t number,
                                                           float *to) {
  to += number;
  take_tiles(rows, 2, to, width);
  for (int64_t p = 0; p < count; p++) {
    const char *values = pages[p].memory + plane + PAGE * width * 2 + number / 16 * 1024;
    _tile_loadd(4, weights + p * PAGE, 2 * STRIDE);
    _tile_loadd(6, values, 64);
    _tile_loadd(7, values + 1024, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (rows == 2) _tile_loadd(5, weights + 16 * STRIDE + p * PAGE, 2 * STRIDE);
    if (rows == 2) _tile_dpbf16ps(2, 5, 6);
    if (rows == 2) _tile_dpbf16ps(3, 5, 7);
  }
  put_tiles(rows, 2, to, width);
}

// What a query's weights stand on: two to the power of its scores less `most`, and their sum so far.
typedef struct {
  float most, sum;
} Found;

// Scores of places that are not there are far below all others.
static inline void hide(float *scores, const Page *pages, int64_t count) {
  for (int64_t p = 0; p < count; p++)
    for (int64_t half = 0; (uint32_t)pages[p].there != 0xffffffff && half < 2; half++)
      _mm512_mask_storeu_ps(scores + p * PAGE + 16 * half, (__mmask16)(~pages[p].there >> 16 * half),
                            _mm512_set1_ps(-1e30f));
}

// A query's scores with `count` pages -> weights, in bf16; values (width) are what it has found with the pages before.
// What the weights stand on is raised only where they would grow large, so that there is seldom anything to scale.
static inline void page_weights(const float *scores, int64_t count, uint16_t *weights, Found *found, float *values,
                                int64_t width) {
  __m512 most = _mm512_loadu_ps(scores), sum[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
  for (int64_t i = 16; i < count * PAGE; i += 16) most = _mm512_max_ps(most, _mm512_loadu_ps(scores + i));
  float greatest = _mm512_reduce_max_ps(most);
  if (greatest > found->most + LARGE) {
    __m512 factor = _mm512_set1_ps(exp2f(fmaxf(found->most - greatest, -126.0f)));
    for (int64_t i = 0; i < width; i += 16)
      _mm512_storeu_ps(values + i, _mm512_mul_ps(_mm512_loadu_ps(values + i), factor));
    found->sum *= _mm512_cvtss_f32(factor);
    found->most = greatest;
  }
  most = _mm512_set1_ps(found->most);
  for (int64_t i = 0; i < count * PAGE; i += 32)
    for (int half = 0; half < 2; half++) {
      __m512 x = power_of_two(_mm512_sub_ps(_mm512_loadu_ps(scores + i + 16 * half), most));
      sum[half] = _mm512_add_ps(sum[half], x);
      put_bf16(x, weights + i + 16 * half);
    }
  found->sum += _mm512_reduce_add_ps(_mm512_add_ps(sum[0], sum[1]));
}

static int64_t attention_floats(int64_t width) {
  return QUERIES * (STRIDE + STRIDE / 2 + width + width / 2); // scores, weights, values found, queries
}

// A head's queries (rows, stride bytes), scaled for powers of two, with the pages' places, `plane` bytes into each ->
// to, where the queries lie too. Rows are read in sixteens. Pages are taken some at a time (FlashAttention,
// 2205.14135), so that their scores stay in a core's first cache. room: attention_floats.
static void attend_pages(char *queries, int64_t stride, int64_t rows, int64_t width, const Page *pages, int64_t count,
                         int64_t plane, float *room) {
  float *scores = room, *values = scores + QUERIES * STRIDE;
  uint16_t *weights = (uint16_t *)(values + QUERIES * width), *q = weights + QUERIES * STRIDE;
  for (int64_t begin = 0; begin < rows; begin += QUERIES) {
    int64_t own = least(QUERIES, rows - begin);
    char *from = queries + begin * stride;
    for (int64_t m = 0; m < (own + 15) / 16 * 16; m++) memcpy(q + m * width, from + m * stride, 2 * width);
    Found found[QUERIES];
    for (int m = 0; m < QUERIES; m++) found[m] = (Found){-1e30f, 0.0f};
    memset(values, 0, QUERIES * width * sizeof(float));
    for (int64_t first = 0; first < count; first += TOGETHER) {
      int64_t some = least(TOGETHER, count - first);
      for (int64_t p = 0; p < some; p++)
        for (int64_t m = 0; m < own; m += 32) {
          const char *page = pages[first + p].memory + plane;
          float *to = scores + m * STRIDE + p * PAGE;
          if (own - m > 16) page_scores(2, q + m * width, width, page, to);
          else
            page_scores(1, q + m * width, width, page, to);
        }
      for (int64_t m = 0; m < own; m++) {
        hide(scores + m * STRIDE, pages + first, some);
        page_weights(scores + m * STRIDE, some, weights + m * STRIDE, found + m, values + m * width, width);
      }
      for (int64_t i = 0; i < width; i += 32)
        for (int64_t m = 0; m < own; m += 32) {
          const uint16_t *w = weights + m * STRIDE;
          if (own - m > 16) page_mix(2, w, pages + first, some, plane, width, i, values + m * width);
          else
            page_mix(1, w, pages + first, some, plane, width, i, values + m * width);
        }
    }
    for (int64_t m = 0; m < own; m++) {
      __m512 share = _mm512_set1_ps(1.0f / found[m].sum);
      for (int64_t i = 0; i < width; i += 16)
        put_bf16(_mm512_mul_ps(_mm512_loadu_ps(values + m * width + i), share), from + m * stride + 2 * i);
    }
  }
}

#endif
