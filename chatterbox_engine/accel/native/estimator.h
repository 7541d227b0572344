// The layers of the flow's estimator, chatterbox_engine/s3gen/estimator.py, over packed weights.
//
// Activations are rows, one for each frame. A stream's rows are a sequence, with guidance two; before the first row of
// each lie the two before it, for the causal convolutions, so that a convolution's window is a piece of memory. Between
// two meetings of the threads a panel of rows goes through as many layers as ask for no other rows.

#include "pages.h"

#ifdef MANY_ROWS

enum { BEFORE = 2, TAPS = BEFORE + 1 };
enum { SOME = 128 };  // outputs, about, that are made of a panel before they are read again

typedef struct {
  Linear conv;
  const float *gain, *shift; // of the norm after it
} ConvBlock;

typedef struct {
  ConvBlock one, two;
  Linear residual;
} Resnet;

typedef struct {
  int64_t bins, width, heads, head_width, stages, blocks; // transformer blocks of a stage
  int64_t guided;                                         // a second sequence, without conditions, guides the first
  float rate;                                             // of the guidance
  const Resnet *resnets;                                  // (stages)
  const Layer *layers;                                    // (stages, blocks)
  Linear down, up;                                        // convolutions after the first and after the last stage
  ConvBlock last;
  Linear project;
} Estimator;

typedef struct {
  int64_t frames;         // new ones
  const Page *pages;      // of keys and values, the new ones among them
  int64_t count;          // of pages
  int64_t next;           // place of the first new frame, counted from the first page's
  uint16_t *before;       // (steps, sequences, tail) of earlier calls; NULL: there were none, and nothing is kept
  float *x;               // (frames, bins): noise, and then the mel
  const float *mu, *cond; // (frames, bins)
  const float *speaker;   // (bins)
} Speech;

typedef struct {
  int64_t count, steps;
  const Speech *speech;
  const float *time, *size;               // (steps, stages, width), what a resnet adds; (steps), of a step
  int64_t step_bytes, layer_bytes, plane; // of a page, from one step, layer, head to the next
} Solve;

typedef struct {
  uint16_t *rows;
  int64_t width;        // numbers
  int64_t room, stride; // of a row, and from one to the next
  int64_t tail;         // where its last frames are kept
} Buffer;

typedef struct {
  int64_t speech, free, row; // row of its first frame; free: without conditions
} Sequence;

typedef struct {
  int64_t sequence, begin, count;
} Panel;

typedef struct {
  const Estimator *e;
  const Solve *s;
  Sequence *sequence;
  Panel *panel;
  int64_t sequences, panels, rows, tail, step, group;
  Buffer input, skip, middle, both, inner, up,
      last;            // both: what the last stage takes, of which skip is the second half
  float *x, *velocity; // (rows, width), (rows, bins)
  Number *attended;    // (rows, heads, head_width): queries, then what they find
} Run;

typedef struct {
  float *wide, *narrow, *scores;
  uint16_t *ready, *deep;
} Room;

// ---- buffers -------------------------------------------------------------------------------------------------------

// The buffers' widths, and where their last frames are kept.
static void lay_out(const Estimator *e, Run *r) {
  int64_t w = e->width, tail = 0;
  r->group = group_of(4 * e->bins | w | e->heads * e->head_width | e->layers->up.outputs);
  Buffer *all[] = {&r->input, &r->skip, &r->both, &r->up, &r->last};
  int64_t widths[] = {4 * e->bins, w, 2 * w, w, w};
  for (int i = 0; i < 5; i++) {
    int64_t room = row_room(widths[i], r->group);
    *all[i] = (Buffer){NULL, widths[i], room, room, tail};
    tail += BEFORE * room;
  }
  r->skip.stride = r->both.stride;
  r->middle = r->inner = (Buffer){NULL, w, r->skip.room, r->skip.room, tail}; // of which each stage has its own
  r->tail = tail + BEFORE * r->skip.room * 2 * e->stages;
}

// Numbers kept of a sequence and step.
int64_t flow_tail(const Estimator *e) {
  Run r;
  lay_out(e, &r);
  return r.tail;
}

static Buffer of_stage(Buffer b, int64_t stage, int inner) {
  b.tail += BEFORE * b.room * (2 * stage + inner);
  return b;
}

static Buffer input_of(const Run *r, int64_t stage) {
  return !stage ? r->input : stage == r->e->stages - 1 ? r->both : of_stage(r->middle, stage, 0);
}

static inline const Speech *speech_of(const Run *r, const Sequence *q) { return r->s->speech + q->speech; }

