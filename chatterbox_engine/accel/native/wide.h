// Sixteen numbers side by side: vectors of AVX512, or two halves of AVX2's. Attention, softmax, sampling and noise are
// so written once; names are AVX512's, without their first part.

#pragma once

#include <immintrin.h>
#include <stdint.h>

#ifdef __AVX512F__

typedef __m512 Floats;
typedef __m512i Words; // of 32 bits, or what lies in them
typedef __m512bh Pairs;

#define add_ps _mm512_add_ps
#define sub_ps _mm512_sub_ps
#define mul_ps _mm512_mul_ps
#define div_ps _mm512_div_ps
#define min_ps _mm512_min_ps
#define max_ps _mm512_max_ps
#define fmadd_ps _mm512_fmadd_ps
#define fnmadd_ps _mm512_fnmadd_ps
#define abs_ps _mm512_abs_ps
#define scalef_ps _mm512_scalef_ps
#define roundscale_ps _mm512_roundscale_ps
#define reduce_ps _mm512_reduce_ps
#define rcp14_ps _mm512_rcp14_ps
#define reduce_max_ps _mm512_reduce_max_ps
#define reduce_add_ps _mm512_reduce_add_ps
#define set1_ps _mm512_set1_ps
#define setzero_ps _mm512_setzero_ps
#define loadu_ps _mm512_loadu_ps
#define storeu_ps _mm512_storeu_ps
#define maskz_loadu_ps _mm512_maskz_loadu_ps
#define mask_loadu_ps _mm512_mask_loadu_ps
#define mask_storeu_ps _mm512_mask_storeu_ps
#define maskz_mov_ps _mm512_maskz_mov_ps
#define mask_mul_ps _mm512_mask_mul_ps
#define mask_div_ps _mm512_mask_div_ps
#define cmp_ps_mask _mm512_cmp_ps_mask
#define mask_cmp_ps_mask _mm512_mask_cmp_ps_mask
#define add_epi32 _mm512_add_epi32
#define mullo_epi32 _mm512_mullo_epi32
#define min_epi32 _mm512_min_epi32
#define xor_si512 _mm512_xor_si512
#define and_si512 _mm512_and_si512
#define slli_epi32 _mm512_slli_epi32
#define srli_epi32 _mm512_srli_epi32
#define set1_epi32 _mm512_set1_epi32
#define set1_epi8 _mm512_set1_epi8
#define setr_epi32 _mm512_setr_epi32
#define setzero_si512 _mm512_setzero_si512
#define load_si512 _mm512_load_si512
#define loadu_si512 _mm512_loadu_si512
#define store_si512 _mm512_store_si512
#define storeu_si512 _mm512_storeu_si512
#define mask_mov_ps _mm512_mask_mov_ps
#define mask_mov_epi32 _mm512_mask_mov_epi32
#define cmplt_epu32_mask _mm512_cmplt_epu32_mask
#define castsi512_ps _mm512_castsi512_ps
#define cvtepi32_ps _mm512_cvtepi32_ps
#define cvtepu32_ps _mm512_cvtepu32_ps
#define cvtepi8_epi32 _mm512_cvtepi8_epi32
#define i32gather_ps _mm512_i32gather_ps
#define dpbf16_ps _mm512_dpbf16_ps
#define dpbusd_epi32 _mm512_dpbusd_epi32
#define maskz_loadu_epi8 _mm_maskz_loadu_epi8
#define test_epi8_mask _mm_test_epi8_mask

// y in [1, 2] times two to the power of x rounded down.
static inline Floats times_power(Floats y, Floats x) { return _mm512_scalef_ps(y, x); }

// Numbers in bf16, of which a word has two.
static inline Pairs pairs(const void *place) { return (Pairs)loadu_si512(place); }

// The sum of each of 16 vectors: halves are added side by side, four times.
static inline Floats sums_of(Floats v[16]) {
  for (int i = 0; i < 8; i++)
    v[i] = add_ps(_mm512_shuffle_f32x4(v[i], v[i + 8], 0x44), _mm512_shuffle_f32x4(v[i], v[i + 8], 0xee));
  for (int i = 0; i < 4; i++)
    v[i] = add_ps(_mm512_shuffle_f32x4(v[i], v[i + 4], 0x88), _mm512_shuffle_f32x4(v[i], v[i + 4], 0xdd));
  for (int i = 0; i < 2; i++)
    v[i] = add_ps(_mm512_shuffle_ps(v[i], v[i + 2], 0x44), _mm512_shuffle_ps(v[i], v[i + 2], 0xee));
  v[0] = add_ps(_mm512_shuffle_ps(v[0], v[1], 0x88), _mm512_shuffle_ps(v[0], v[1], 0xdd));
  const Words order = setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15);
  return _mm512_permutexvar_ps(order, v[0]);
}

#else
#include "halves.h"
#endif
