// Numbers as they lie in memory: the dtype X of activations, and the formats of weights.
//
// Every program is compiled for one shape, so D (d_model), F (d_ff), T (tokens) and the formats are
// constants. A chunk is VEC consecutive values of a row: 8, or 1 where rows of D values do not start
// at 16-byte boundaries. Nothing is included: user machines need no CUDA headers.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

// Activations. X_BITS and conversions to and from float, rounding to nearest even.
#if defined(X_BF16)
typedef u16 X;
__device__ __forceinline__ float to_float(X v) { return __uint_as_float(static_cast<u32>(v) << 16); }
__device__ __forceinline__ X from_float(float v) {
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(0.0f), "f"(v));
  return static_cast<X>(pair & 0xffff);
}
#elif defined(X_FP16)
typedef u16 X;
__device__ __forceinline__ float to_float(X v) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v));
  return f;
}
__device__ __forceinline__ X from_float(float v) {
  X h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(v));
  return h;
}
#else
typedef float X;
__device__ __forceinline__ float to_float(X v) { return v; }
__device__ __forceinline__ X from_float(float v) { return v; }
#endif

// What the value becomes when a transformers model stores it between two operations.
__device__ __forceinline__ float rounded(float v) { return to_float(from_float(v)); }

// FOLLOWS: the kernel may start while the one before still writes its activations, which are then no
// read-only data. FETCHES_FIRST: it reads weights meanwhile; the compiler would move read-only loads
// behind the wait.
#if FOLLOWS
#define READ_ONLY
#define LD_ACTIVATIONS "ld.global"
#else
#define READ_ONLY __restrict__
#define LD_ACTIVATIONS "ld.global.nc"
#endif
#if FETCHES_FIRST
#define LD_WEIGHTS "ld.global"
#else
#define LD_WEIGHTS "ld.global.nc"
#endif

// Weights are read once: they shall not push x out of L1.
__device__ __forceinline__ void load_once(const void* p, uint4& v) {
  asm volatile(LD_WEIGHTS ".L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
}
__device__ __forceinline__ void load_once(const void* p, uint2& v) {
  asm volatile(LD_WEIGHTS ".L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
}
__device__ __forceinline__ void load_once(const void* p, u32& v) {
  asm volatile(LD_WEIGHTS ".L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p));
}
__device__ __forceinline__ void load_once(const void* p, float& v) {
  asm volatile(LD_WEIGHTS ".L1::no_allocate.f32 %0, [%1];" : "=f"(v) : "l"(p));
}
__device__ __forceinline__ void load_once(const void* p, u16& v) {
  asm volatile(LD_WEIGHTS ".L1::no_allocate.u16 %0, [%1];" : "=h"(v) : "l"(p));
}

__device__ __forceinline__ void unpack_pair(u32 pair, float& low, float& high) {
#if defined(X_BF16)
  low = __uint_as_float(pair << 16);
  high = __uint_as_float(pair & 0xffff0000u);
#else
  low = to_float(static_cast<X>(pair & 0xffff));
  high = to_float(static_cast<X>(pair >> 16));
#endif
}

// A matrix [F, D] in the dtype of the activations. Of every format, `unpack` gives a chunk's values,
// which `scale` has yet to multiply: once for a sum of products, not once for each.
struct Dense {
  static constexpr bool SCALED = false;
#if VEC == 8 && defined(X_FP32)
  struct Chunk { uint4 a, b; };
#elif VEC == 8
  typedef uint4 Chunk;
#else
  typedef X Chunk;
#endif
  static __device__ __forceinline__ void load(Chunk& c, const void* values, const void*, u64 f, int column) {
    const X* p = static_cast<const X*>(values) + f * D + column;
#if VEC == 8 && defined(X_FP32)
    load_once(p, c.a);
    load_once(p + 4, c.b);
#else
    load_once(p, c);
#endif
  }
  static __device__ __forceinline__ float scale(const Chunk&) { return 1.0f; }
  static __device__ __forceinline__ void unpack(const Chunk& c, float (&w)[VEC]) {
#if VEC == 8 && defined(X_FP32)
    w[0] = __uint_as_float(c.a.x); w[1] = __uint_as_float(c.a.y);
    w[2] = __uint_as_float(c.a.z); w[3] = __uint_as_float(c.a.w);
    w[4] = __uint_as_float(c.b.x); w[5] = __uint_as_float(c.b.y);
    w[6] = __uint_as_float(c.b.z); w[7] = __uint_as_float(c.b.w);
#elif VEC == 8
    unpack_pair(c.x, w[0], w[1]);
    unpack_pair(c.y, w[2], w[3]);
    unpack_pair(c.z, w[4], w[5]);
    unpack_pair(c.w, w[6], w[7]);
#else
    w[0] = to_float(c);
#endif
  }
};

#if VEC == 8
__device__ __forceinline__ float half_to_float(u16 v) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v));
  return f;
}

