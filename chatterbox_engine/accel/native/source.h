// HiFT's source: the sines at multiples of the pitch, and noise, mixed (HiFT.source of chatterbox_engine/s3gen/hift.py).

enum { SOURCE = 4 }; // the noise's domain

typedef struct {
  int64_t harmonics, samples; // sines, the fundamental included; of a frame, at most NORMALS
  float voiced, sine, noise;  // pitch above which a frame is voiced; amplitudes of its sines and of its noise
  const float *weight;        // (harmonics) of the mix
} Source;

// A frame: harmonic h has run starts[h] cycles before it, and runs steps[h] with each sample. to (samples), before tanh.
static void source_frame(const Source *s, int64_t seed, int64_t sample, int voiced, const double *starts,
                         const float *steps, const float *offsets, float *to) {
  float noise[NORMALS], loud = voiced ? s->noise : s->sine / 3.0f;
  memset(to, 0, s->samples * sizeof(float));
  for (int64_t h = 0; h < s->harmonics; h++) {
    normal_run(seed, SOURCE, sample * s->harmonics + h, s->harmonics, (s->samples + 15) / 16 * 16, noise);
    float share = s->weight[h] * loud, tone = s->weight[h] * s->sine, offset = offsets[h];
    double start = starts[h], step = steps[h];
    for (int64_t i = 0; i < s->samples; i++) to[i] += share * noise[i];
    if (!voiced) continue;
    for (int64_t i = 0; i < s->samples; i++) {
      double cycles = start + step * (i + 1);
      to[i] += tone * sinf((float)(cycles - (double)(int64_t)cycles) * 6.2831853f + offset);
    }
  }
}

// f0 (rows, frames) in Hz; steps (rows, frames, harmonics) cycles that a sample adds; starts (rows, frames,
// harmonics) cycles run before a frame; offsets (rows, harmonics) radians; places (rows) the number of each row's first
// sample. to (rows, frames, samples).
void source(const Source *s, const float *f0, const float *steps, const double *starts, const float *offsets,
            const int64_t *seeds, const int64_t *places, int64_t rows, int64_t frames, float *to) {
  int64_t h = s->harmonics;
#pragma omp parallel for
  for (int64_t piece = 0; piece < rows * frames; piece++) {
    int64_t row = piece / frames, sample = places[row] + piece % frames * s->samples;
    source_frame(s, seeds[row], sample, f0[piece] > s->voiced, starts + piece * h, steps + piece * h, offsets + row * h,
                 to + piece * s->samples);
  }
}
