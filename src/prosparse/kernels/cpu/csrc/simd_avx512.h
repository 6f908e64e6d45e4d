// SPDX-License-Identifier: Apache-2.0
// Sixteen floats at once with AVX-512 (F, BW, DQ, VL), which every such CPU since 2017 has.
#pragma once

#include <immintrin.h>

#include "element.h"

namespace prosparse {
namespace {

constexpr int PRODUCTS_AT_ONCE = 4;

using Floats = __m512;

struct Block {
  Floats first, second;
};

inline Floats broadcast(float value) { return _mm512_set1_ps(value); }

inline Floats load(const float* data) { return _mm512_loadu_ps(data); }

inline Block load_block(const float* data) { return {load(data), load(data + LANES)}; }

inline Block load_block(const Bf16* data) {
  const __m512i pairs = _mm512_loadu_si512(data);
  return {_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)),
          _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-65536)))};
}

inline Floats from_fp16(const Fp16* data) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(data)));
}

inline Block load_block(const Fp16* data) { return {from_fp16(data), from_fp16(data + LANES)}; }

inline __m128i load_bytes(const void* data) {
  return _mm_loadu_si128(static_cast<const __m128i*>(data));
}

inline Floats from_int8(const int8_t* data) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_bytes(data)));
}

inline Block load_block(const int8_t* data) { return {from_int8(data), from_int8(data + LANES)}; }

// The permutation looks at the lowest four bits of each index: it is the mask and the conversion.
inline Block load_block(const Int4x2* data) {
  const __m512 table = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
  const __m512i bytes = _mm512_cvtepu8_epi32(load_bytes(data));
  return {_mm512_permutexvar_ps(bytes, table),
          _mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), table)};
}

inline Floats load_scales(const uint16_t* data) {
  return from_fp16(reinterpret_cast<const Fp16*>(data));
}

inline void store(float* data, Floats a) { _mm512_storeu_ps(data, a); }

inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }

inline Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }

// a * b + c
inline Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

inline float sum(Floats a) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

inline void prefetch(const void* address) {
  _mm_prefetch(static_cast<const char*>(address), _MM_HINT_T1);
}

} // namespace
} // namespace prosparse
