// Noise that is a function of (seed, domain, place), as accel/noise.py has it.

// 32-bit words mixed.
static inline Words mix(Words word) {
  word = xor_si512(word, srli_epi32(word, 16));
  word = mullo_epi32(word, set1_epi32(0x7FEB352D));
  word = xor_si512(word, srli_epi32(word, 15));
  word = mullo_epi32(word, set1_epi32((int)0x846CA68B));
  return xor_si512(word, srli_epi32(word, 16));
}

static inline Words noise_key(int64_t seed, int64_t domain, int64_t lane) {
  Words key = mix(set1_epi32((int)(seed + (2 * domain + lane + 1) * 0x9E3779B9)));
  return mix(xor_si512(key, set1_epi32((int)(seed >> 32))));
}

// The words at places of which the upper halves are `high`, mixed with the key, and the lower ones `low`.
static inline Words noise_words(Words key, Words high, Words low) {
  return mix(add_epi32(mix(xor_si512(low, high)), key));
}

static inline Words noise_high(Words key, int64_t place) {
  return mix(xor_si512(key, set1_epi32((int)(place >> 32))));
}

enum { NORMALS = 1024 }; // at most, made at a time

// glibc has these for many numbers at a time, and offers them only where nothing may be infinite.
double log(double) __attribute__((simd("notinbranch")));
double cos(double) __attribute__((simd("notinbranch")));
float sinf(float) __attribute__((simd("notinbranch")));

// `count` standard normal numbers, a multiple of 16, at the places first, first + stride, ...: Box and Muller's transform
// in double precision. Every number is made by the same instructions, wherever it stands.
static void normal_run(int64_t seed, int64_t domain, int64_t first, int64_t stride, int64_t count, float *to) {
  const Words each = setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const Words steps = mullo_epi32(each, set1_epi32((int)stride));
  uint32_t words[2][NORMALS] __attribute__((aligned(64)));
  for (int lane = 0; lane < 2; lane++) {
    Words key = noise_key(seed, domain, lane);
    for (int64_t i = 0; i < count; i += 16) {
      int64_t place = first + i * stride, last = place + 15 * stride;
      Words low = add_epi32(set1_epi32((int)place), steps), high = noise_high(key, place);
      if (place >> 32 != last >> 32) { // these sixteen lie on both sides of a multiple of 2**32
        __mmask16 beyond = cmplt_epu32_mask(low, set1_epi32((int)place));
        high = mask_mov_epi32(high, beyond, noise_high(key, last));
      }
      store_si512(words[lane] + i, noise_words(key, high, low));
    }
  }
  for (int64_t i = 0; i < count; i++) {
    double u = (words[0][i] + 0.5) / 4294967296.0, v = (words[1][i] + 0.5) / 4294967296.0;
    to[i] = (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
  }
}

// to (rows, count): row r has the numbers at the places from starts[r] on.
void normals(const int64_t *seeds, int64_t domain, const int64_t *starts, int64_t rows, int64_t count, float *to) {
  int64_t runs = (count + NORMALS - 1) / NORMALS;
#pragma omp parallel for
  for (int64_t piece = 0; piece < rows * runs; piece++) {
    int64_t row = piece / runs, begin = piece % runs * NORMALS;
    float made[NORMALS];
    normal_run(seeds[row], domain, starts[row] + begin, 1, NORMALS, made);
    memcpy(to + row * count + begin, made, least(count - begin, NORMALS) * sizeof(float));
  }
}
