// Linear layers over packed weights, for a few rows or many.
//
// A step's time is that of reading the weights once, so they lie in the order in which they are read: blocks of 16
// outputs, within a block 64 bytes for every 4 inputs (int8) or 2 (bf16). That is the layout of AMX tiles and of
// AVX512's dot products alike. Activations are rows: in bf16 or fp32, or as one or two 8-bit digits with a scale for
// each row, so that a row's result never depends on the rows beside it. Sums of integers are exact in any order.

#include <immintrin.h>
#include <math.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "team.h"
#include "wide.h"

enum { BLOCK = 16, TILE_ROWS = 16, ROW_TILES = 4, DIGIT = 128, LARGEST = 127 };
enum { QUAD = 4 };              // blocks read side by side: a core fetches four runs of memory faster than one
enum { LINES = TILE_ROWS * ROW_TILES }; // rows of one digit that are multiplied before their sums are put away
enum { SLICE = 1 << 12 };       // bytes of each of QUAD blocks that stay in a core's first cache while lines pass by
enum { PANEL_BYTES = 1 << 19 }; // of activations that stay in a core's second cache
enum { AHEAD = 2048 };      // bytes of each block fetched before they are needed
enum { TILE_AHEAD = 8192 }; // the same, of one block at a time: hardware stops at the end of a page
enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };

typedef struct {
  int64_t outputs, inputs;
  int64_t digits;      // 0: bf16; 1 or 2: int8 weights, activations of so many digits
  const void *weight;  // packed
  const float *scale;  // (outputs), int8 alone
  const int32_t *sums; // (outputs) of each output's weights, int8 alone
  const float *bias;   // (outputs) or NULL
} Linear;

// A transformer's layer.
typedef struct {
  Linear qkv, out, up, down;
  const float *attention_norm, *attention_norm_bias, *mlp_norm, *mlp_norm_bias;
} Layer;

#ifdef __AVX512F__
enum { WORDS = 0 };
#else
enum { WORDS = 1 }; // activations of 8 bits or 16 are multiplied in 16, and what is summed are floats
#endif

static int use_amx = 0;
static int wide_bf16 = WORDS; // bf16 is multiplied as fp32: Intel's dot of bf16 by AVX512 takes four times as long

// Allow tiles if `wanted` and the system grants them; returns whether they are used.
int prepare(int wanted) {
#ifdef __AMX_INT8__
  use_amx = wanted && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
  (void)wanted;
#endif
  wide_bf16 = WORDS || (!use_amx && __builtin_cpu_is("intel"));
  return use_amx;
}

static inline uint16_t to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// ---- activations -------------------------------------------------------------------------------------------------

// The greatest magnitude of `count` numbers, a multiple of 16; never zero. (GCC does not vectorise fmaxf here.)
static inline float largest(const float *x, int64_t count) {
  Floats most = set1_ps(1e-12f);
  for (int64_t i = 0; i < count; i += 16) most = max_ps(most, abs_ps(loadu_ps(x + i)));
  return reduce_max_ps(most);
}

// Bytes of an activation in the form in which a layer is multiplied.
static inline int64_t form_width(const Linear *l) { return l->digits ? 1 + WORDS : wide_bf16 ? 4 : 2; }

// Lines of activations that a row becomes.
static inline int64_t parts(const Linear *l) { return l->digits == 2 && !WORDS ? 2 : 1; }

// Bytes from one line of activations to the next: a power of two would put all lines into the same few places of the
// first cache.
static inline int64_t line_bytes(const Linear *l) { return l->inputs * form_width(l) + 64; }

