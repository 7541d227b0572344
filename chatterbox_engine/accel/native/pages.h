// Keys and values in pages, packed as weights are, and attention of many queries to them.

#include "rows.h"

#ifdef MANY_ROWS

enum { PAGE = 32 };    // places of a page
enum { TOGETHER = 4 }; // pages that are scored at a time
enum { LARGE = 8 };    // powers of two by which a weight may exceed 1
// Of scores: a power of two would put them into the same few places of the cache.
enum { STRIDE = TOGETHER * PAGE + 32 };

// Of one head a page has, in 16 bits, the keys of 16 places and then of 16 more, each as 16 x 16 pairs of numbers
// (pair, place) for every 32 numbers of a key, and then for every 16 numbers of a value 16 x 16 pairs of places (pair,
// number).
typedef struct {
  char *memory;
  int64_t there; // a bit for each place that is to be attended to, the first one's the lowest
} Page;

#ifdef __AMX_BF16__

static inline int64_t plane_bytes(int64_t width) { return 2 * PAGE * width * 2; }
static inline int64_t query_room(int64_t width) { return width; }

static inline void put_query(const Number *from, int64_t width, uint16_t *to) { memcpy(to, from, 2 * width); }

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

// The same of up to QUERIES, of which whole tiles are read and written.
static void score_page(int64_t count, const uint16_t *queries, int64_t width, const char *keys, float *to) {
  if (count > 16) page_scores(2, queries, width, keys, to);
  else
    page_scores(1, queries, width, keys, to);
}

