// SPDX-License-Identifier: Apache-2.0
// Sixteen floats at once in plain C++; what every other simd_*.h offers for its instruction set.
#pragma once

#include "element.h"

namespace prosparse {
namespace {

constexpr int LANES = 16;

struct Floats {
  float lane[LANES];
};

inline Floats broadcast(float value) {
  Floats out;
  for (float& lane : out.lane) lane = value;
  return out;
}

inline Floats load(const float* data) {
  Floats out;
  std::memcpy(out.lane, data, sizeof out.lane);
  return out;
}

inline Floats load(const Bf16* data) {
  Floats out;
  for (int i = 0; i < LANES; ++i) out.lane[i] = widen(data[i]);
  return out;
}

inline Floats load(const Fp16* data) {
  Floats out;
  for (int i = 0; i < LANES; ++i) out.lane[i] = widen(data[i]);
  return out;
}

inline Floats load(const int8_t* data) {
  Floats out;
  for (int i = 0; i < LANES; ++i) out.lane[i] = data[i];
  return out;
}

// Of eight values in four bytes, byte j holds value j in its low half and value j + 4 in its high one.
inline Floats load(const Int4x2* data) {
  Floats out;
  for (int i = 0; i < LANES; ++i) {
    const int byte = data[i / 8 * 4 + i % 4].bits;
    out.lane[i] = static_cast<float>((i % 8 < 4 ? byte & 15 : byte >> 4) - 8);
  }
  return out;
}

inline void store(float* data, Floats a) { std::memcpy(data, a.lane, sizeof a.lane); }

inline Floats add(Floats a, Floats b) {
  for (int i = 0; i < LANES; ++i) a.lane[i] += b.lane[i];
  return a;
}

// a * b + c
inline Floats multiply_add(Floats a, Floats b, Floats c) {
  for (int i = 0; i < LANES; ++i) c.lane[i] += a.lane[i] * b.lane[i];
  return c;
}

inline float sum(Floats a) {
  for (int width = LANES / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) a.lane[i] += a.lane[i + width];
  }
  return a.lane[0];
}

inline float widen_scale(uint16_t bits) { return widen(Fp16{bits}); }

inline void prefetch(const void* address) { __builtin_prefetch(address, 0, 2); }

} // namespace
} // namespace prosparse