// Put row m of `rows` into the form of a linear layer. Digits of all rows come one after the other: high, then low.
// Without tiles they are unsigned, 128 added, as VNNI's first operand is.
static void put_row(const Linear *l, const float *x, int64_t m, int64_t rows, void *form, float *scales) {
  int64_t k = l->inputs, stride = line_bytes(l);
  char *line = (char *)form + m * stride;
  if (!l->digits) {
    if (wide_bf16) memcpy(line, x, k * sizeof(float));
    else for (int64_t i = 0; i < k; i++) ((uint16_t *)line)[i] = to_bf16(x[i]);
    return;
  }
  float most = largest(x, k), range = l->digits == 1 ? LARGEST : LARGEST * DIGIT;
  float scale = most / range, inverse = range / most;
  int32_t offset = use_amx ? 0 : DIGIT;
  scales[m] = scale;
  if (WORDS) {
    for (int64_t i = 0; i < k; i++) ((int16_t *)line)[i] = (int16_t)nearbyintf(x[i] * inverse);
    return;
  }
  int8_t *high = (int8_t *)line, *low = high + rows * stride;
  if (l->digits == 1) {
    for (int64_t i = 0; i < k; i++) high[i] = (int8_t)((int32_t)nearbyintf(x[i] * inverse) + offset);
    return;
  }
  for (int64_t i = 0; i < k; i++) {
    float whole = nearbyintf(x[i] * inverse), h = nearbyintf(whole * (1.0f / DIGIT));
    high[i] = (int8_t)((int32_t)h + offset);
    low[i] = (int8_t)((int32_t)(whole - DIGIT * h) + offset);
  }
}

// ---- products: lines of activations with blocks of 16 outputs ----------------------------------------------------

#ifdef __AMX_INT8__
typedef struct {
  uint8_t palette, start, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
} __attribute__((packed, aligned(64))) TileConfig;

// Tiles 0-3: sums, of 4 blocks and 16 rows, of 2 blocks and 32, or of 1 block and 64; 4-7: rows and weights.
static void configure_tiles(void) {
  TileConfig config;
  memset(&config, 0, sizeof config);
  config.palette = 1;
  for (int i = 0; i < 8; i++) {
    config.bytes[i] = 64;
    config.rows[i] = TILE_ROWS;
  }
  __asm__ volatile("" : : "r"(&config) : "memory"); // the compiler does not know how much of it is read
  _tile_loadconfig(&config);
}

#define ZERO_TILES _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
#define ROWS(t, m) _tile_loadd(t, a + 16 * (m) * stride + kb, stride);
#define WEIGHTS(t, n) _tile_loadd(t, w + (n) * block_bytes + 16 * kb, 64);
#define ADD(sum, rows, weights) \
  { if (digits) _tile_dpbssd(sum, rows, weights); else _tile_dpbf16ps(sum, rows, weights); }
#define STORE(t, m, n) _tile_stored(t, sums + (16 * (m) * QUAD + (n)) * BLOCK, 4 * QUAD * BLOCK);

// What is read soon, of `blocks` blocks that lie side by side; at their end, the next ones'.
static inline void fetch_tiles(const char *w, int64_t block_bytes, int64_t at, int blocks) {
  int64_t ahead = at + TILE_AHEAD / blocks;
  const char *next = w + ahead + (ahead < block_bytes ? 0 : (blocks - 1) * block_bytes);
  for (int n = 0; n < blocks; n++)
    for (int line = 0; line < 16; line++) _mm_prefetch(next + n * block_bytes + 64 * line, _MM_HINT_T0);
}