static inline uint16_t *tail_of(const Run *r, const Sequence *q, const Buffer *b) {
  uint16_t *before = speech_of(r, q)->before;
  return before ? before + (r->step * (1 + r->e->guided) + q->free) * r->tail + b->tail : NULL;
}

// Where a head's keys and values lie in a page.
static inline int64_t plane_of(const Run *r, const Sequence *q, int64_t layer, int64_t head) {
  return r->step * r->s->step_bytes + layer * r->s->layer_bytes + (q->free * r->e->heads + head) * r->s->plane;
}

// The frames before a sequence's own.
static void put_before(const Run *r, const Panel *p, const Buffer *b) {
  const Sequence *q = r->sequence + p->sequence;
  const uint16_t *tail = tail_of(r, q, b);
  for (int64_t m = 0; !p->begin && m < BEFORE; m++) {
    uint16_t *to = b->rows + (q->row - BEFORE + m) * b->stride;
    if (tail) memcpy(to, tail + m * b->room, 2 * b->room);
    else
      memset(to, 0, 2 * b->room);
  }
}

// The last frames of a sequence, once its last panel is read.
static void keep_tail(const Run *r, const Panel *p, const Buffer *b) {
  const Sequence *q = r->sequence + p->sequence;
  int64_t frames = speech_of(r, q)->frames;
  uint16_t *tail = p->begin + p->count == frames ? tail_of(r, q, b) : NULL;
  for (int64_t m = 0; tail && m < BEFORE; m++)
    memcpy(tail + m * b->room, b->rows + (q->row + frames - BEFORE + m) * b->stride, 2 * b->room);
}

static inline int64_t row_of(const Run *r, const Panel *p) { return r->sequence[p->sequence].row + p->begin; }

// x (count, width), to be a convolution's input.
static void put_rows(const Run *r, const Panel *p, const float *x, const Buffer *b) {
  uint16_t *to = b->rows + row_of(r, p) * b->stride;
  int64_t width = r->e->width;
  for (int64_t m = 0; m < p->count; m++) put_line(x + m * width, width, r->group, to + m * b->stride);
  put_before(r, p, b);
}

static void multiply_all(const Linear *l, ShortLines in, int64_t rows, float *to) {
  multiply_some(l, in, rows, 0, whole_blocks(l->outputs) / BLOCK, to, l->outputs);
}

// ---- layers, on a panel --------------------------------------------------------------------------------------------

// A convolution over `taps` frames -> to (count, outputs), with its bias.
static void convolve(const Run *r, const Panel *p, const Buffer *b, const Linear *l, int64_t taps, float *to) {
  const uint16_t *rows = b->rows + (row_of(r, p) - taps + 1) * b->stride;
  multiply_all(l, short_lines(rows, b->stride, taps, b->stride, b->width, r->group), p->count, to);
  for (int64_t m = 0; m < p->count; m++)
    for (int64_t i = 0; i < l->outputs; i += 16) {
      float *own = to + m * l->outputs + i;
      storeu_ps(own, add_ps(loadu_ps(own), loadu_ps(l->bias + i)));
    }
  if (taps > 1) keep_tail(r, p, b);
}

// Convolution, norm and Mish, and `added` (width) -> to (count, width)
static void conv_block(const Run *r, const Panel *p, const Buffer *b, const ConvBlock *block, const float *added,
                       float *to) {
  int64_t width = r->e->width;
  convolve(r, p, b, &block->conv, TAPS, to);
  for (int64_t m = 0; m < p->count; m++, to += width) {
    norm_row(to, width, block->gain, block->shift, to);
    for (int64_t i = 0; i < width; i += 16) {
      Floats own = mish(loadu_ps(to + i));
      storeu_ps(to + i, added ? add_ps(own, loadu_ps(added + i)) : own);
    }
  }
}

static void norm_rows(const Run *r, const float *x, int64_t count, const float *gain, const float *shift, uint16_t *to) {
  int64_t width = r->e->width, room = row_room(width, r->group);
  float row[width];
  for (int64_t m = 0; m < count; m++) {
    norm_row(x + m * width, width, gain, shift, row);
    put_line(row, width, r->group, to + m * room);
  }
}

static ShortLines lines_of(const Run *r, const uint16_t *rows, int64_t inputs) {
  return short_lines(rows, row_room(inputs, r->group), 1, 0, inputs, r->group);
}

static void multiply_rows(const Run *r, const Linear *l, const uint16_t *rows, int64_t count, float *to) {
  multiply_all(l, lines_of(r, rows, l->inputs), count, to);
}

