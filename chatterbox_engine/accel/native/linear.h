// Linear layers over packed weights, for a few rows or many.
//
// A step's time is that of reading the weights once, so they lie in the order in which they are read: blocks of 16
// outputs, within a block 64 bytes for every 4 inputs (int8) or 2 (bf16). That is the layout of AMX tiles and of
// AVX512's dot products alike. Activations are rows: in bf16, or as one or two 8-bit digits with a scale for each row,
// so that a row's result never depends on the rows beside it. Sums of integers are exact in any order.

#include <immintrin.h>
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { BLOCK = 16, TILE_ROWS = 16, ROW_TILES = 4, DIGIT = 128, LARGEST = 127 };
enum { PANEL_BYTES = 1 << 19 }; // of activations that stay in a core's second cache
enum { AHEAD = 8192 }; // bytes of weights fetched before they are needed: hardware stops at the end of a page
enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };

typedef struct {
  int64_t outputs, inputs;
  int64_t digits;      // 0: bf16; 1 or 2: int8 weights, activations of so many digits
  const void *weight;  // packed
  const float *scale;  // (outputs), int8 alone
  const int32_t *sums; // (outputs) of each output's weights, int8 alone
  const float *bias;   // (outputs) or NULL
} Linear;

static int use_amx = 0;

// Allow tiles if `wanted` and the system grants them; returns whether they are used.
int prepare(int wanted) {
#ifdef __AMX_INT8__
  use_amx = wanted && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
  (void)wanted;
#endif
  return use_amx;
}

static inline uint16_t to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// ---- activations -------------------------------------------------------------------------------------------------


// Put row m of `rows` into the form of a linear layer. Digits of all rows come one after the other: high, then low.
static void put_row(const Linear *l, const float *x, int64_t m, int64_t rows, void *form, float *scales) {
  int64_t k = l->inputs;
  if (!l->digits) {
    uint16_t *to = (uint16_t *)form + m * k;
    for (int64_t i = 0; i < k; i++) to[i] = to_bf16(x[i]);
    return;
  }
  float most = 1e-12f;
  for (int64_t i = 0; i < k; i++) most = fmaxf(most, fabsf(x[i]));
  float largest = l->digits == 1 ? LARGEST : LARGEST * DIGIT;
  float scale = most / largest, inverse = largest / most;
  scales[m] = scale;
  int8_t *high = (int8_t *)form + m * k, *low = high + rows * k;
  if (l->digits == 1) {
    for (int64_t i = 0; i < k; i++) high[i] = (int8_t)(int32_t)nearbyintf(x[i] * inverse);
    return;
  }
  for (int64_t i = 0; i < k; i++) {
    float whole = nearbyintf(x[i] * inverse), h = nearbyintf(whole * (1.0f / DIGIT));
    high[i] = (int8_t)(int32_t)h;
    low[i] = (int8_t)(int32_t)(whole - DIGIT * h);
  }
}

// ---- products: rows of activations with one block of 16 outputs ----------------------------------------------------

#ifdef __AMX_INT8__
typedef struct {
  uint8_t palette, start, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
} __attribute__((packed, aligned(64))) TileConfig;

// Tiles 0-3: sums of up to 64 rows; 4: weights; 5: rows.
static void configure_tiles(void) {
  TileConfig config;
  memset(&config, 0, sizeof config);
  config.palette = 1;
  for (int i = 0; i < 6; i++) {
    config.bytes[i] = 64;
    config.rows[i] = TILE_ROWS;
  }
  _tile_loadconfig(&config);
}

#define EACH_TILE(rows, DO) DO(0) if ((rows) > 16) DO(1) if ((rows) > 32) DO(2) if ((rows) > 48) DO(3)
#define ZERO(t) _tile_zero(t);
#define STORE(t) _tile_stored(t, sums + 256 * (t), 64);
#define ADD_INT8(t) { _tile_loadd(5, a + 16 * (t) * stride + kb, stride); _tile_dpbssd(t, 5, 4); }
#define ADD_BF16(t) { _tile_loadd(5, a + 16 * (t) * stride + kb, stride); _tile_dpbf16ps(t, 5, 4); }

// Up to 64 rows, padded to whole tiles; `stride` and `bytes` are a row's. sums: (64, 16) int32 or float.
static void tile_product(int64_t digits, const char *a, int64_t rows, int64_t stride, const char *w, int64_t bytes,
                         int32_t *sums) {
  EACH_TILE(rows, ZERO)
  for (int64_t kb = 0; kb < bytes; kb += 64) {
    for (int line = 0; line < 16; line++) _mm_prefetch(w + 16 * kb + AHEAD + 64 * line, _MM_HINT_T0);
    _tile_loadd(4, w + 16 * kb, 64);
    if (digits) { EACH_TILE(rows, ADD_INT8) } else { EACH_TILE(rows, ADD_BF16) }
  }
  EACH_TILE(rows, STORE)
}
#endif

