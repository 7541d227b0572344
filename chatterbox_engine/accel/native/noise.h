// Noise that is a function of (seed, domain, place), as accel/noise.py has it.

// 32-bit words mixed.
static inline __m512i mix(__m512i word) {
  word = _mm512_xor_si512(word, _mm512_srli_epi32(word, 16));
  word = _mm512_mullo_epi32(word, _mm512_set1_epi32(0x7FEB352D));
  word = _mm512_xor_si512(word, _mm512_srli_epi32(word, 15));
  word = _mm512_mullo_epi32(word, _mm512_set1_epi32((int)0x846CA68B));
  return _mm512_xor_si512(word, _mm512_srli_epi32(word, 16));
}

static inline __m512i noise_key(int64_t seed, int64_t domain, int64_t lane) {
  __m512i key = mix(_mm512_set1_epi32((int)(seed + (2 * domain + lane + 1) * 0x9E3779B9)));
  return mix(_mm512_xor_si512(key, _mm512_set1_epi32((int)(seed >> 32))));
}

// The words at places of which the upper halves are `high`, mixed with the key, and the lower ones `low`.
static inline __m512i noise_words(__m512i key, __m512i high, __m512i low) {
  return mix(_mm512_add_epi32(mix(_mm512_xor_si512(low, high)), key));
}

static inline __m512i noise_high(__m512i key, int64_t place) {
  return mix(_mm512_xor_si512(key, _mm512_set1_epi32((int)(place >> 32))));
}

enum { NORMALS = 1024 }; // made by a thread at a time

// glibc has these for eight numbers at a time, and offers them only where nothing may be infinite.
double log(double) __attribute__((simd("notinbranch")));
double cos(double) __attribute__((simd("notinbranch")));

// Standard normal numbers by Box and Muller's transform, in double precision: `words` (2, NORMALS) -> `to`.
static void box_muller(const uint32_t *words, float *to) {
  for (int64_t i = 0; i < NORMALS; i++) {
    double first = (words[i] + 0.5) / 4294967296.0, second = (words[NORMALS + i] + 0.5) / 4294967296.0;
    to[i] = (float)(sqrt(-2.0 * log(first)) * cos(6.283185307179586 * second));
  }
}

// to (rows, count): row r has those at the places from starts[r] on. Every number is made by the same instructions,
// wherever it stands in its call.
void normals(const int64_t *seeds, int64_t domain, const int64_t *starts, int64_t rows, int64_t count, float *to) {
  const __m512i each = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  int64_t runs = (count + NORMALS - 1) / NORMALS;
#pragma omp parallel for
  for (int64_t piece = 0; piece < rows * runs; piece++) {
    int64_t row = piece / runs, begin = piece % runs * NORMALS;
    uint32_t words[2 * NORMALS] __attribute__((aligned(64)));
    float made[NORMALS];
    for (int64_t lane = 0; lane < 2; lane++) {
      __m512i key = noise_key(seeds[row], domain, lane);
      for (int64_t i = 0; i < NORMALS; i += 16) {
        int64_t place = starts[row] + begin + i;
        __m512i low = _mm512_add_epi32(_mm512_set1_epi32((int)place), each), high = noise_high(key, place);
        if (place >> 32 != (place + 15) >> 32) { // these sixteen lie on both sides of a multiple of 2**32
          __mmask16 beyond = _mm512_cmplt_epu32_mask(low, _mm512_set1_epi32((int)place));
          high = _mm512_mask_mov_epi32(high, beyond, noise_high(key, place + 15));
        }
        _mm512_store_si512(words + lane * NORMALS + i, noise_words(key, high, low));
      }
    }
    box_muller(words, made);
    memcpy(to + row * count + begin, made, (count - begin < NORMALS ? count - begin : NORMALS) * sizeof(float));
  }
}
