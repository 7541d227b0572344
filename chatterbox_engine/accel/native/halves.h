// Sixteen numbers as two halves of AVX2: of AVX512's instructions those used here. Products of linear layers, where
// registers decide, have kernels of their own (avx2_dots.h).

typedef struct { __m256 low, high; } Floats;
typedef struct { __m256i low, high; } Words;

typedef Words Pairs;

// The two halves of a result, each of those of the operands.
#define BOTH(type, of_low, of_high) ((type){of_low, of_high})
#define UNARY(name, type, from, call) \
  static inline type name(from a) { return BOTH(type, call(a.low), call(a.high)); }
#define BINARY(name, type, call) \
  static inline type name(type a, type b) { return BOTH(type, call(a.low, b.low), call(a.high, b.high)); }
#define TERNARY(name, call) \
  static inline Floats name(Floats a, Floats b, Floats c) { \
    return BOTH(Floats, call(a.low, b.low, c.low), call(a.high, b.high, c.high)); \
  }
#define SHIFT(name, call) \
  static inline Words name(Words a, int by) { return BOTH(Words, call(a.low, by), call(a.high, by)); }

BINARY(add_ps, Floats, _mm256_add_ps)
BINARY(sub_ps, Floats, _mm256_sub_ps)
BINARY(mul_ps, Floats, _mm256_mul_ps)
BINARY(div_ps, Floats, _mm256_div_ps)
BINARY(min_ps, Floats, _mm256_min_ps)
BINARY(max_ps, Floats, _mm256_max_ps)
TERNARY(fmadd_ps, _mm256_fmadd_ps)
TERNARY(fnmadd_ps, _mm256_fnmadd_ps)
BINARY(add_epi32, Words, _mm256_add_epi32)
BINARY(mullo_epi32, Words, _mm256_mullo_epi32)
BINARY(min_epi32, Words, _mm256_min_epi32)
BINARY(xor_si512, Words, _mm256_xor_si256)
BINARY(and_si512, Words, _mm256_and_si256)
SHIFT(slli_epi32, _mm256_slli_epi32)
SHIFT(srli_epi32, _mm256_srli_epi32)
UNARY(castsi512_ps, Floats, Words, _mm256_castsi256_ps)
UNARY(castps_si512, Words, Floats, _mm256_castps_si256)
UNARY(cvtepi32_ps, Floats, Words, _mm256_cvtepi32_ps)

static inline Floats set1_ps(float x) { return BOTH(Floats, _mm256_set1_ps(x), _mm256_set1_ps(x)); }
static inline Words set1_epi32(int x) { return BOTH(Words, _mm256_set1_epi32(x), _mm256_set1_epi32(x)); }
static inline Words set1_epi8(char x) { return BOTH(Words, _mm256_set1_epi8(x), _mm256_set1_epi8(x)); }
static inline Floats setzero_ps(void) { return BOTH(Floats, _mm256_setzero_ps(), _mm256_setzero_ps()); }
static inline Words setzero_si512(void) { return BOTH(Words, _mm256_setzero_si256(), _mm256_setzero_si256()); }
#define setr_epi32(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p) \
  BOTH(Words, _mm256_setr_epi32(a, b, c, d, e, f, g, h), _mm256_setr_epi32(i, j, k, l, m, n, o, p))

static inline Floats loadu_ps(const float *from) {
  return BOTH(Floats, _mm256_loadu_ps(from), _mm256_loadu_ps(from + 8));
}
static inline void storeu_ps(float *to, Floats a) {
  _mm256_storeu_ps(to, a.low), _mm256_storeu_ps(to + 8, a.high);
}
static inline Words loadu_si512(const void *from) {
  return BOTH(Words, _mm256_loadu_si256(from), _mm256_loadu_si256((const __m256i *)from + 1));
}
static inline void storeu_si512(void *to, Words a) {
  _mm256_storeu_si256(to, a.low), _mm256_storeu_si256((__m256i *)to + 1, a.high);
}
#define load_si512 loadu_si512
#define store_si512 storeu_si512

// ---- masks: bit n is of number n ----------------------------------------------------------------------------------

static inline __m256i spread(uint32_t mask) {
  const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)mask), bits), bits);
}
static inline Words spread_both(__mmask16 mask) { return BOTH(Words, spread(mask), spread(mask >> 8)); }
static inline __mmask16 gathered(__m256 low, __m256 high) {
  return (__mmask16)(_mm256_movemask_ps(low) | _mm256_movemask_ps(high) << 8);
}