// 2^23 + byte, as a float's bits: bytes become floats without an integer conversion.
__device__ __forceinline__ float byte_to_float(u32 word, u32 selector, float offset) {
  return __uint_as_float(__byte_perm(word, 0x4b000000u, selector)) - offset;
}
__device__ __forceinline__ void bytes_to_floats(u32 word, float offset, float* w) {
  w[0] = byte_to_float(word, 0x7440, offset);
  w[1] = byte_to_float(word, 0x7441, offset);
  w[2] = byte_to_float(word, 0x7442, offset);
  w[3] = byte_to_float(word, 0x7443, offset);
}

// int8 values, one float16 scale for GROUP of them.
template <int GROUP>
struct Int8 {
  static constexpr bool SCALED = true;
  struct Chunk { uint2 q; u16 scale; };
  static __device__ __forceinline__ void load(Chunk& c, const void* values, const void* scales, u64 f, int column) {
    load_once(static_cast<const u8*>(values) + f * D + column, c.q);
    load_once(static_cast<const u16*>(scales) + f * (D / GROUP) + column / GROUP, c.scale);
  }
  static __device__ __forceinline__ void unpack(const Chunk& c, float (&w)[VEC]) {
    bytes_to_floats(c.q.x ^ 0x80808080u, 8388736.0f, w);  // 2^23 + 128
    bytes_to_floats(c.q.y ^ 0x80808080u, 8388736.0f, w + 4);
  }
  static __device__ __forceinline__ float scale(const Chunk& c) { return half_to_float(c.scale); }
};

// Values of 4 bits: in each 32-bit word, byte j holds value j (low half) and value j + 4 (high half).
template <int GROUP>
struct Int4 {
  static constexpr bool SCALED = true;
  struct Chunk { u32 q; u16 scale; };
  static __device__ __forceinline__ void load(Chunk& c, const void* values, const void* scales, u64 f, int column) {
    load_once(static_cast<const u8*>(values) + f * (D / 2) + column / 2, c.q);
    load_once(static_cast<const u16*>(scales) + f * (D / GROUP) + column / GROUP, c.scale);
  }
  static __device__ __forceinline__ void unpack(const Chunk& c, float (&w)[VEC]) {
    bytes_to_floats(c.q & 0x0f0f0f0fu, 8388616.0f, w);  // 2^23 + 8
    bytes_to_floats((c.q >> 4) & 0x0f0f0f0fu, 8388616.0f, w + 4);
  }
  static __device__ __forceinline__ float scale(const Chunk& c) { return half_to_float(c.scale); }
};
#endif

#if VEC == 8
// 16 bytes of activations, through L1. FEW_REGISTERS keeps the compiler from loading them long before
// their use, where registers are better spent on more warps.
__device__ __forceinline__ uint4 load_cached(const X* p) {
#if FEW_REGISTERS
  uint4 v;
  asm volatile(LD_ACTIVATIONS ".v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
#else
  return *reinterpret_cast<const uint4*>(p);
#endif
}
#endif

// VEC activations from `p`.
__device__ __forceinline__ void load_activations(const X* p, float (&x)[VEC]) {
#if VEC == 8 && defined(X_FP32)
  Dense::unpack({load_cached(p), load_cached(p + 4)}, x);
#elif VEC == 8
  Dense::unpack(load_cached(p), x);
#else
  x[0] = to_float(*p);
#endif
}