// Up to 64 lines of `bytes` bytes, padded to whole tiles, with `blocks` blocks, as many side by side as there are tiles
// for their sums. sums: (64, QUAD, 16) int32 or float.
static void tile_product(int64_t digits, const char *a, int64_t lines, int64_t stride, const char *w, int64_t bytes,
                         int64_t blocks, int32_t *sums) {
  int64_t block_bytes = BLOCK * bytes;
  int wide = lines <= 16 ? 4 : lines <= 32 ? 2 : 1;
  if (blocks < wide) wide = 1;
  for (int64_t n = 0; n < blocks; n += wide, w += wide * block_bytes, sums += wide * BLOCK) {
    ZERO_TILES
    if (wide == 4) {
      for (int64_t kb = 0; kb < bytes; kb += 64) {
        fetch_tiles(w, block_bytes, 16 * kb, 4);
        ROWS(4, 0) WEIGHTS(5, 0) ADD(0, 4, 5) WEIGHTS(6, 1) ADD(1, 4, 6) WEIGHTS(7, 2) ADD(2, 4, 7) WEIGHTS(5, 3) ADD(3, 4, 5)
      }
      STORE(0, 0, 0) STORE(1, 0, 1) STORE(2, 0, 2) STORE(3, 0, 3)
    } else if (wide == 2) {
      for (int64_t kb = 0; kb < bytes; kb += 64) {
        fetch_tiles(w, block_bytes, 16 * kb, 2);
        ROWS(4, 0) ROWS(5, 1) WEIGHTS(6, 0) ADD(0, 4, 6) ADD(1, 5, 6) WEIGHTS(7, 1) ADD(2, 4, 7) ADD(3, 5, 7)
      }
      STORE(0, 0, 0) STORE(1, 1, 0) STORE(2, 0, 1) STORE(3, 1, 1)
    } else {
      for (int64_t kb = 0; kb < bytes; kb += 64) {
        fetch_tiles(w, block_bytes, 16 * kb, 1);
        WEIGHTS(4, 0) ROWS(5, 0) ADD(0, 5, 4)
        if (lines > 16) { ROWS(6, 1) ADD(1, 6, 4) }
        if (lines > 32) { ROWS(7, 2) ADD(2, 7, 4) }
        if (lines > 48) { ROWS(5, 3) ADD(3, 5, 4) }
      }
      STORE(0, 0, 0)
      if (lines > 16) STORE(1, 1, 0)
      if (lines > 32) STORE(2, 2, 0)
      if (lines > 48) STORE(3, 3, 0)
    }
  }
}
#endif

// What part of the blocks is multiplied, and what is fetched from memory meanwhile, as bytes of a block.
typedef struct {
  int64_t begin, end;
  int64_t ahead, pace; // where fetching begins, and 256ths of a byte by which it goes on with every 64 bytes multiplied
} Span;

#ifdef __AVX512F__
#include "avx512_dots.h"
#else
#include "avx2_dots.h"
#endif

// Up to LINES lines. sums: (LINES, QUAD, 16) int32 or float.
static void lines_product(const Linear *l, int64_t block, int64_t blocks, const char *a, int64_t lines, int32_t *sums) {
  int64_t stride = line_bytes(l);
#ifdef __AMX_INT8__
  if (use_amx) {
    int64_t depth = l->inputs * form_width(l);
    tile_product(l->digits, a, lines, stride, (const char *)l->weight + block * BLOCK * depth, depth, blocks, sums);
    return;
  }
#endif
  int64_t groups = (lines + GROUP - 1) / GROUP; // of equal size, as far as that goes
  int64_t bytes = BLOCK * l->inputs * (l->digits ? 1 : 2), slice = groups > 1 ? SLICE : bytes;
  for (int64_t begin = 0; begin < bytes; begin += slice)
    for (int64_t g = 0; g < groups; g++) { // each fetches its share of the next slice
      int64_t m = g * lines / groups, count = (g + 1) * lines / groups - m;
      Span span = {begin, begin + slice < bytes ? begin + slice : bytes, begin + AHEAD, 64 << 8};
      if (groups > 1) span.ahead = span.end + g * slice / groups, span.pace = (64 << 8) / groups;
      group_product(l, block, blocks, a + m * stride, count, stride, span, sums + m * QUAD * BLOCK);
    }
}

