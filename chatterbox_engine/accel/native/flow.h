// The flow's Euler steps, all of them in one call: EulerSolver of chatterbox_engine/s3gen/solver.py.

#include "estimator.h"

#ifdef MANY_ROWS

// Rows of noisy mel and conditions.
static void begin_step(const Run *r, const Panel *p) {
  const Sequence *q = r->sequence + p->sequence;
  const Speech *speech = speech_of(r, q);
  int64_t bins = r->e->bins;
  float row[4 * bins];
  put_before(r, p, &r->input);
  for (int64_t m = p->begin; m < p->begin + p->count; m++) {
    uint16_t *to = r->input.rows + (q->row + m) * r->input.stride;
    const float *parts[] = {speech->x + m * bins, speech->mu + m * bins, speech->speaker, speech->cond + m * bins};
    for (int part = 0; part < 4; part++)
      for (int64_t i = 0; i < bins; i += 16)
        put_part(part && q->free ? setzero_ps() : loadu_ps(parts[part] + i), part * bins + i, row, to);
    end_line(row, 4 * bins, r->group, to);
  }
}

static void begin_stage(const Run *r, const Panel *p, int64_t stage, Room *room) {
  const Estimator *e = r->e;
  Buffer input = input_of(r, stage), inner = of_stage(r->inner, stage, 1);
  conv_block(r, p, &input, &e->resnets[stage].one, r->s->time + (r->step * e->stages + stage) * e->width, room->narrow);
  put_rows(r, p, room->narrow, &inner);
}

static void end_resnet(const Run *r, const Panel *p, int64_t stage, Room *room) {
  const Resnet *resnet = r->e->resnets + stage;
  Buffer input = input_of(r, stage), inner = of_stage(r->inner, stage, 1);
  float *x = r->x + row_of(r, p) * r->e->width;
  conv_block(r, p, &inner, &resnet->two, NULL, room->narrow);
  convolve(r, p, &input, &resnet->residual, 1, room->wide);
  for (int64_t i = 0; i < p->count * r->e->width; i++) x[i] = room->narrow[i] + room->wide[i];
}

static void run_stage(const Run *r, Member *own, int64_t stage, Room *room) {
  const Estimator *e = r->e;
  int64_t layer = stage * e->blocks, last = stage == e->stages - 1;
  Buffer next = !stage ? r->skip : last ? r->up : input_of(r, stage + 1);
  for (int64_t i; (i = take(own, r->panels)) >= 0;) begin_stage(r, r->panel + i, stage, room);
  meet(own);
  for (int64_t i; (i = take(own, r->panels)) >= 0;) {
    end_resnet(r, r->panel + i, stage, room);
    before_attention(r, r->panel + i, layer, room);
  }
  meet(own);
  for (int64_t block = 0; block < e->blocks; block++, layer++) {
    for (int64_t i; (i = take(own, r->sequences * e->heads)) >= 0;)
      attention(r, r->sequence + i / e->heads, layer, i % e->heads, room);
    meet(own);
    for (int64_t i; (i = take(own, r->panels)) >= 0;) {
      const Panel *p = r->panel + i;
      after_attention(r, p, layer, room);
      if (block + 1 < e->blocks) before_attention(r, p, layer + 1, room);
      else
        put_rows(r, p, r->x + row_of(r, p) * e->width, &next);
    }
    meet(own);
  }
}

// One of the two convolutions beside the stages.
static void run_conv(const Run *r, Member *own, const Buffer *from, const Linear *l, const Buffer *to, Room *room) {
  for (int64_t i; (i = take(own, r->panels)) >= 0;) {
    convolve(r, r->panel + i, from, l, TAPS, room->narrow);
    put_rows(r, r->panel + i, room->narrow, to);
  }
  meet(own);
}

static void velocity(const Run *r, const Panel *p, Room *room) {
  const Estimator *e = r->e;
  conv_block(r, p, &r->last, &e->last, NULL, room->narrow);
  for (int64_t m = 0; m < p->count; m++)
    put_line(room->narrow + m * e->width, e->width, r->group, room->ready + m * row_room(e->width, r->group));
  multiply_rows(r, &e->project, room->ready, p->count, room->wide);
  float *to = r->velocity + row_of(r, p) * e->bins;
  memset(to, 0, p->count * e->bins * sizeof(float));
  add_rows(to, room->wide, e->project.bias, p->count, e->bins);
}

// A panel of frames goes on by the step's size; with guidance away from what the second sequence says.
static void end_step(const Run *r, const Panel *p) {
  const Sequence *q = r->sequence + p->sequence;
  const Estimator *e = r->e;
  float *x = speech_of(r, q)->x + p->begin * e->bins, size = r->s->size[r->step];
  const float *given = r->velocity + row_of(r, p) * e->bins;
  const float *free = given + (q[e->guided].row - q->row) * e->bins;
  float away = e->guided ? e->rate : 0.0f;
  for (int64_t i = 0; !q->free && i < p->count * e->bins; i++)
    x[i] += size * ((1.0f + away) * given[i] - away * free[i]);
}

