// T3's transformer on a CPU: a decode step, every layer of it, in one call.

#include "linear.h"

enum { HEAD_WIDTH = 64, FEW = 4 }; // FEW: rows that every thread makes ready for itself

typedef struct {
  Linear qkv, out, up, down;
  const float *attention_norm, *attention_norm_bias, *mlp_norm, *mlp_norm_bias;
} Layer;

typedef struct {
  int64_t layers, width, heads, mlp_width;
  int64_t llama; // rotary positions, RMS norm and a gated MLP; else GPT-2's
  float eps;
  const Layer *layer;
  const float *norm, *norm_bias;
  const float *cos, *sin; // (positions, HEAD_WIDTH)
} Model;

typedef struct {
  void *store;                // bf16 (layers, 2, rows, heads, positions, HEAD_WIDTH)
  int64_t rows, positions;
} Cache;

static void normalise(const Model *model, const float *x, const float *gain, const float *bias, float *to) {
  int64_t w = model->width;
  float mean = 0, square = 0;
  if (!model->llama) {
    for (int64_t i = 0; i < w; i++) mean += x[i];
    mean /= w;
  }
  for (int64_t i = 0; i < w; i++) square += (x[i] - mean) * (x[i] - mean);
  float factor = 1.0f / sqrtf(square / w + model->eps);
  for (int64_t i = 0; i < w; i++) to[i] = (x[i] - mean) * factor * gain[i] + (bias ? bias[i] : 0.0f);
}

// ---- attention -----------------------------------------------------------------------------------------------------

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

static inline void fetch(const uint16_t *place) {
  _mm_prefetch((const char *)(place + 16 * HEAD_WIDTH), _MM_HINT_T0);
  _mm_prefetch((const char *)(place + 16 * HEAD_WIDTH + 32), _MM_HINT_T0);
}

