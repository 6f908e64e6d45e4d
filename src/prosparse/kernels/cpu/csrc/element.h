// SPDX-License-Identifier: Apache-2.0
// Numbers as tensors hold them, one at a time. Every source has its own copy (static): code for one
// instruction set must never be linked into another's.
#pragma once

#include <cstdint>
#include <cstring>

#include "job.h"

namespace prosparse {
namespace {

struct Bf16 {
  uint16_t bits;
};

struct Fp16 {
  uint16_t bits;
};

struct Int4x2 { // two values
  uint8_t bits;
};

constexpr int LANES = 16;
constexpr int64_t BLOCK = 2 * LANES;

// Where value i of a block of 32 stands in the two vectors that the block is unpacked into. 16-bit
// brain floats come out of 32-bit words as even and odd ones, four-bit values as low and high halves
// of bytes (of eight values, byte j of four holds values j and j + 4); all others in order.
inline int64_t place_in_block(int32_t kind, int64_t i) {
  if (kind == BFLOAT16) return i % 2 * LANES + i / 2;
  if (kind == INT4) return i / 4 % 2 * LANES + i / 8 * 4 + i % 4;
  return i;
}

inline float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float widen(float value) { return value; }

inline float widen(int8_t value) { return value; }

inline float widen(Bf16 value) { return from_bits(static_cast<uint32_t>(value.bits) << 16); }

inline float widen(Fp16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000) << 16;
  const uint32_t rest = value.bits & 0x7fff;
  if (rest >= 0x7c00) return from_bits(sign | 0x7f800000 | (rest & 0x3ff) << 13); // inf, NaN
  // 2^112 is the difference of the exponents' biases; the product is exact, subnormals too.
  return from_bits(sign | to_bits(from_bits(rest << 13) * 0x1p112f));
}

inline void round_to(float value, float* out) { *out = value; }

inline void round_to(float value, Bf16* out) {
  const uint32_t bits = to_bits(value);
  if (value != value) {
    out->bits = 0x7fc0;
  } else {
    out->bits = static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16); // ties to even
  }
}

inline void round_to(float value, Fp16* out) {
  const uint32_t bits = to_bits(value);
  const uint32_t magnitude = bits & 0x7fffffff;
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  if (magnitude > 0x7f800000) {
    out->bits = sign | 0x7e00;
  } else if (magnitude >= 0x477ff000) { // rounds beyond 65504
    out->bits = sign | 0x7c00;
  } else if (magnitude < 0x38800000) { // subnormal: one addition rounds it to multiples of 2^-24
    out->bits = sign | static_cast<uint16_t>(to_bits(from_bits(magnitude) + 0.5f) - 0x3f000000);
  } else {
    const uint32_t rebiased = magnitude - (112u << 23);
    out->bits = sign | static_cast<uint16_t>((rebiased + 0xfff + (rebiased >> 13 & 1)) >> 13);
  }
}

// A float rounded to a kind and widened again.
inline float rounded(float value, int32_t kind) {
  if (kind == BFLOAT16) {
    Bf16 out;
    round_to(value, &out);
    return widen(out);
  }
  if (kind == FLOAT16) {
    Fp16 out;
    round_to(value, &out);
    return widen(out);
  }
  return value;
}

inline float get(const void* data, int32_t kind, int64_t index) {
  if (kind == BFLOAT16) return widen(static_cast<const Bf16*>(data)[index]);
  if (kind == FLOAT16) return widen(static_cast<const Fp16*>(data)[index]);
  return static_cast<const float*>(data)[index];
}

inline void put(void* data, int32_t kind, int64_t index, float value) {
  if (kind == BFLOAT16) {
    round_to(value, static_cast<Bf16*>(data) + index);
  } else if (kind == FLOAT16) {
    round_to(value, static_cast<Fp16*>(data) + index);
  } else {
    static_cast<float*>(data)[index] = value;
  }
}

} // namespace
} // namespace prosparse