// All rows with some blocks: scales, bias, and `to` (+)= result.
static void blocks_product(const Linear *l, int64_t block, int64_t blocks, const void *form, const float *scales,
                           int64_t rows, float *to, int64_t to_stride, int add) {
  int64_t stride = line_bytes(l), digits = parts(l);
  int32_t sums[2 * LINES * QUAD * BLOCK] __attribute__((aligned(64)));
  for (int64_t begin = 0; begin < rows; begin += LINES) {
    int64_t count = rows - begin < LINES ? rows - begin : LINES;
    // Few rows: both digits fit one call, high lines and low lines side by side.
    int joined = digits == 2 && rows * 2 <= LINES;
    for (int64_t d = 0; d < (joined ? 1 : digits); d++)
      lines_product(l, block, blocks, (const char *)form + (d * rows + begin) * stride, joined ? 2 * count : count,
                    sums + d * LINES * QUAD * BLOCK);
    int64_t low = joined ? count : LINES;
    for (int64_t r = 0; r < count; r++)
      for (int64_t n = 0; n < blocks; n++) {
        int64_t first = (block + n) * BLOCK, left = l->outputs - first;
        __mmask16 inside = left >= BLOCK ? 0xffff : (__mmask16)((1 << left) - 1);
        Words own = load_si512(sums + (r * QUAD + n) * BLOCK);
        Floats value = castsi512_ps(own);
        if (l->digits) {
          if (!WORDS) value = cvtepi32_ps(own);
          if (digits == 2) {
            Floats rest = cvtepi32_ps(load_si512(sums + ((low + r) * QUAD + n) * BLOCK));
            value = fmadd_ps(value, set1_ps(DIGIT), rest);
          }
          Floats scale = maskz_loadu_ps(inside, l->scale + first);
          value = mul_ps(value, mul_ps(scale, set1_ps(scales[begin + r])));
        }
        float *out = to + (begin + r) * to_stride + first;
        if (l->bias) value = add_ps(value, maskz_loadu_ps(inside, l->bias + first));
        if (add) value = add_ps(value, maskz_loadu_ps(inside, out));
        mask_storeu_ps(out, inside, value);
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

// Every thread takes blocks, QUAD at a time as far as they go; the result is there when all have met.
static void product(Member *own, const Linear *l, const void *form, const float *scales, int64_t rows, float *to,
                    int64_t to_stride, int add) {
  int64_t blocks = (l->outputs + BLOCK - 1) / BLOCK, quads = blocks / QUAD;
  for (int64_t u; (u = take(own, quads + blocks % QUAD)) >= 0;) {
    int64_t block = u < quads ? QUAD * u : QUAD * quads + u - quads;
    blocks_product(l, block, u < quads ? QUAD : 1, form, scales, rows, to, to_stride, add);
  }
  meet(own);
}

// Rows of activations that a kernel may read: tiles are always whole.
static int64_t padded(int64_t rows) { return (2 * rows + TILE_ROWS) / TILE_ROWS * TILE_ROWS + TILE_ROWS; }

// x (rows, inputs) -> to (rows, outputs). Returns 0, or -1 where there is no memory.
// Many rows go panel by panel: a panel stays in a core's cache while every block of weights passes by.
int linear(const Linear *l, const float *x, int64_t rows, float *to) {
  if (rows <= 0) return 0;
  int64_t stride = line_bytes(l), threads = omp_get_max_threads();
  int64_t panel = PANEL_BYTES / (stride * parts(l)) / LINES * LINES;
  if (panel < LINES) panel = LINES;
  if (panel > rows) panel = rows;
  char *form = aligned_alloc(64, padded(panel) * stride);
  float *scales = malloc(panel * sizeof(float));
  Team team;
  int failed = gather(&team, threads, 2 * ((rows + panel - 1) / panel)) || !form || !scales;
#pragma omp parallel num_threads(threads) if (!failed)
  if (!failed) {
    Member own = join(&team);
    enter();
    for (int64_t begin = 0; begin < rows; begin += panel) {
      int64_t count = rows - begin < panel ? rows - begin : panel;
      for (int64_t m; (m = take(&own, count)) >= 0;) put_row(l, x + (begin + m) * l->inputs, m, count, form, scales);
      meet(&own);
      product(&own, l, form, scales, count, to + begin * l->outputs, l->outputs, 0);
    }
    leave();
  }
  free(form), free(scales), disband(&team);
  return failed ? -1 : 0;
}
