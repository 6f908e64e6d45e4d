// SPDX-License-Identifier: Apache-2.0
// Sixteen floats at once, in two registers of AVX2, with FMA and F16C.
#pragma once

#include <immintrin.h>

#include "element.h"

namespace prosparse {
namespace {

constexpr int PRODUCTS_AT_ONCE = 1; // sixteen registers hold no more

struct Floats {
  __m256 low, high;
};

struct Block {
  Floats first, second;
};

inline Floats broadcast(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }

inline Floats load(const float* data) { return {_mm256_loadu_ps(data), _mm256_loadu_ps(data + 8)}; }

inline Block load_block(const float* data) { return {load(data), load(data + LANES)}; }

inline __m256i load_words(const void* data) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(data));
}

inline Block load_block(const Bf16* data) {
  const __m256i low = load_words(data), high = load_words(data + LANES);
  const __m256i odd = _mm256_set1_epi32(-65536);
  return {{_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)),
           _mm256_castsi256_ps(_mm256_slli_epi32(high, 16))},
          {_mm256_castsi256_ps(_mm256_and_si256(low, odd)),
           _mm256_castsi256_ps(_mm256_and_si256(high, odd))}};
}

inline __m256 eight_from_fp16(const Fp16* data) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data)));
}

inline Floats from_fp16(const Fp16* data) {
  return {eight_from_fp16(data), eight_from_fp16(data + 8)};
}

inline Block load_block(const Fp16* data) { return {from_fp16(data), from_fp16(data + LANES)}; }

inline __m128i load_bytes(const void* data) { // eight
  return _mm_loadl_epi64(static_cast<const __m128i*>(data));
}

inline __m256 eight_from_int8(const int8_t* data) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_bytes(data)));
}

inline Floats from_int8(const int8_t* data) {
  return {eight_from_int8(data), eight_from_int8(data + 8)};
}

inline Block load_block(const int8_t* data) { return {from_int8(data), from_int8(data + LANES)}; }

inline __m256 less_eight(__m256i halves) {
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(halves, _mm256_set1_epi32(8)));
}

inline Block load_block(const Int4x2* data) {
  const __m256i low = _mm256_cvtepu8_epi32(load_bytes(data));
  const __m256i high = _mm256_cvtepu8_epi32(load_bytes(data + 8));
  const __m256i half = _mm256_set1_epi32(15);
  return {{less_eight(_mm256_and_si256(low, half)), less_eight(_mm256_and_si256(high, half))},
          {less_eight(_mm256_srli_epi32(low, 4)), less_eight(_mm256_srli_epi32(high, 4))}};
}

inline Floats load_scales(const uint16_t* data) {
  return from_fp16(reinterpret_cast<const Fp16*>(data));
}

inline void store(float* data, Floats a) {
  _mm256_storeu_ps(data, a.low);
  _mm256_storeu_ps(data + 8, a.high);
}

inline Floats add(Floats a, Floats b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}

inline Floats multiply(Floats a, Floats b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}

// a * b + c
inline Floats multiply_add(Floats a, Floats b, Floats c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}

inline float sum(Floats a) {
  const __m256 eight = _mm256_add_ps(a.low, a.high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

inline void prefetch(const void* address) {
  _mm_prefetch(static_cast<const char*>(address), _MM_HINT_T1);
}

} // namespace
} // namespace prosparse