// Up to 8 rows by AVX512: int8 by VNNI, whose first operand is unsigned, so 128 is added here and its share taken off.
static void vector_product(const Linear *l, int64_t block, const char *a, int64_t rows, int64_t stride, const char *w,
                           int32_t *sums) {
  __m512i acc[8];
  int64_t words = stride / 4;
  for (int r = 0; r < 8; r++) acc[r] = _mm512_setzero_si512();
  for (int64_t i = 0; i < words; i++) {
    __m512i weights = _mm512_loadu_si512(w + 64 * i);
    _mm_prefetch(w + 64 * i + 4096, _MM_HINT_T0);
    for (int r = 0; r < rows; r++) {
      int32_t word;
      memcpy(&word, a + r * stride + 4 * i, 4);
      if (l->digits)
        acc[r] = _mm512_dpbusd_epi32(acc[r], _mm512_set1_epi32(word ^ (int32_t)0x80808080), weights);
      else
        acc[r] = _mm512_castps_si512(_mm512_dpbf16_ps(_mm512_castsi512_ps(acc[r]),
                                                      (__m512bh)_mm512_set1_epi32(word), (__m512bh)weights));
    }
  }
  for (int r = 0; r < rows; r++) {
    if (l->digits) {
      __m512i offset = _mm512_slli_epi32(_mm512_loadu_si512(l->sums + BLOCK * block), 7);
      acc[r] = _mm512_sub_epi32(acc[r], offset);
    }
    _mm512_storeu_si512(sums + BLOCK * r, acc[r]);
  }
}

// All rows with one block: calls of a kernel for as many rows as it takes, then scales, bias and `to` (+)= result.
static void block_product(const Linear *l, int64_t block, const void *form, const float *scales, int64_t rows,
                          float *to, int64_t to_stride, int add) {
  int64_t stride = l->digits ? l->inputs : 2 * l->inputs;
  const char *w = (const char *)l->weight + block * BLOCK * stride;
  int64_t step = use_amx ? TILE_ROWS * ROW_TILES : 8;
  int64_t digits = l->digits ? l->digits : 1;
  int64_t wide = block * BLOCK + BLOCK <= l->outputs ? BLOCK : l->outputs - block * BLOCK;
  int32_t sums[2][TILE_ROWS * ROW_TILES * BLOCK] __attribute__((aligned(64)));
  for (int64_t begin = 0; begin < rows; begin += step) {
    int64_t count = rows - begin < step ? rows - begin : step;
    // Few rows: both digits fit one call, high rows and low rows side by side.
    int joined = digits == 2 && rows * 2 <= step;
    for (int64_t d = 0; d < (joined ? 1 : digits); d++) {
      const char *a = (const char *)form + (d * rows + begin) * stride;
      int64_t own = joined ? 2 * count : count;
#ifdef __AMX_INT8__
      if (use_amx) tile_product(l->digits, a, own, stride, w, stride, sums[d]);
      else
#endif
        vector_product(l, block, a, own, stride, w, sums[d]);
    }
    const int32_t *lows = joined ? sums[0] + BLOCK * count : sums[1];
    for (int64_t r = 0; r < count; r++) {
      float *out = to + (begin + r) * to_stride + block * BLOCK;
      for (int64_t n = 0; n < wide; n++) {
        float value;
        if (l->digits == 0) memcpy(&value, &sums[0][BLOCK * r + n], 4);
        else {
          value = (float)sums[0][BLOCK * r + n];
          if (l->digits == 2) value = DIGIT * value + (float)lows[BLOCK * r + n];
          value *= scales[begin + r] * l->scale[block * BLOCK + n];
        }
        if (l->bias) value += l->bias[block * BLOCK + n];
        out[n] = add ? out[n] + value : value;
      }
    }
  }
}

static inline void enter(void) {
#ifdef __AMX_INT8__
  if (use_amx) configure_tiles();
#endif
}

static inline void leave(void) {
#ifdef __AMX_INT8__
  if (use_amx) _tile_release();
#endif
}

// Inside a parallel region: every thread takes its share of the blocks.
static void product(const Linear *l, const void *form, const float *scales, int64_t rows, float *to, int64_t to_stride,
                    int add) {
  int64_t blocks = (l->outputs + BLOCK - 1) / BLOCK;
#pragma omp for schedule(static)
  for (int64_t b = 0; b < blocks; b++) block_product(l, b, form, scales, rows, to, to_stride, add);
}

// Rows of activations that a kernel may read: tiles are always whole.
static int64_t padded(int64_t rows) { return (2 * rows + TILE_ROWS) / TILE_ROWS * TILE_ROWS + TILE_ROWS; }

// x (rows, inputs) -> to (rows, outputs). Returns 0, or -1 where there is no memory.
// Many rows go panel by panel: a panel stays in a core's cache while every block of weights passes by.
int linear(const Linear *l, const float *x, int64_t rows, float *to) {
  int64_t stride = l->digits ? l->inputs : 2 * l->inputs;
  int64_t panel = PANEL_BYTES / (stride * (l->digits ? l->digits : 1)) / (TILE_ROWS * ROW_TILES) * TILE_ROWS * ROW_TILES;
  if (panel > rows) panel = rows;
  char *form = aligned_alloc(64, padded(panel) * stride);
  float *scales = malloc(panel * sizeof(float));
  if (!form || !scales) {
    free(form);
    free(scales);
    return -1;
  }
#pragma omp parallel
  {
    enter();
    for (int64_t begin = 0; begin < rows; begin += panel) {
      int64_t count = rows - begin < panel ? rows - begin : panel;
#pragma omp for schedule(static)
      for (int64_t m = 0; m < count; m++) put_row(l, x + (begin + m) * l->inputs, m, count, form, scales);
      product(l, form, scales, count, to + begin * l->outputs, l->outputs, 0);
    }
    leave();
  }
  free(form);
  free(scales);
  return 0;
}