// From b where the mask has a 1, else from a.
static inline Floats chosen(__mmask16 mask, Floats a, Floats b) {
  Floats m = castsi512_ps(spread_both(mask));
  return BOTH(Floats, _mm256_blendv_ps(a.low, b.low, m.low), _mm256_blendv_ps(a.high, b.high, m.high));
}
static inline Floats maskz_mov_ps(__mmask16 mask, Floats a) { return chosen(mask, setzero_ps(), a); }
static inline Floats mask_mul_ps(Floats other, __mmask16 mask, Floats a, Floats b) {
  return chosen(mask, other, mul_ps(a, b));
}
static inline Floats mask_div_ps(Floats other, __mmask16 mask, Floats a, Floats b) {
  return chosen(mask, other, div_ps(a, b));
}
static inline Floats mask_mov_ps(Floats other, __mmask16 mask, Floats a) { return chosen(mask, other, a); }
static inline Words mask_mov_epi32(Words other, __mmask16 mask, Words a) {
  return castps_si512(chosen(mask, castsi512_ps(other), castsi512_ps(a)));
}
static inline Floats maskz_loadu_ps(__mmask16 mask, const float *from) {
  Words m = spread_both(mask);
  return BOTH(Floats, _mm256_maskload_ps(from, m.low), _mm256_maskload_ps(from + 8, m.high));
}
static inline Floats mask_loadu_ps(Floats other, __mmask16 mask, const float *from) {
  return chosen(mask, other, maskz_loadu_ps(mask, from));
}
static inline void mask_storeu_ps(float *to, __mmask16 mask, Floats a) {
  Words m = spread_both(mask);
  _mm256_maskstore_ps(to, m.low, a.low), _mm256_maskstore_ps(to + 8, m.high, a.high);
}
#define cmp_ps_mask(a, b, how) \
  gathered(_mm256_cmp_ps((a).low, (b).low, how), _mm256_cmp_ps((a).high, (b).high, how))
#define mask_cmp_ps_mask(mask, a, b, how) ((mask) & cmp_ps_mask(a, b, how))
static inline __mmask16 cmplt_epu32_mask(Words a, Words b) {
  const Words sign = set1_epi32((int)0x80000000);
  a = xor_si512(a, sign), b = xor_si512(b, sign);
  return gathered(_mm256_castsi256_ps(_mm256_cmpgt_epi32(b.low, a.low)),
                  _mm256_castsi256_ps(_mm256_cmpgt_epi32(b.high, a.high)));
}
// Bytes, of which only those that the mask has may be read.
static inline __m128i maskz_loadu_epi8(__mmask16 mask, const uint8_t *from) {
  if (mask == 0xffff) return _mm_loadu_si128((const __m128i *)from);
  uint8_t bytes[16] = {0};
  for (int i = 0; i < 16; i++)
    if (mask >> i & 1) bytes[i] = from[i];
  return _mm_loadu_si128((const __m128i *)bytes);
}
static inline __mmask16 test_epi8_mask(__m128i a, __m128i b) {
  return (__mmask16)~_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_and_si128(a, b), _mm_setzero_si128()));
}

// ---- what takes more than one instruction -------------------------------------------------------------------------

static inline Floats abs_ps(Floats a) {
  return castsi512_ps(and_si512(castps_si512(a), set1_epi32(0x7fffffff)));
}
#define roundscale_ps(a, how) BOTH(Floats, _mm256_round_ps((a).low, how), _mm256_round_ps((a).high, how))

#define reduce_ps(a, how) sub_ps(a, roundscale_ps(a, how))

// The processor's approximation, and a step of Newton's.
static inline Floats rcp14_ps(Floats a) {
  Floats x = BOTH(Floats, _mm256_rcp_ps(a.low), _mm256_rcp_ps(a.high));
  return mul_ps(x, fnmadd_ps(a, x, set1_ps(2.0f)));
}

static inline float reduce_max_ps(Floats a) {
  __m256 m = _mm256_max_ps(a.low, a.high);
  __m128 n = _mm_max_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
  n = _mm_max_ps(n, _mm_movehl_ps(n, n));
  return _mm_cvtss_f32(_mm_max_ss(n, _mm_movehdup_ps(n)));
}
static inline float reduce_add_ps(Floats a) {
  __m256 m = _mm256_add_ps(a.low, a.high);
  __m128 n = _mm_add_ps(_mm256_castps256_ps128(m), _mm256_extractf128_ps(m, 1));
  n = _mm_add_ps(n, _mm_movehl_ps(n, n));
  return _mm_cvtss_f32(_mm_add_ss(n, _mm_movehdup_ps(n)));
}

