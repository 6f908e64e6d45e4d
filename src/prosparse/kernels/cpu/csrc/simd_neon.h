// SPDX-License-Identifier: Apache-2.0
// Sixteen floats at once, in four registers of NEON, which every 64-bit ARM CPU has.
#pragma once

#include <arm_neon.h>

#include "element.h"

namespace prosparse {
namespace {

constexpr int LANES = 16;

struct Floats {
  float32x4_t part[4];
};

inline Floats broadcast(float value) {
  const float32x4_t four = vdupq_n_f32(value);
  return {{four, four, four, four}};
}

inline Floats load(const float* data) {
  return {{vld1q_f32(data), vld1q_f32(data + 4), vld1q_f32(data + 8), vld1q_f32(data + 12)}};
}

inline float32x4_t from_bf16(uint16x4_t bits) {
  return vreinterpretq_f32_u32(vshll_n_u16(bits, 16));
}

inline Floats load(const Bf16* data) {
  const auto* bits = reinterpret_cast<const uint16_t*>(data);
  const uint16x8_t low = vld1q_u16(bits), high = vld1q_u16(bits + 8);
  return {{from_bf16(vget_low_u16(low)), from_bf16(vget_high_u16(low)),
           from_bf16(vget_low_u16(high)), from_bf16(vget_high_u16(high))}};
}

inline float32x4_t from_fp16(uint16x4_t bits) { return vcvt_f32_f16(vreinterpret_f16_u16(bits)); }

inline Floats load(const Fp16* data) {
  const auto* bits = reinterpret_cast<const uint16_t*>(data);
  const uint16x8_t low = vld1q_u16(bits), high = vld1q_u16(bits + 8);
  return {{from_fp16(vget_low_u16(low)), from_fp16(vget_high_u16(low)),
           from_fp16(vget_low_u16(high)), from_fp16(vget_high_u16(high))}};
}

inline Floats from_bytes(int8x16_t bytes) {
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
  return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
           vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
           vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
}

inline Floats load(const int8_t* data) { return from_bytes(vld1q_s8(data)); }

// Of eight values in four bytes, byte j holds value j in its low half and value j + 4 in its high one.
inline Floats load(const Int4x2* data) {
  const uint8x8_t both = vld1_u8(reinterpret_cast<const uint8_t*>(data));
  const uint32x2_t low = vreinterpret_u32_u8(vand_u8(both, vdup_n_u8(15)));
  const uint32x2_t high = vreinterpret_u32_u8(vshr_n_u8(both, 4));
  const uint32x2x2_t zipped = vzip_u32(low, high);
  const uint8x16_t values =
      vreinterpretq_u8_u32(vcombine_u32(zipped.val[0], zipped.val[1]));
  return from_bytes(vsubq_s8(vreinterpretq_s8_u8(values), vdupq_n_s8(8)));
}

inline void store(float* data, Floats a) {
  for (int i = 0; i < 4; ++i) vst1q_f32(data + 4 * i, a.part[i]);
}

inline Floats add(Floats a, Floats b) {
  for (int i = 0; i < 4; ++i) a.part[i] = vaddq_f32(a.part[i], b.part[i]);
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

inline float widen_scale(uint16_t bits) { return widen(Fp16{bits}); }

inline void prefetch(const void* address) { __builtin_prefetch(address, 0, 2); }

} // namespace
} // namespace prosparse
