// The alignment guard's decisions, as chatterbox_engine/t3/alignment.py has them.

#include <math.h>
#include <stdint.h>

enum { HELD = -(1 << 15), LONG_TAIL = 5, REPETITION = 5 };

typedef struct { // numbers of a stream; places are those of its rows
  float begin, end;              // of the text
  float held;                    // where attention must have come before the stream may stop
  float frames, position;        // steps so far, and the place attended to
  float started, complete;       // speech has begun, the text is at its end: 0 or 1
  float first;                   // strongest attention so far to the text's first four tokens
  float previous_end;            // the row before's strongest to the last two
  float token;                   // the last one drawn
  float earlier, tail[3];        // gathered after completion: by all but the last five tokens, by each of the last three
} Stream;

enum { NOWHERE = -1 }; // a stream's place before its attention is found, where it began elsewhere

// The strongest attention of the places begin..end, 0 where there are none.
static float strongest(const float *row, int64_t begin, int64_t end) {
  float found = 0.0f;
  for (int64_t i = begin; i < end; i++) found = row[i] > found ? row[i] : found;
  return found;
}

// `count` streams take a step, of each of which `places` has where in its text attention is. attention (count, rows, length); tokens, the last ones drawn (count);
// logits (count, vocabulary), which are changed where the stop is forced or held back, if it `decides`.
void guard(Stream *streams, const int64_t *slots, const float *attention, const int64_t *tokens, float *logits,
           int64_t *places, int64_t count, int64_t rows, int64_t length, int64_t vocabulary, int64_t stop,
           int64_t decides) {
  for (int64_t s = 0; s < count; s++, attention += rows * length, logits += vocabulary) {
    Stream *own = streams + slots[s];
    const float *row = attention + (rows - 1) * length;
    int64_t begin = (int64_t)own->begin, end = (int64_t)own->end;
    int64_t seen = least(least(end, begin + (int64_t)own->frames + 1), length); // no more of the text than of the speech
    int64_t last_two = most(end - 2, begin), at = begin;
    for (int64_t i = begin + 1; i < seen; i++)
      if (row[i] > row[at]) at = i;
    places[s] = at - begin;

    float recent_end = own->previous_end;
    for (int64_t r = 0; r < rows; r++) {
      own->first = fmaxf(own->first, strongest(attention + r * length, begin, least(begin + 4, seen)));
      recent_end = fmaxf(recent_end, own->previous_end = strongest(attention + r * length, last_two, seen));
    }
    if (recent_end <= 0.1f && own->first >= 0.5f) own->started = 1.0f;

    float longest = 0.0f;
    for (int i = 0; i < 3; i++) {
      int64_t place = most(end - 3 + i, begin);
      if (own->complete && place < seen) own->tail[i] += row[place];
      longest = fmaxf(longest, own->tail[i]);
    }
    if (own->complete) own->earlier += strongest(row, begin, least(end - 5, seen));
    float moved = at - own->position;
    if ((moved > -4 && moved < 7) || own->position == NOWHERE) own->position = at;
    if (own->position >= end - 3) own->complete = 1.0f;

    int repeated = own->frames >= 2 && own->token == tokens[s];
    int ends = decides && (longest >= LONG_TAIL || own->earlier > REPETITION || repeated);
    for (int64_t i = 0; ends && i < vocabulary; i++) logits[i] = HELD;
    if (ends) logits[stop] = -HELD;
    else if (decides && at < own->held) logits[stop] = HELD;
    own->frames++;
    own->token = tokens[s];
  }
}