// y times 2^n, n whole and at most 127: the power's halves one after the other, so that small results come gradually
// to zero; far below, zero, whatever y is.
static inline __m256 scaled(__m256 y, __m256 n) {
  __m256i whole = _mm256_cvtps_epi32(_mm256_max_ps(n, _mm256_set1_ps(-250.0f))), half = _mm256_srai_epi32(whole, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  __m256 one = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
  __m256 two = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23));
  __m256 there = _mm256_cmp_ps(n, _mm256_set1_ps(-250.0f), _CMP_GT_OQ);
  return _mm256_and_ps(_mm256_mul_ps(_mm256_mul_ps(y, one), two), there);
}
BINARY(scalef_ps, Floats, scaled)

// y in [1, 2] times two to the power of x rounded down, at least -126, which is added to y's exponent.
static inline __m256 times_floor(__m256 y, __m256 x) {
  __m256 whole = _mm256_floor_ps(_mm256_max_ps(x, _mm256_set1_ps(-126.0f)));
  __m256i power = _mm256_slli_epi32(_mm256_cvtps_epi32(whole), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(y), power));
}
BINARY(times_power, Floats, times_floor)

static inline __m256 of_unsigned(__m256i a) {
  __m256 high = _mm256_cvtepi32_ps(_mm256_srli_epi32(a, 16));
  __m256 low = _mm256_cvtepi32_ps(_mm256_and_si256(a, _mm256_set1_epi32(0xffff)));
  return _mm256_fmadd_ps(high, _mm256_set1_ps(65536.0f), low);
}
UNARY(cvtepu32_ps, Floats, Words, of_unsigned)

static inline Words cvtepi8_epi32(__m128i a) {
  return BOTH(Words, _mm256_cvtepi8_epi32(a), _mm256_cvtepi8_epi32(_mm_srli_si128(a, 8)));
}
#define i32gather_ps(places, from, scale) \
  BOTH(Floats, _mm256_i32gather_ps((const float *)(from), (places).low, scale), \
       _mm256_i32gather_ps((const float *)(from), (places).high, scale))

// A word's two numbers in bf16 are a float's upper half and, shifted, another's.
static inline __m256 pair_dot(__m256 sum, __m256i a, __m256i b) {
  const __m256i upper = _mm256_set1_epi32((int)0xffff0000);
  __m256i low_a = _mm256_slli_epi32(a, 16), low_b = _mm256_slli_epi32(b, 16);
  sum = _mm256_fmadd_ps(_mm256_castsi256_ps(low_a), _mm256_castsi256_ps(low_b), sum);
  a = _mm256_and_si256(a, upper), b = _mm256_and_si256(b, upper);
  return _mm256_fmadd_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), sum);
}
static inline Floats dpbf16_ps(Floats sum, Pairs a, Pairs b) {
  return BOTH(Floats, pair_dot(sum.low, a.low, b.low), pair_dot(sum.high, a.high, b.high));
}

// Four unsigned bytes by four signed ones, exactly: even and odd bytes as 16 bits, apart.
static inline __m256i byte_dot(__m256i sum, __m256i a, __m256i b) {
  __m256i even_a = _mm256_and_si256(a, _mm256_set1_epi16(0xff)), even_b = _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8);
  __m256i even = _mm256_madd_epi16(even_a, even_b);
  __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(a, 8), _mm256_srai_epi16(b, 8));
  return _mm256_add_epi32(sum, _mm256_add_epi32(even, odd));
}
static inline Words dpbusd_epi32(Words sum, Words a, Words b) {
  return BOTH(Words, byte_dot(sum.low, a.low, b.low), byte_dot(sum.high, a.high, b.high));
}

// Numbers in bf16, of which a word has two.
static inline Pairs pairs(const void *place) { return loadu_si512(place); }

// The sum of each of 16 vectors.
static inline Floats sums_of(Floats v[16]) {
  __m256 sums[2];
  for (int half = 0; half < 2; half++) {
    __m256 two[4], four[2];
    for (int i = 0; i < 4; i++) {
      const Floats *own = v + 8 * half + 2 * i;
      two[i] = _mm256_hadd_ps(_mm256_add_ps(own[0].low, own[0].high), _mm256_add_ps(own[1].low, own[1].high));
    }
    for (int i = 0; i < 2; i++) four[i] = _mm256_hadd_ps(two[2 * i], two[2 * i + 1]);
    __m256 low = _mm256_permute2f128_ps(four[0], four[1], 0x20), high = _mm256_permute2f128_ps(four[0], four[1], 0x31);
    sums[half] = _mm256_add_ps(low, high);
  }
  return BOTH(Floats, sums[0], sums[1]);
}
