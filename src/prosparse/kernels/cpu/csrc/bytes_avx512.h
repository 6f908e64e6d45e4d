// SPDX-License-Identifier: Apache-2.0
// Products of quantized rows by instructions that multiply bytes (AVX-512 VNNI), sixteen times as many
// in one as there are floats in a vector over four. x becomes whole numbers of 15 bits for that, a group
// of 64 at a time: x = scale * (128 * high + low), scale a power of two, high and low bytes. A bfloat16
// has 8 bits, so what is lost is less than x itself has lost when it was rounded; whole numbers are exact.
// Bytes of weights must be unsigned there: they are taken with an offset, and what it adds is taken off
// by the sum that a product starts from.
#pragma once

namespace prosparse {
namespace {

constexpr int64_t BYTE_GROUP = 64;

// Of each kind: how many values share one load of weights, and which offset makes their bytes unsigned.
template <typename E>
constexpr int64_t SPAN = 64;
template <>
constexpr int64_t SPAN<Int4x2> = 128;

template <typename E>
constexpr int32_t OFFSET = 128;
template <>
constexpr int32_t OFFSET<Int4x2> = 8;

// What stands for x in one span. Plane 0 meets all of int8's bytes, or the low halves of int4's bytes;
// plane 1 the high halves.
template <typename E>
struct alignas(64) Span {
  int8_t high[SPAN<E> / 64][64], low[SPAN<E> / 64][64];
  int32_t start[LANES]; // of the sums of low
};

// Where value i of a span stands in its planes.
template <typename E>
inline int64_t place_in_planes(int64_t i) {
  return i;
}
template <>
inline int64_t place_in_planes<Int4x2>(int64_t i) {
  return i / 4 % 2 * 64 + i / 8 * 4 + i % 4;
}

template <typename E>
inline int64_t spans_of(int64_t width) {
  return (width + SPAN<E> - 1) / SPAN<E>;
}

// The power of two that makes whole numbers of [-2^14, 2^14] out of magnitudes up to `most`.
inline float scale_for(float most) {
  const auto exponent = static_cast<int32_t>(to_bits(most) >> 23);
  return from_bits(static_cast<uint32_t>(exponent - 13 > 1 ? exponent - 13 : 1) << 23);
}

// Write the spans and the groups' scales of one token; return whether all of x is finite.
template <typename E, typename X>
inline bool split_token(const X* x, int64_t width, Span<E>* spans, float* scales) {
  for (int64_t first = 0; first < width; first += SPAN<E>) {
    Span<E>& span = spans[first / SPAN<E>];
    int32_t whole[SPAN<E>] = {};
    const int64_t count = width - first < SPAN<E> ? width - first : SPAN<E>;
    for (int64_t begin = 0; begin < count; begin += BYTE_GROUP) {
      float values[BYTE_GROUP];
      uint32_t most = 0; // magnitudes as bits: in the order of the numbers, infinity and NaN last
      for (int64_t i = 0; i < BYTE_GROUP; ++i) {
        values[i] = widen(x[first + begin + i]);
        const uint32_t magnitude = to_bits(values[i]) & 0x7fffffff;
        most = magnitude > most ? magnitude : most;
      }
      if (most >= 0x7f800000) return false;
      const float scale = scale_for(from_bits(most)), inverse = 1.0f / scale;
      scales[(first + begin) / BYTE_GROUP] = scale;
      for (int64_t i = 0; i < BYTE_GROUP; ++i) {
        const auto nearest = static_cast<int32_t>(__builtin_rintf(values[i] * inverse));
        whole[begin + i] = nearest < 16383 ? nearest : 16383;
      }
    }
    auto* high = span.high[0];
    auto* low = span.low[0];
    for (int64_t i = 0; i < SPAN<E>; ++i) {
      high[place_in_planes<E>(i)] = static_cast<int8_t>(whole[i] >> 7);
      low[place_in_planes<E>(i)] = static_cast<int8_t>(whole[i] & 127);
    }
    constexpr int64_t OF_A_LANE = SPAN<E> / LANES;
    for (int64_t lane = 0; lane < LANES; ++lane) {
      int32_t sum = 0;
      for (int64_t i = 0; i < OF_A_LANE; ++i) sum += whole[lane * OF_A_LANE + i];
      span.start[lane] = -OFFSET<E> * sum;
    }
  }
  return true;
}

inline __m512i load_plane(const int8_t* plane) { return _mm512_load_si512(plane); }

// The sums of a span's products in each lane, as floats: they are below 2^24, and so exact.
inline Floats products(const int8_t* weights, const Span<int8_t>& x, __mmask64 mask) {
  const __m512i bytes = _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, weights),
                                         _mm512_set1_epi8(-128));
  const __m512i high = _mm512_dpbusd_epi32(_mm512_setzero_si512(), bytes, load_plane(x.high[0]));
  const __m512i low = _mm512_dpbusd_epi32(_mm512_load_si512(x.start), bytes, load_plane(x.low[0]));
  return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high, 7), low));
}

