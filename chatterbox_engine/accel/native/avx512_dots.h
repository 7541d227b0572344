// Lines of activations with blocks of 16 outputs on AVX512: 8 bits by VNNI, bf16 by its own dot or as fp32.

enum { GROUP = 6 }; // lines whose sums with QUAD blocks fill the registers

typedef enum { INT8, BF16, WIDE } Kind; // INT8: VNNI. BF16: AVX512's own dot. WIDE: bf16 weights, fp32 activations

// `lines` lines with a span of `blocks` blocks; both numbers are known when this is compiled.
// sums: (lines, QUAD, 16), what they are so far, or nothing yet where the span begins at 0.
static inline __attribute__((always_inline)) void dots(Kind kind, int lines, int blocks, const Linear *l, int64_t block,
                                                       const char *a, int64_t stride, Span span, int32_t *sums) {
  int64_t bytes = BLOCK * l->inputs * (kind == INT8 ? 1 : 2), place = kind == WIDE ? 8 : 4;
  const char *w = (const char *)l->weight + block * bytes;
  const __m512i upper = _mm512_set1_epi32((int)0xffff0000);
  __m512i acc[GROUP][QUAD];
  a += span.begin / 64 * place;
#pragma GCC unroll 4
  for (int n = 0; n < blocks; n++) {
    __m512i first = _mm512_setzero_si512(); // the share of the 128 that was added to each activation is taken off
    if (kind == INT8 && !span.begin)
      first = _mm512_sub_epi32(first, _mm512_slli_epi32(_mm512_loadu_si512(l->sums + BLOCK * (block + n)), 7));
#pragma GCC unroll 6
    for (int r = 0; r < lines; r++) acc[r][n] = span.begin ? _mm512_load_si512(sums + (r * QUAD + n) * BLOCK) : first;
  }
  int64_t ahead = span.ahead << 8;
  for (int64_t i = span.begin; i < span.end; i += 64, a += place, ahead += span.pace) {
    const char *next = w + (ahead >> 8) + (ahead >> 8 < bytes ? 0 : (QUAD - 1) * bytes); // at the end, the next quad's
#pragma GCC unroll 4
    for (int n = 0; n < blocks; n++) _mm_prefetch(next + n * bytes, _MM_HINT_T0);
    for (int half = 0; half < (kind == WIDE ? 2 : 1); half++) { // a pair of bf16 is two floats' upper halves
      __m512i x[GROUP];
#pragma GCC unroll 6
      for (int r = 0; r < lines; r++) {
        int32_t word;
        memcpy(&word, a + r * stride + 4 * half, 4);
        x[r] = _mm512_set1_epi32(word);
      }
#pragma GCC unroll 4
      for (int n = 0; n < blocks; n++) {
        __m512i own = _mm512_loadu_si512(w + n * bytes + i);
        if (kind == WIDE) own = half ? _mm512_and_si512(own, upper) : _mm512_slli_epi32(own, 16);
#pragma GCC unroll 6
        for (int r = 0; r < lines; r++) {
          if (kind == INT8) acc[r][n] = _mm512_dpbusd_epi32(acc[r][n], x[r], own);
          else {
            __m512 sum = _mm512_castsi512_ps(acc[r][n]);
            sum = kind == BF16 ? _mm512_dpbf16_ps(sum, (__m512bh)x[r], (__m512bh)own)
                               : _mm512_fmadd_ps(_mm512_castsi512_ps(x[r]), _mm512_castsi512_ps(own), sum);
            acc[r][n] = _mm512_castps_si512(sum);
          }
        }
      }
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < lines; r++)
#pragma GCC unroll 4
    for (int n = 0; n < blocks; n++) _mm512_storeu_si512(sums + (r * QUAD + n) * BLOCK, acc[r][n]);
}

#define COUNT(kind, lines) case lines: \
    if (blocks == QUAD) dots(kind, lines, QUAD, l, block, a, stride, span, sums); \
    else dots(kind, lines, 1, l, block, a, stride, span, sums); \
    return;
#define COUNTS(kind) switch (lines) { \
    COUNT(kind, 1) COUNT(kind, 2) COUNT(kind, 3) COUNT(kind, 4) COUNT(kind, 5) COUNT(kind, 6) }

// Up to GROUP lines with one block or QUAD.
static void group_product(const Linear *l, int64_t block, int64_t blocks, const char *a, int64_t lines, int64_t stride,
                          Span span, int32_t *sums) {
  if (l->digits) COUNTS(INT8)
  else if (wide_bf16) COUNTS(WIDE)
  else COUNTS(BF16)
}