static void run_step(const Run *r, Member *own, Room *room) {
  for (int64_t i; (i = take(own, r->panels)) >= 0;) begin_step(r, r->panel + i);
  meet(own);
  for (int64_t stage = 0; stage < r->e->stages; stage++) {
    run_stage(r, own, stage, room);
    Buffer next = input_of(r, stage + 1);
    if (!stage) run_conv(r, own, &r->skip, &r->e->down, &next, room);
  }
  run_conv(r, own, &r->up, &r->e->up, &r->last, room);
  for (int64_t i; (i = take(own, r->panels)) >= 0;) velocity(r, r->panel + i, room);
  meet(own);
  for (int64_t i; (i = take(own, r->panels)) >= 0;) end_step(r, r->panel + i);
  meet(own);
}

// ---- memory --------------------------------------------------------------------------------------------------------

// A piece of `bytes` bytes out of one allocation, of which `used` are taken; NULL as long as it is only measured.
static void *piece(char *memory, int64_t *used, int64_t bytes) {
  char *found = memory ? memory + *used : NULL;
  *used += (bytes + 127) / 128 * 128;
  return found;
}

static Buffer placed(Buffer b, char *memory, int64_t *used, int64_t rows) {
  b.rows = piece(memory, used, rows * b.stride * sizeof(uint16_t));
  return b;
}

// Everything that a call needs, in `memory`; returns how much that is.
static int64_t place(Run *r, Room *rooms, int64_t threads, char *memory) {
  const Estimator *e = r->e;
  int64_t used = 0, rows = r->rows, inner = e->heads * e->head_width, deep = e->layers->up.outputs;
  r->input = placed(r->input, memory, &used, rows), r->both = placed(r->both, memory, &used, rows);
  r->middle = placed(r->middle, memory, &used, rows), r->inner = placed(r->inner, memory, &used, rows);
  r->up = placed(r->up, memory, &used, rows), r->last = placed(r->last, memory, &used, rows);
  r->skip.rows = memory ? r->both.rows + r->skip.room : NULL;
  r->x = piece(memory, &used, rows * e->width * sizeof(float));
  r->velocity = piece(memory, &used, rows * e->bins * sizeof(float));
  r->attended = piece(memory, &used, rows * inner * sizeof(Number));
  r->sequence = piece(memory, &used, (r->sequences + 1) * sizeof(Sequence));
  r->panel = piece(memory, &used, r->panels * sizeof(Panel));
  int64_t wide = e->width > SOME ? e->width : SOME;
  for (int64_t i = 0; i < threads; i++) {
    Room room = {
        piece(memory, &used, PANEL * wide * sizeof(float)),
        piece(memory, &used, PANEL * e->width * sizeof(float)),
        piece(memory, &used, attention_floats(e->head_width) * sizeof(float)),
        piece(memory, &used, PANEL * row_room(e->width, r->group) * sizeof(uint16_t)),
        piece(memory, &used, PANEL * row_room(most(deep, inner), r->group) * sizeof(uint16_t)),
    };
    if (memory) rooms[i] = room;
  }
  return used;
}

// Sequences and their panels; returns rows. Where there is no memory yet, they are counted.
static int64_t cut(Run *r) {
  int64_t row = BEFORE, sequences = 0, panels = 0, all = 0;
  for (int64_t s = 0; s < r->s->count; s++) all += (1 + r->e->guided) * r->s->speech[s].frames;
  int64_t size = all / (2 * omp_get_max_threads()); // so that threads end together
  size = size < 32 ? 32 : size > PANEL ? PANEL : size;
  for (int64_t s = 0; s < r->s->count; s++)
    for (int64_t free = 0; free <= r->e->guided; free++, sequences++) {
      int64_t frames = r->s->speech[s].frames, count = (frames + size - 1) / size;
      if (r->sequence) r->sequence[sequences] = (Sequence){s, free, row};
      for (int64_t i = 0, begin = 0; i < count; i++, panels++) { // of one size, as far as that goes
        int64_t end = (i + 1) * frames / count;
        if (end < frames) end -= (r->s->speech[s].next + end) % 2; // two places' values lie in one word of a page
        if (r->panel) r->panel[panels] = (Panel){sequences, begin, end - begin};
        begin = end;
      }
      row += frames + BEFORE;
    }
  r->sequences = sequences, r->panels = panels;
  return row + PANEL;
}

// Bytes of a page that a head's keys and values take, of one step, layer and sequence.
int64_t flow_plane(const Estimator *e) { return plane_bytes(e->head_width); }

// Bytes of a number of HiFT's rows.
int number_bytes(void) { return sizeof(Number); }

// Noise -> mel, in place. Returns 0, or -1 where there is no memory.
int solve(const Estimator *e, const Solve *s) {
  Run run = {.e = e, .s = s};
  lay_out(e, &run);
  run.rows = cut(&run);
  int64_t threads = omp_get_max_threads();
  Room rooms[threads];
  char *memory = aligned_alloc(128, place(&run, rooms, threads, NULL));
  Team team;
  int failed = gather(&team, threads, s->steps * (5 + e->stages * (2 + 2 * e->blocks))) || !memory;
  if (!failed) {
    place(&run, rooms, threads, memory);
    memset(memory, 0, place(&run, rooms, threads, memory)); // rows beyond the last are read with it
    cut(&run);
  }
#pragma omp parallel num_threads(threads) if (!failed)
  if (!failed) {
    Member own = join(&team);
    Run r = run;
    enter();
    for (r.step = 0; r.step < s->steps; r.step++) run_step(&r, &own, rooms + own.me);
    leave();
  }
  free(memory), disband(&team);
  return failed ? -1 : 0;
}

#endif