// x (count, width) += made, with a bias.
static void add_rows(float *x, const float *made, const float *bias, int64_t count, int64_t width) {
  for (int64_t m = 0; m < count; m++)
    for (int64_t i = 0; i < width; i += 16) {
      Floats own = add_ps(loadu_ps(made + m * width + i), loadu_ps(bias + i));
      storeu_ps(x + m * width + i, add_ps(loadu_ps(x + m * width + i), own));
    }
}

// A head's queries, scaled for powers of two (part 0), keys (1) or values (2), x (count, stride), of a panel.
static void put_head(const Run *r, const Panel *p, int64_t layer, int64_t part, int64_t head, const float *x,
                     int64_t stride) {
  const Estimator *e = r->e;
  const Sequence *q = r->sequence + p->sequence;
  const Speech *speech = speech_of(r, q);
  int64_t plane = plane_of(r, q, layer, head), width = e->head_width, next = speech->next + p->begin;
  Floats scale = set1_ps(1.44269504f / sqrtf((float)width));
  Number *queries = r->attended + (row_of(r, p) * e->heads + head) * width;
  for (int64_t m = 0; m < p->count; m++, x += stride, queries += e->heads * width) {
    char *page = speech->pages[(next + m) / PAGE].memory + plane;
    if (part == 1) put_key(page, (next + m) % PAGE, width, x);
    if (part == 2) put_value(page, (next + m) % PAGE, width, x);
    for (int64_t i = 0; !part && i < width; i += 16)
      put_numbers(mul_ps(loadu_ps(x + i), scale), queries + i);
  }
}

static void before_attention(const Run *r, const Panel *p, int64_t layer, Room *room) {
  const Estimator *e = r->e;
  const Layer *l = e->layers + layer;
  int64_t width = e->head_width, some = SOME / width > 1 ? SOME / width : 1;
  norm_rows(r, r->x + row_of(r, p) * e->width, p->count, l->attention_norm, l->attention_norm_bias, room->ready);
  for (int64_t first = 0; first < 3 * e->heads; first += some) {
    int64_t heads = least(some, 3 * e->heads - first), blocks = width / BLOCK;
    multiply_some(&l->qkv, lines_of(r, room->ready, e->width), p->count, first * blocks, heads * blocks, room->wide,
                  some * width);
    for (int64_t h = 0; h < heads; h++)
      put_head(r, p, layer, (first + h) / e->heads, (first + h) % e->heads, room->wide + h * width, some * width);
  }
}

static void attention(const Run *r, const Sequence *q, int64_t layer, int64_t head, Room *room) {
  const Estimator *e = r->e;
  const Speech *speech = speech_of(r, q);
  int64_t inner = e->heads * e->head_width, plane = plane_of(r, q, layer, head);
  Number *queries = r->attended + q->row * inner + head * e->head_width;
  attend_pages(queries, inner, speech->frames, e->head_width, speech->pages, speech->count, plane, room->scores);
}

static void after_attention(const Run *r, const Panel *p, int64_t layer, Room *room) {
  const Estimator *e = r->e;
  const Layer *l = e->layers + layer;
  int64_t w = e->width, row = row_of(r, p), deep = l->up.outputs, inner = e->heads * e->head_width;
  int64_t stride = row_room(deep, r->group);
  float *x = r->x + row * w;
  const uint16_t *found = as_lines(r->attended + row * inner, p->count, inner, r->group, room->deep);
  multiply_rows(r, &l->out, found, p->count, room->wide);
  add_rows(x, room->wide, l->out.bias, p->count, w);
  norm_rows(r, x, p->count, l->mlp_norm, l->mlp_norm_bias, room->ready);
  for (int64_t first = 0; first < deep; first += SOME) {
    int64_t some = least(SOME, deep - first);
    multiply_some(&l->up, lines_of(r, room->ready, w), p->count, first / BLOCK, some / BLOCK, room->wide, SOME);
    for (int64_t m = 0; m < p->count; m++) {
      float row[SOME];
      uint16_t *to = room->deep + m * stride + row_room(first, r->group);
      for (int64_t i = 0; i < some; i += 16) {
        Floats own = add_ps(loadu_ps(room->wide + m * SOME + i), loadu_ps(l->up.bias + first + i));
        put_part(gelu(own), i, row, to);
      }
      end_line(row, some, r->group, to);
    }
  }
  multiply_rows(r, &l->down, room->deep, p->count, room->wide);
  add_rows(x, room->wide, l->down.bias, p->count, w);
}

#endif
