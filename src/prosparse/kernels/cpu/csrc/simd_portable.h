// SPDX-License-Identifier: Apache-2.0
// Sixteen floats at once in plain C++; what every other simd_*.h offers for its instruction set.
//
// Weights come in blocks of 32 as two vectors, in whatever order costs least to unpack: see
// `place_in_block` in element.h. x and y are laid out in the same order.
#pragma once

#include "element.h"

namespace prosparse {
namespace {

constexpr int PRODUCTS_AT_ONCE = 1; // more would not find registers

struct Floats {
  float lane[LANES];
};

struct Block {
  Floats first, second;
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

template <typename E>
inline Block load_block(const E* data) {
  Block out;
  for (int i = 0; i < LANES; ++i) {
    out.first.lane[i] = widen(data[i]);
    out.second.lane[i] = widen(data[i + LANES]);
  }
  return out;
}

inline Block load_block(const Bf16* data) {
  Block out;
  for (int i = 0; i < LANES; ++i) {
    out.first.lane[i] = widen(data[2 * i]);
    out.second.lane[i] = widen(data[2 * i + 1]);
  }
  return out;
}

inline Block load_block(const Int4x2* data) {
  Block out;
  for (int i = 0; i < LANES; ++i) {
    out.first.lane[i] = static_cast<float>((data[i].bits & 15) - 8);
    out.second.lane[i] = static_cast<float>((data[i].bits >> 4) - 8);
  }
  return out;
}

inline void store(float* data, Floats a) { std::memcpy(data, a.lane, sizeof a.lane); }

inline Floats add(Floats a, Floats b) {
  for (int i = 0; i < LANES; ++i) a.lane[i] += b.lane[i];
  return a;
}

inline Floats multiply(Floats a, Floats b) {
  for (int i = 0; i < LANES; ++i) a.lane[i] *= b.lane[i];
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

inline Floats load_scales(const uint16_t* data) {
  Floats out;
  for (int i = 0; i < LANES; ++i) out.lane[i] = widen(Fp16{data[i]});
  return out;
}

inline void prefetch(const void* address) { __builtin_prefetch(address, 0, 2); }

} // namespace
} // namespace prosparse
