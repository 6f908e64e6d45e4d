// SPDX-License-Identifier: Apache-2.0
// Sixteen floats at once, in four registers of NEON, which every 64-bit ARM CPU has.
#pragma once

#include <arm_neon.h>

#include "element.h"

namespace prosparse {
namespace {

constexpr int PRODUCTS_AT_ONCE = 1; // thirty-two registers of four hold no more

struct Floats {
  float32x4_t part[4];
};

struct Block {
  Floats first, second;
};

inline Floats broadcast(float value) {
  const float32x4_t four = vdupq_n_f32(value);
  return {{four, four, four, four}};
}

inline Floats load(const float* data) {
  return {{vld1q_f32(data), vld1q_f32(data + 4), vld1q_f32(data + 8), vld1q_f32(data + 12)}};
}

inline Block load_block(const float* data) { return {load(data), load(data + LANES)}; }

inline Block load_block(const Bf16* data) {
  Block out;
  for (int i = 0; i < 4; ++i) {
    const auto* eight = reinterpret_cast<const uint16_t*>(data + 8 * i);
    const uint32x4_t pairs = vreinterpretq_u32_u16(vld1q_u16(eight));
    out.first.part[i] = vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16));
    out.second.part[i] = vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff0000)));
  }
  return out;
}

inline Floats from_fp16(const uint16_t* data) {
  Floats out;
  for (int i = 0; i < 4; ++i) {
    out.part[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(data + 4 * i)));
  }
  return out;
}

inline Block load_block(const Fp16* data) {
  const auto* bits = reinterpret_cast<const uint16_t*>(data);
  return {from_fp16(bits), from_fp16(bits + LANES)};
}

inline Floats from_int8(int8x16_t bytes) {
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
  return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
           vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
           vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
}

inline Block load_block(const int8_t* data) {
  return {from_int8(vld1q_s8(data)), from_int8(vld1q_s8(data + LANES))};
}

inline Floats less_eight(uint8x16_t halves) {
  return from_int8(vsubq_s8(vreinterpretq_s8_u8(halves), vdupq_n_s8(8)));
}

inline Block load_block(const Int4x2* data) {
  const uint8x16_t bytes = vld1q_u8(reinterpret_cast<const uint8_t*>(data));
  return {less_eight(vandq_u8(bytes, vdupq_n_u8(15))), less_eight(vshrq_n_u8(bytes, 4))};
}

inline Floats load_scales(const uint16_t* data) { return from_fp16(data); }

inline void store(float* data, Floats a) {
  for (int i = 0; i < 4; ++i) vst1q_f32(data + 4 * i, a.part[i]);
}

inline Floats add(Floats a, Floats b) {
  for (int i = 0; i < 4; ++i) a.part[i] = vaddq_f32(a.part[i], b.part[i]);
  return a;
}

inline Floats multiply(Floats a, Floats b) {
  for (int i = 0; i < 4; ++i) a.part[i] = vmulq_f32(a.part[i], b.part[i]);
  return a;
}

// a * b + c
inline Floats multiply_add(Floats a, Floats b, Floats c) {
  for (int i = 0; i < 4; ++i) c.part[i] = vfmaq_f32(c.part[i], a.part[i], b.part[i]);
  return c;
}

inline float sum(Floats a) {
  const float32x4_t low = vaddq_f32(a.part[0], a.part[2]), high = vaddq_f32(a.part[1], a.part[3]);
  const float32x4_t four = vaddq_f32(low, high);
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

inline void prefetch(const void* address) { __builtin_prefetch(address, 0, 2); }

} // namespace
} // namespace prosparse
