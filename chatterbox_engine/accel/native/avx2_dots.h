// Lines of activations with blocks of 16 outputs on AVX2: bf16 weights by fp32, 8-bit weights by 16 bits.

// Sums that stay in registers: of up to 4 lines, of few with several blocks side by side, which are read faster than
// one. Nothing is fetched ahead: it was measured and changed nothing.
enum { GROUP = 4 };

// A pair of bf16 is two floats' upper halves: even inputs are shifted up, odd ones masked.
// sums: (lines, QUAD, 16), what they are so far, or nothing yet where the span begins at 0.
static inline __attribute__((always_inline)) void wide_dots(int lines, int side, const char *w, int64_t bytes,
                                                            const char *a, int64_t stride, Span span, float *sums) {
  const __m256i upper = _mm256_set1_epi32((int)0xffff0000);
  __m256 acc[GROUP][QUAD][2];
#pragma GCC unroll 4
  for (int r = 0; r < lines; r++)
#pragma GCC unroll 4
    for (int n = 0; n < side; n++)
#pragma GCC unroll 2
      for (int h = 0; h < 2; h++)
        acc[r][n][h] = span.begin ? _mm256_loadu_ps(sums + (r * QUAD + n) * BLOCK + 8 * h) : _mm256_setzero_ps();
  a += span.begin / 64 * 8;
  for (int64_t i = span.begin; i < span.end; i += 64, a += 8) {
#pragma GCC unroll 2
    for (int odd = 0; odd < 2; odd++) {
      __m256 own[QUAD][2];
#pragma GCC unroll 4
      for (int n = 0; n < side; n++)
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
          __m256i pair = _mm256_loadu_si256((const __m256i *)(w + n * bytes + i + 32 * h));
          own[n][h] = _mm256_castsi256_ps(odd ? _mm256_and_si256(pair, upper) : _mm256_slli_epi32(pair, 16));
        }
#pragma GCC unroll 4
      for (int r = 0; r < lines; r++) {
        __m256 x = _mm256_broadcast_ss((const float *)(a + r * stride) + odd);
#pragma GCC unroll 4
        for (int n = 0; n < side; n++)
#pragma GCC unroll 2
          for (int h = 0; h < 2; h++) acc[r][n][h] = _mm256_fmadd_ps(x, own[n][h], acc[r][n][h]);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < lines; r++)
#pragma GCC unroll 4
    for (int n = 0; n < side; n++)
#pragma GCC unroll 2
      for (int h = 0; h < 2; h++) _mm256_storeu_ps(sums + (r * QUAD + n) * BLOCK + 8 * h, acc[r][n][h]);
}

// Of each of `side` blocks, `halves` of its two are multiplied; w is where the first of them begins. A word of `acc`
// has the sum of an output's even pairs of inputs or of its odd ones. From begin to end, a slice at most, sums are
// exact; as floats they go from slice to slice, which are the same for few lines and for many.
static inline __attribute__((always_inline)) void word_dots(int lines, int side, int halves, const char *w,
                                                            int64_t bytes, const char *a, int64_t stride,
                                                            int64_t begin, int64_t end, float *sums) {
  __m256i acc[GROUP][2][4];
#pragma GCC unroll 4
  for (int r = 0; r < lines; r++)
#pragma GCC unroll 2
    for (int n = 0; n < side; n++)
#pragma GCC unroll 4
      for (int part = 0; part < 2 * halves; part++) acc[r][n][part] = _mm256_setzero_si256();
  a += begin / 64 * 8;
  for (int64_t i = begin; i < end; i += 64, a += 8) {
    __m256i x[GROUP];
#pragma GCC unroll 4
    for (int r = 0; r < lines; r++) x[r] = _mm256_castpd_si256(_mm256_broadcast_sd((const double *)(a + r * stride)));
#pragma GCC unroll 2
    for (int n = 0; n < side; n++)
#pragma GCC unroll 4
      for (int part = 0; part < 2 * halves; part++) { // four outputs, four inputs each
        __m256i own = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(w + n * bytes + i + 16 * part)));
#pragma GCC unroll 4
        for (int r = 0; r < lines; r++) {
          acc[r][n][part] = _mm256_add_epi32(acc[r][n][part], _mm256_madd_epi16(own, x[r]));
          __asm__ volatile("" : "+x"(acc[r][n][part])); // sums stay in registers: else all products are made first
        }
      }
  }
#pragma GCC unroll 4
  for (int r = 0; r < lines; r++)
#pragma GCC unroll 2
    for (int n = 0; n < side; n++)
#pragma GCC unroll 2
      for (int h = 0; h < halves; h++) {
        __m256i whole = _mm256_hadd_epi32(acc[r][n][2 * h], acc[r][n][2 * h + 1]); // outputs 0 1 4 5, 2 3 6 7
        __m256 made = _mm256_cvtepi32_ps(_mm256_permute4x64_epi64(whole, 0xd8));
        float *to = sums + (r * QUAD + n) * BLOCK + 8 * h;
        _mm256_storeu_ps(to, begin ? _mm256_add_ps(_mm256_loadu_ps(to), made) : made);
      }
}

#define WIDE_COUNT(lines, side) case lines: \
    for (int64_t n = 0; n < blocks; n += side) \
      wide_dots(lines, side, w + n * bytes, bytes, a, stride, span, (float *)sums + n * BLOCK); \
    break;
#define WORD_COUNT(lines, side, halves) case lines: \
    for (int64_t n = 0; n < blocks; n += side) \
      for (int64_t begin = span.begin; begin < span.end; begin += SLICE) \
        for (int64_t h = 0; h < 2; h += halves) \
          word_dots(lines, side, halves, w + n * bytes + 32 * h, bytes, a, stride, begin, \
                    least(begin + SLICE, span.end), (float *)sums + n * BLOCK + 8 * h); \
    break;

// Up to GROUP lines with one block or QUAD.
static void group_product(const Linear *l, int64_t block, int64_t blocks, const char *a, int64_t lines, int64_t stride,
                          Span span, int32_t *sums) {
  int64_t bytes = BLOCK * l->inputs * (l->digits ? 1 : 2);
  const char *w = (const char *)l->weight + block * bytes;
  if (l->digits && blocks % 2)
    switch (lines) { WORD_COUNT(1, 1, 2) WORD_COUNT(2, 1, 2) WORD_COUNT(3, 1, 1) WORD_COUNT(4, 1, 1) }
  else if (l->digits)
    switch (lines) { WORD_COUNT(1, 2, 2) WORD_COUNT(2, 2, 1) WORD_COUNT(3, 1, 1) WORD_COUNT(4, 1, 1) }
  else if (blocks % 2)
    switch (lines) { WIDE_COUNT(1, 1) WIDE_COUNT(2, 1) WIDE_COUNT(3, 1) WIDE_COUNT(4, 1) }
  else
    switch (lines) { WIDE_COUNT(1, 4) WIDE_COUNT(2, 2) WIDE_COUNT(3, 2) WIDE_COUNT(4, 1) }
}