// Values by 16 or 32 queries' weights, 32 numbers of the values, are added to `to` (rows, width).
static inline __attribute__((always_inline)) void page_mix(int rows, const Number *weights, const Page *pages,
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

// Values by the weights (count, STRIDE) of up to QUERIES are added to `to` (count, width).
static void mix_pages(int64_t count, const Number *weights, const Page *pages, int64_t some, int64_t plane,
                      int64_t width, float *to) {
  for (int64_t i = 0; i < width; i += 32)
    if (count > 16) page_mix(2, weights, pages, some, plane, width, i, to);
    else
      page_mix(1, weights, pages, some, plane, width, i, to);
}

#else

// Keys and values are whole numbers of 13 bits, with a scale for each place: the 32 keys' after the keys and the 32
// values' after the values.
enum { SCALES = PAGE * sizeof(float) };

static inline int64_t plane_bytes(int64_t width) { return 2 * (PAGE * width * 2 + SCALES); }
static inline int64_t query_room(int64_t width) { return row_room(width, group_of(width)); }

static inline void put_query(const Number *from, int64_t width, uint16_t *to) {
  put_line(from, width, group_of(width), to);
}

// A head's key (width) of one place.
static inline void put_key(char *page, int64_t place, int64_t width, const float *key) {
  uint16_t shorts[width], *to = (uint16_t *)(page + place / 16 * 16 * width * 2 + place % 16 * 4);
  float scale = put_shorts(key, width, MOST_WEIGHT, shorts);
  for (int64_t i = 0; i < width; i += 2, to += 32) memcpy(to, shorts + i, 4);
  memcpy(page + PAGE * width * 2 + place * sizeof scale, &scale, sizeof scale);
}

static inline void put_value(char *page, int64_t place, int64_t width, const float *value) {
  page += PAGE * width * 2 + SCALES;
  uint16_t shorts[width], *to = (uint16_t *)(page + place / 2 * 64) + place % 2;
  float scale = put_shorts(value, width, MOST_WEIGHT, shorts);
  for (int64_t i = 0; i < width; i += 16, to += 512)
    for (int64_t n = 0; n < 16; n++) to[2 * n] = shorts[i + n];
  memcpy(page + PAGE * width * 2 + place * sizeof scale, &scale, sizeof scale);
}

// Scores of up to QUERIES with a page's keys -> to (count, STRIDE).
static void score_page(int64_t count, const uint16_t *queries, int64_t width, const char *keys, float *to) {
  ShortLines in = short_lines(queries, query_room(width), 1, 0, width, group_of(width));
  const float *scales = (const float *)(keys + PAGE * width * 2);
  for (int64_t half = 0; half < PAGE; half += 16)
    short_rows(in, count, keys + 2 * width * half, scales + half, to + half, STRIDE);
}

// Values by the weights (count, STRIDE) of up to QUERIES are added to `to` (count, width). The values' scales go into
// the weights, of which a page's are a group.
static void mix_pages(int64_t count, const Number *weights, const Page *pages, int64_t some, int64_t plane,
                      int64_t width, float *to) {
  uint16_t rows[QUERIES * (PAGE + 2)];
  ShortLines in = short_lines(rows, PAGE + 2, 1, 0, PAGE, PAGE);
  for (int64_t p = 0; p < some; p++, weights += PAGE) {
    const char *values = pages[p].memory + plane + PAGE * width * 2 + SCALES;
    const float *scales = (const float *)(values + PAGE * width * 2);
    Floats first = loadu_ps(scales), second = loadu_ps(scales + 16);
    for (int64_t m = 0; m < count; m++) {
      Floats low = mul_ps(loadu_ps(weights + m * STRIDE), first);
      Floats high = mul_ps(loadu_ps(weights + m * STRIDE + 16), second);
      float most = reduce_max_ps(max_ps(low, high)) + 1e-30f, scale = most / MOST_SHORT;
      Floats inverse = set1_ps(MOST_SHORT / most);
      uint16_t *row = rows + m * (PAGE + 2);
      store_shorts(mul_ps(low, inverse), row), store_shorts(mul_ps(high, inverse), row + 16);
      memcpy(row + PAGE, &scale, sizeof scale);
    }
    for (int64_t i = 0; i < width; i += BLOCK) add_short_rows(in, count, values + 64 * i, to + i, width);
  }
}

#endif

// What a query's weights stand on: two to the power of its scores less `most`, and their sum so far.
typedef struct {
  float most, sum;
} Found;

// Scores of places that are not there are far below all others.
static inline void hide(float *scores, const Page *pages, int64_t count) {
  for (int64_t p = 0; p < count; p++)
    for (int64_t half = 0; (uint32_t)pages[p].there != 0xffffffff && half < 2; half++)
      mask_storeu_ps(scores + p * PAGE + 16 * half, (__mmask16)(~pages[p].there >> 16 * half),
                            set1_ps(-1e30f));
}

// A query's scores with `count` pages -> weights; values (width) are what it has found with the pages before.
// What the weights stand on is raised only where they would grow large, so that there is seldom anything to scale.
static inline void page_weights(const float *scores, int64_t count, Number *weights, Found *found, float *values,
                                int64_t width) {
  Floats most = loadu_ps(scores), sum[2] = {setzero_ps(), setzero_ps()};
  for (int64_t i = 16; i < count * PAGE; i += 16) most = max_ps(most, loadu_ps(scores + i));
  float greatest = reduce_max_ps(most);
  if (greatest > found->most + LARGE) {
    float shrink = exp2f(fmaxf(found->most - greatest, -126.0f));
    Floats factor = set1_ps(shrink);
    for (int64_t i = 0; i < width; i += 16)
      storeu_ps(values + i, mul_ps(loadu_ps(values + i), factor));
    found->sum *= shrink;
    found->most = greatest;
  }
  most = set1_ps(found->most);
  for (int64_t i = 0; i < count * PAGE; i += 32)
    for (int half = 0; half < 2; half++) {
      Floats x = power_of_two(sub_ps(loadu_ps(scores + i + 16 * half), most));
      sum[half] = add_ps(sum[half], x);
      put_numbers(x, weights + i + 16 * half);
    }
  found->sum += reduce_add_ps(add_ps(sum[0], sum[1]));
}

static int64_t attention_floats(int64_t width) {
  int64_t floats = STRIDE + width + (STRIDE * sizeof(Number) + query_room(width) * sizeof(uint16_t)) / sizeof(float);
  return QUERIES * floats; // scores, values found, weights, queries
}

// A head's queries (rows, stride), scaled for powers of two, with the pages' places, `plane` bytes into each -> where
// the queries lie. Pages are taken some at a time (FlashAttention,
// 2205.14135), so that their scores stay in a core's first cache. room: attention_floats.
static void attend_pages(Number *queries, int64_t stride, int64_t rows, int64_t width, const Page *pages, int64_t count,
                         int64_t plane, float *room) {
  float *scores = room, *values = scores + QUERIES * STRIDE;
  Number *weights = (Number *)(values + QUERIES * width);
  uint16_t *q = (uint16_t *)(weights + QUERIES * STRIDE);
  for (int64_t begin = 0; begin < rows; begin += QUERIES) {
    int64_t own = least(QUERIES, rows - begin);
    Number *from = queries + begin * stride;
    for (int64_t m = 0; m < whole_rows(own); m++) put_query(from + m * stride, width, q + m * query_room(width));
    Found found[QUERIES];
    for (int m = 0; m < QUERIES; m++) found[m] = (Found){-1e30f, 0.0f};
    memset(values, 0, QUERIES * width * sizeof(float));
    for (int64_t first = 0; first < count; first += TOGETHER) {
      int64_t some = least(TOGETHER, count - first);
      for (int64_t p = 0; p < some; p++) score_page(own, q, width, pages[first + p].memory + plane, scores + p * PAGE);
      for (int64_t m = 0; m < own; m++) {
        hide(scores + m * STRIDE, pages + first, some);
        page_weights(scores + m * STRIDE, some, weights + m * STRIDE, found + m, values + m * width, width);
      }
      mix_pages(own, weights, pages + first, some, plane, width, values);
    }
    for (int64_t m = 0; m < own; m++) {
      Floats share = set1_ps(1.0f / found[m].sum);
      for (int64_t i = 0; i < width; i += 16)
        put_numbers(mul_ps(loadu_ps(values + m * width + i), share), from + m * stride + i);
    }
  }
}

#endif
