// T3's transformer on a CPU: a decode step, every layer of it, in one call.

#include "flow.h"
#include "guard.h"
#include "sample.h"
#include "source.h"
#include "vocoder.h"

enum { FEW = 4 }; // rows that every thread makes ready for itself

typedef struct {
  int64_t layers, width, heads, mlp_width;
  int64_t llama; // rotary positions, RMS norm and a gated MLP; else GPT-2's
  float eps;
  const Layer *layer;
  const float *norm, *norm_bias;
  const float *cos, *sin; // (positions, HEAD_WIDTH)
} Model;

typedef struct {
  char *store; // (layers, 2, rows, heads, positions) places, each HEAD_WIDTH numbers in bf16, or a RECORD
  int64_t rows, positions, quantised;
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

// x: gate and up, or up alone -> to (mlp_width), a multiple of 16
static void activate(const Model *model, const float *x, float *to) {
  const Floats one = set1_ps(1.0f), none = setzero_ps();
  for (int64_t i = 0; i < model->mlp_width; i += 16) {
    Floats own = loadu_ps(x + i), inner = own;
    if (!model->llama) { // GELU by tanh, tanh by e^x
      Floats cube = mul_ps(mul_ps(own, own), own);
      inner = mul_ps(fmadd_ps(cube, set1_ps(0.044715f), own), set1_ps(1.5957691216f));
    }
    own = div_ps(own, add_ps(one, exponential(sub_ps(none, inner))));
    if (model->llama) own = mul_ps(own, loadu_ps(x + model->mlp_width + i));
    storeu_ps(to + i, own);
  }
}

// ---- a decode step -------------------------------------------------------------------------------------------------

// One head of one row: turn the query and the new key, write the cache, attend. The result replaces the query; weights,
// with room for whole vectors, get the attention.
static void attend(const Model *model, const Cache *cache, int64_t layer, int64_t row, int64_t head, int64_t at, float *q,
                   float *weights) {
  int64_t inner = model->heads * HEAD_WIDTH, place = cache->quantised ? RECORD : 2 * HEAD_WIDTH;
  int64_t plane = cache->rows * model->heads * cache->positions * place, length = at + 1;
  char *keys = cache->store + 2 * layer * plane + (row * model->heads + head) * cache->positions * place;
  char *values = keys + plane, *next = keys + cache->positions * place;
  float *k = q + inner, *v = k + inner;
  if (model->llama) {
    rotate(q, model->cos + at * HEAD_WIDTH, model->sin + at * HEAD_WIDTH);
    rotate(k, model->cos + at * HEAD_WIDTH, model->sin + at * HEAD_WIDTH);
  }
  put_place(k, keys + at * place, cache->quantised);
  put_place(v, values + at * place, cache->quantised);
  for (int i = 0; i < HEAD_WIDTH; i++) q[i] *= 0.125f; // 1 / sqrt(HEAD_WIDTH), a power of two
  if (cache->quantised) score_int8(q, keys, values, length, weights);
  else score_bf16(q, keys, values, length, weights);
  soften(weights, length);
  if (cache->quantised) mix_int8(weights, values, next, length, q);
  else mix_bf16(weights, values, length, q);
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
        attend(model, cache, index, first_row + m, h, positions[m], wide + m * 3 * inner + h * HEAD_WIDTH, weights);
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