inline Floats products(const Int4x2* weights, const Span<Int4x2>& x, __mmask64 mask) {
  const __m512i nibbles = _mm512_set1_epi8(15);
  const __m512i bytes = _mm512_maskz_loadu_epi8(mask, weights);
  const __m512i first = _mm512_and_si512(bytes, nibbles);
  const __m512i second = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), nibbles);
  __m512i high = _mm512_dpbusd_epi32(_mm512_setzero_si512(), first, load_plane(x.high[0]));
  __m512i low = _mm512_dpbusd_epi32(_mm512_load_si512(x.start), first, load_plane(x.low[0]));
  high = _mm512_dpbusd_epi32(high, second, load_plane(x.high[1]));
  low = _mm512_dpbusd_epi32(low, second, load_plane(x.low[1]));
  return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high, 7), low));
}

// Products of R rows with one token; the same bytes from ahead[r] on are fetched meanwhile. Each adds
// up its terms in the same order whatever R is.
template <typename E, int R>
inline void dot_bytes(const E* const* rows, const uint16_t* const* scales, const uintptr_t* ahead,
                      const Span<E>* x, const float* x_scales, int64_t width, float* out) {
  constexpr int64_t GROUPS = SPAN<E> / BYTE_GROUP; // of a span
  const int64_t num_groups = width / BYTE_GROUP;
  // Lane i of a span belongs to its group i / (16 / GROUPS).
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i group_of_lane = _mm512_srli_epi32(lane, GROUPS == 1 ? 4 : 3);
  Floats sums[R];
  for (Floats& sum : sums) sum = broadcast(0.0f);
  for (int64_t first = 0; first < num_groups; first += LANES) {
    const int64_t count = num_groups - first < LANES ? num_groups - first : LANES;
    const auto here = static_cast<__mmask16>((1u << count) - 1);
    Floats factors[R];
    for (int r = 0; r < R; ++r) {
      const __m256i halves = _mm256_maskz_loadu_epi16(here, scales[r] + first);
      factors[r] = multiply(_mm512_cvtph_ps(halves), _mm512_maskz_loadu_ps(here, x_scales + first));
    }
    for (int64_t g = 0; g < count; g += GROUPS) {
      const int64_t begin = (first + g) * BYTE_GROUP;
      const __m512i which = _mm512_add_epi32(group_of_lane, _mm512_set1_epi32(static_cast<int>(g)));
      const bool is_whole = g + GROUPS <= count;
      const __mmask64 mask = is_whole ? ~__mmask64{0} : __mmask64{0xffffffff};
      for (int r = 0; r < R; ++r) {
        prefetch_bytes(ahead[r] + static_cast<uintptr_t>(bytes_of<E>(begin)), LINE_BYTES);
        const Floats found = products(advance(rows[r], begin), x[begin / SPAN<E>], mask);
        sums[r] = multiply_add(found, _mm512_permutexvar_ps(which, factors[r]), sums[r]);
      }
    }
  }
  for (int r = 0; r < R; ++r) out[r] = sum(sums[r]);
}

} // namespace
} // namespace prosparse
