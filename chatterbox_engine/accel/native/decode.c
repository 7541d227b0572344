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

// One head of one row: `length` places of keys and values, bf16. weights: (length), on return the attention.
static void attend(const float *q, const uint16_t *keys, const uint16_t *values, int64_t length, float *weights,
                   float *to) {
  __m512 query[4], sum[4];
  for (int i = 0; i < 4; i++) {
    query[i] = _mm512_mul_ps(_mm512_loadu_ps(q + 16 * i), _mm512_set1_ps(0.125f)); // 1 / sqrt(HEAD_WIDTH)
    sum[i] = _mm512_setzero_ps();
  }
  float most = -INFINITY;
  for (int64_t p = 0; p < length; p++) {
    const uint16_t *key = keys + p * HEAD_WIDTH;
    _mm_prefetch((const char *)(key + 8 * HEAD_WIDTH), _MM_HINT_T0);
    _mm_prefetch((const char *)(key + 8 * HEAD_WIDTH) + 64, _MM_HINT_T0);
    __m512 a = _mm512_mul_ps(query[0], load_bf16(key)), b = _mm512_mul_ps(query[1], load_bf16(key + 16));
    a = _mm512_fmadd_ps(query[2], load_bf16(key + 32), a);
    b = _mm512_fmadd_ps(query[3], load_bf16(key + 48), b);
    weights[p] = _mm512_reduce_add_ps(_mm512_add_ps(a, b));
    most = fmaxf(most, weights[p]);
  }
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t p = 0; p < length; p++) {
    weights[p] = expf(weights[p] - most);
    total += weights[p];
  }
  for (int64_t p = 0; p < length; p++) {
    weights[p] /= total;
    const uint16_t *value = values + p * HEAD_WIDTH;
    _mm_prefetch((const char *)(value + 8 * HEAD_WIDTH), _MM_HINT_T0);
    _mm_prefetch((const char *)(value + 8 * HEAD_WIDTH) + 64, _MM_HINT_T0);
    __m512 w = _mm512_set1_ps(weights[p]);
    for (int i = 0; i < 4; i++) sum[i] = _mm512_fmadd_ps(w, load_bf16(value + 16 * i), sum[i]);
  }
  for (int i = 0; i < 4; i++) _mm512_storeu_ps(to + 16 * i, sum[i]);
}

// Where threads share the making ready of rows, they meet before they read them.
#define MEET if (!few) { _Pragma("omp barrier") }

// ---- a decode step -------------------------------------------------------------------------------------------------

// x: gate and up, or up alone -> to (mlp_width)
static void activate(const Model *model, const float *x, float *to) {
  int64_t w = model->mlp_width;
  if (model->llama) {
#pragma omp simd
    for (int64_t i = 0; i < w; i++) to[i] = x[i] / (1.0f + expf(-x[i])) * x[w + i];
    return;
  }
#pragma omp simd
  for (int64_t i = 0; i < w; i++) { // GELU by tanh, tanh by exp
    float inner = 0.7978845608f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
    to[i] = x[i] / (1.0f + expf(-2.0f * inner));
  }
}

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

// The new position of `rows` rows through every layer and the last norm.
// x: (rows, width), changed. positions: (rows), each row's new place. aligned: (n, 2) layer and head, and for each its
// attention is put into `followed` (n, rows, length), zero beyond a row's own places.
// A few rows are made ready by every thread for itself, which is cheaper than to wait for each other.
// Returns 0, or -1 where there is no memory.
int decode(const Model *model, const Cache *cache, float *x, const int64_t *positions, int64_t first_row, int64_t rows,
           float *hidden, const int64_t *aligned, int64_t n_aligned, float *followed, int64_t length) {
  int64_t w = model->width, inner = model->heads * HEAD_WIDTH;
  int64_t up = model->mlp_width * (model->llama ? 2 : 1);
  int64_t widest = up > 3 * inner ? up : 3 * inner;
  int64_t longest = w > model->mlp_width ? w : model->mlp_width;
  int threads = omp_get_max_threads(), few = rows <= FEW;
  int64_t form_bytes = padded(rows) * 2 * longest, own_floats = cache->positions + longest;
  char *forms = aligned_alloc(64, (few ? threads : 1) * form_bytes);
  float *scales = malloc((few ? threads : 1) * rows * sizeof(float)), *wide = malloc(rows * widest * sizeof(float));
  float *own = malloc(threads * own_floats * sizeof(float));
  if (!forms || !scales || !wide || !own) {
    free(forms), free(scales), free(wide), free(own);
    return -1;
  }
#pragma omp parallel num_threads(threads)
  {
    enter();
    int64_t me = omp_get_thread_num(), team = omp_get_num_threads();
    int64_t first = few ? 0 : me * rows / team, last = few ? rows : (me + 1) * rows / team;
    float *weights = own + me * own_floats, *ready = weights + cache->positions;
    char *form = few ? forms + me * form_bytes : forms;
    float *scale = few ? scales + me * rows : scales;
    for (int64_t index = 0; index < model->layers; index++) {
      const Layer *layer = model->layer + index;
      for (int64_t m = first; m < last; m++) {
        normalise(model, x + m * w, layer->attention_norm, layer->attention_norm_bias, ready);
        put_row(&layer->qkv, ready, m, rows, form, scale);
      }
      MEET
      product(&layer->qkv, form, scale, rows, wide, 3 * inner, 0);
#pragma omp for schedule(dynamic, 4)
      for (int64_t mh = 0; mh < rows * model->heads; mh++) {
        int64_t m = mh / model->heads, h = mh % model->heads;
        attend_row(model, cache, index, first_row + m, h, positions[m], wide + m * 3 * inner + h * HEAD_WIDTH, weights);
        for (int64_t i = 0; i < n_aligned; i++)
          if (aligned[2 * i] == index && aligned[2 * i + 1] == h) {
            float *row = followed + (i * rows + m) * length;
            int64_t seen = positions[m] + 1 < length ? positions[m] + 1 : length;
            memcpy(row, weights, seen * sizeof(float));
            memset(row + seen, 0, (length - seen) * sizeof(float));
          }
      }
      for (int64_t m = first; m < last; m++) put_row(&layer->out, wide + m * 3 * inner, m, rows, form, scale);
      MEET
      product(&layer->out, form, scale, rows, x, w, 1);
      for (int64_t m = first; m < last; m++) {
        normalise(model, x + m * w, layer->mlp_norm, layer->mlp_norm_bias, ready);
        put_row(&layer->up, ready, m, rows, form, scale);
      }
      MEET
      product(&layer->up, form, scale, rows, wide, up, 0);
      for (int64_t m = first; m < last; m++) {
        activate(model, wide + m * up, ready);
        put_row(&layer->down, ready, m, rows, form, scale);
      }
      MEET
      product(&layer->down, form, scale, rows, x, w, 1);
    }
#pragma omp for schedule(static)
    for (int64_t m = 0; m < rows; m++) normalise(model, x + m * w, model->norm, model->norm_bias, hidden + m * w);
    leave();
  }
  free(forms), free(scales), free(wide), free(own);
  return 0;
}
