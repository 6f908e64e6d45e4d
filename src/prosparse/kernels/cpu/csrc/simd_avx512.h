// SPDX-License-Identifier: Apache-2.0
// Sixteen floats at once with AVX-512 (F, BW, DQ, VL), which every such CPU since 2017 has.
#pragma once

#include <immintrin.h>

#include "element.h"

namespace prosparse {
namespace {

constexpr int LANES = 16;

using Floats = __m512;

inline Floats broadcast(float value) { return _mm512_set1_ps(value); }

inline Floats load(const float* data) { return _mm512_loadu_ps(data); }

inline Floats load(const Bf16* data) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

inline Floats load(const Fp16* data) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(data)));
}

inline Floats from_bytes(__m128i bytes) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}

inline Floats load(const int8_t* data) {
  return from_bytes(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data)));
}

// Of eight values in four bytes, byte j holds value j in its low half and value j + 4 in its high one.
inline Floats load(const Int4x2* data) {
  const __m128i both = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(data));
  const __m128i half = _mm_set1_epi8(15);
  const __m128i low = _mm_and_si128(both, half);
  const __m128i high = _mm_and_si128(_mm_srli_epi32(both, 4), half);
  return from_bytes(_mm_sub_epi8(_mm_unpacklo_epi32(low, high), _mm_set1_epi8(8)));
}

inline void store(float* data, Floats a) { _mm512_storeu_ps(data, a); }

inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }

// a * b + c
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

inline float sum(Floats a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

inline float widen_scale(uint16_t bits) {
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)));
}

inline void prefetch(const void* address) {
  _mm_prefetch(static_cast<const char*>(address), _MM_HINT_T1);
}

} // namespace
} // namespace prosparse