// One head of one row: `length` places of keys and values, bf16. weights: room for whole vectors of `length`, on return
// the attention. Products with keys are of bf16, to which the query is rounded; sums are in fp32.
static void attend(const float *q, const uint16_t *keys, const uint16_t *values, int64_t length, float *weights,
                   float *to) {
  uint16_t query[HEAD_WIDTH];
  for (int i = 0; i < HEAD_WIDTH; i++) query[i] = to_bf16(q[i] * 0.125f); // 1 / sqrt(HEAD_WIDTH), a power of two
  __m512bh low = (__m512bh)_mm512_loadu_si512(query), high = (__m512bh)_mm512_loadu_si512(query + 32);
  __m512 most = _mm512_set1_ps(-INFINITY), total = _mm512_setzero_ps();
  for (int64_t p = 0; p < length; p += 16) {
    __m512 v[16];
    for (int i = 0; i < 16; i++) { // beyond the end the last place stands in
      const uint16_t *key = keys + (p + i < length ? p + i : length - 1) * HEAD_WIDTH;
      fetch(key);
      v[i] = _mm512_dpbf16_ps(_mm512_setzero_ps(), low, (__m512bh)_mm512_loadu_si512(key));
      v[i] = _mm512_dpbf16_ps(v[i], high, (__m512bh)_mm512_loadu_si512(key + 32));
    }
    __m512 scores = sums_of(v);
    most = _mm512_max_ps(most, scores);
    _mm512_storeu_ps(weights + p, scores);
  }
  most = _mm512_set1_ps(_mm512_reduce_max_ps(most));
  for (int64_t p = 0; p < length; p += 16) {
    __mmask16 inside = length - p >= 16 ? 0xffff : (__mmask16)((1 << (length - p)) - 1);
    __m512 own = _mm512_maskz_mov_ps(inside, exponential(_mm512_sub_ps(_mm512_loadu_ps(weights + p), most)));
    total = _mm512_add_ps(total, own);
    _mm512_storeu_ps(weights + p, own);
  }
  float share = 1.0f / _mm512_reduce_add_ps(total);
  // A pair of bf16 is a float's upper half and, shifted, another's: values at even and odd places are summed apart.
  const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
  __m512 even[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, odd[2] = {even[0], even[0]};
  for (int64_t p = 0; p < length; p++) {
    const uint16_t *value = values + p * HEAD_WIDTH;
    fetch(value);
    weights[p] *= share;
    __m512 w = _mm512_set1_ps(weights[p]);
    for (int half = 0; half < 2; half++) {
      __m512i pairs = _mm512_loadu_si512(value + 32 * half);
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

// x: gate and up, or up alone -> to (mlp_width), a multiple of 16
static void activate(const Model *model, const float *x, float *to) {
  const __m512 one = _mm512_set1_ps(1.0f), none = _mm512_setzero_ps();
  for (int64_t i = 0; i < model->mlp_width; i += 16) {
    __m512 own = _mm512_loadu_ps(x + i), inner = own;
    if (!model->llama) { // GELU by tanh, tanh by e^x
      __m512 cube = _mm512_mul_ps(_mm512_mul_ps(own, own), own);
      inner = _mm512_mul_ps(_mm512_fmadd_ps(cube, _mm512_set1_ps(0.044715f), own), _mm512_set1_ps(1.5957691216f));
    }
    own = _mm512_div_ps(own, _mm512_add_ps(one, exponential(_mm512_sub_ps(none, inner))));
    if (model->llama) own = _mm512_mul_ps(own, _mm512_loadu_ps(x + model->mlp_width + i));
    _mm512_storeu_ps(to + i, own);
  }
}

// ---- a decode step -------------------------------------------------------------------------------------------------

// One head of one row: turn the query and the new key, write the cache, attend. The result replaces the query.
static void attend_row(const Model *model, const Cache *cache, int64_t layer, int64_t row, int64_t head, int64_t at,
                       float *q, float *weights) {
  int64_t inner = model->heads * HEAD_WIDTH, plane = cache->rows * model->heads * cache->positions * HEAD_WIDTH;
  int64_t base = 2 * layer * plane + (row * model->heads + head) * cache->positions * HEAD_WIDTH;
  uint16_t *keys = (uint16_t *)cache->store + base, *values = keys + plane;
  float *k = q + inner, *v = k + inner;
  if (model->llama) {
    rotate(q, model->cos + at * HEAD_WIDTH, model->sin + at * HEAD_WIDTH);
    rotate(k, model->cos + at * HEAD_WIDTH, model->sin + at * HEAD_WIDTH);
  }
  for (int i = 0; i < HEAD_WIDTH; i++) {
    keys[at * HEAD_WIDTH + i] = to_bf16(k[i]);
    values[at * HEAD_WIDTH + i] = to_bf16(v[i]);
  }
  attend(q, keys, values, at + 1, weights, q);
}

// A head's attention, for whoever follows it: `followed` (rows, length), zero beyond the row's own places.
static void follow(const float *weights, int64_t places, int64_t length, float *followed) {
  int64_t seen = places < length ? places : length;
  memcpy(followed, weights, seen * sizeof(float));
  memset(followed + seen, 0, (length - seen) * sizeof(float));
}

typedef struct {
  const Linear *linear;
  const float *gain, *bias; // of the norm before it, or NULL
  const float *x;           // (rows, stride)
  int64_t stride;
  int gated; // x is a gate and a value, or what an activation is still to be made of
} Input;

// Bring a linear layer's input into its form. A few rows are made ready by every thread for itself, which is cheaper than
// to wait for each other; else they meet before anyone reads them. ready: room for a row.
static void make_ready(Member *own, const Model *model, Input from, int64_t rows, int few, void *form, float *scales,
                       float *ready) {
  for (int64_t m = 0; few ? m < rows : (m = take(own, rows)) >= 0; m += few) {
    const float *x = from.x + m * from.stride;
    if (from.gain) normalise(model, x, from.gain, from.bias, ready);
    else if (from.gated) activate(model, x, ready);
    put_row(from.linear, from.gain || from.gated ? ready : x, m, rows, form, scales);
  }
  if (!few) meet(own);
}

// The new position of `rows` rows through every layer and the last norm.
// x: (rows, width), changed. positions: (rows), each row's new place. aligned: (n, 2) layer and head, and for each its
// attention is put into `followed` (n, rows, length), zero beyond a row's own places.
// Returns 0, or -1 where there is no memory.
int decode(const Model *model, const Cache *cache, float *x, const int64_t *positions, int64_t first_row, int64_t rows,
           float *hidden, const int64_t *aligned, int64_t n_aligned, float *followed, int64_t length) {
  int64_t w = model->width, inner = model->heads * HEAD_WIDTH;
  int64_t up = model->mlp_width * (model->llama ? 2 : 1);
  int64_t widest = up > 3 * inner ? up : 3 * inner;
  int64_t longest = w > model->mlp_width ? w : model->mlp_width;
  int64_t threads = omp_get_max_threads();
  int few = rows <= FEW;
  int64_t form_bytes = padded(rows) * (4 * longest + 64), own_floats = cache->positions + 16 + longest;
  char *forms = aligned_alloc(64, (few ? threads : 1) * form_bytes);
  float *scales = malloc((few ? threads : 1) * rows * sizeof(float)), *wide = malloc(rows * widest * sizeof(float));
  float *own_room = malloc(threads * own_floats * sizeof(float));
  Team team;
  int failed = gather(&team, threads, 9 * model->layers + 1) || !forms || !scales || !wide || !own_room;
#pragma omp parallel num_threads(threads) if (!failed)
  if (!failed) {
    Member own = join(&team);
    enter();
    float *weights = own_room + own.me * own_floats, *ready = weights + cache->positions + 16;
    char *form = few ? forms + own.me * form_bytes : forms;
    float *scale = few ? scales + own.me * rows : scales;
    for (int64_t index = 0; index < model->layers; index++) {
      const Layer *layer = model->layer + index;
      Input qkv = {&layer->qkv, layer->attention_norm, layer->attention_norm_bias, x, w, 0};
      make_ready(&own, model, qkv, rows, few, form, scale, ready);
      product(&own, &layer->qkv, form, scale, rows, wide, 3 * inner, 0);
      for (int64_t mh; (mh = take(&own, rows * model->heads)) >= 0;) {
        int64_t m = mh / model->heads, h = mh % model->heads;
        attend_row(model, cache, index, first_row + m, h, positions[m], wide + m * 3 * inner + h * HEAD_WIDTH, weights);
        for (int64_t i = 0; i < n_aligned; i++)
          if (aligned[2 * i] == index && aligned[2 * i + 1] == h)
            follow(weights, positions[m] + 1, length, followed + (i * rows + m) * length);
      }
      meet(&own);
      make_ready(&own, model, (Input){&layer->out, NULL, NULL, wide, 3 * inner, 0}, rows, few, form, scale, ready);
      product(&own, &layer->out, form, scale, rows, x, w, 1);
      Input mlp = {&layer->up, layer->mlp_norm, layer->mlp_norm_bias, x, w, 0};
      make_ready(&own, model, mlp, rows, few, form, scale, ready);
      product(&own, &layer->up, form, scale, rows, wide, up, 0);
      make_ready(&own, model, (Input){&layer->down, NULL, NULL, wide, up, 1}, rows, few, form, scale, ready);
      product(&own, &layer->down, form, scale, rows, x, w, 1);
    }
    for (int64_t m; (m = take(&own, rows)) >= 0;)
      normalise(model, x + m * w, model->norm, model->norm_bias, hidden + m * w);
    leave();
  }
  free(forms), free(scales), free(wide), free(own_room), disband(&team);
  return failed ? -1 : 0;
}
