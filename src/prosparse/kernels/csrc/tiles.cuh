// Dot products of 8 weight rows with up to 16 tokens, on tensor cores, by all warps of a block.
//
// One instruction multiplies A, 16 tokens x 16 columns, with B, 16 columns x 8 neurons, and adds in
// float32. In which order columns are summed does not matter as long as A and B agree, so a thread takes
// PER_THREAD consecutive columns of one neuron in one load: a unit is the 4 * PER_THREAD columns of the
// four threads that share a neuron. With lane = 4 * n + q, thread (n, q) loads for neuron n and for the
// tokens n and n + 8, and receives the sums of tokens n and n + 8 with neurons 2 q and 2 q + 1.
#pragma once

#include "tensor_core.cuh"

constexpr int NEURONS = 8;  // of a tile
constexpr int TOKENS = 16;
constexpr int THREADS = WARPS * 32;

// How a format is loaded, and how it becomes pairs of X. `pairs(m)` gives multiplication m its four
// columns of a neuron; `activations(m)` gives the same columns of x.
template <class Format>
struct Tile;

template <>
struct Tile<Dense> {
  static constexpr int PER_THREAD = 8;
  uint4 w;

  __device__ __forceinline__ void zero() { w = {0, 0, 0, 0}; }
  __device__ __forceinline__ void load(const void* values, u64 f, int column) {
    load_once(static_cast<const X*>(values) + f * D + column, w);
  }
  __device__ __forceinline__ void pairs(int m, u32& low, u32& high) const {
    low = m ? w.z : w.x;
    high = m ? w.w : w.y;
  }
  static __device__ __forceinline__ void activations(const u32* x, int m, u32& low, u32& high) {
    low = x[2 * m];
    high = x[2 * m + 1];
  }
};

__device__ __forceinline__ u32 pair_of(float low, float high) {
  u32 pair;
#if defined(X_BF16)
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#else
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#endif
  return pair;
}

template <int WORDS>
struct Words {
  u32 w[WORDS];
  __device__ __forceinline__ void zero() {
#pragma unroll
    for (int i = 0; i < WORDS; ++i) w[i] = 0;
  }
  __device__ __forceinline__ void load(const void* p) {
    if constexpr (WORDS % 4 == 0) {
#pragma unroll
      for (int i = 0; i < WORDS; i += 4) {
        uint4 v;
        load_once(static_cast<const u32*>(p) + i, v);
        w[i] = v.x; w[i + 1] = v.y; w[i + 2] = v.z; w[i + 3] = v.w;
      }
    } else if constexpr (WORDS == 2) {
      uint2 v;
      load_once(p, v);
      w[0] = v.x; w[1] = v.y;
    } else {
      load_once(p, w[0]);
    }
  }
};

// The columns of a unit share a scale: it multiplies their sum.
template <int GROUP>
struct Tile<Int8<GROUP>> {
  static constexpr int PER_THREAD = GROUP / 4;
  Words<PER_THREAD / 4> q;

  __device__ __forceinline__ void zero() { q.zero(); }
  __device__ __forceinline__ void load(const void* values, u64 f, int column) {
    q.load(static_cast<const u8*>(values) + f * D + column);
  }
  __device__ __forceinline__ void pairs(int m, u32& low, u32& high) const {
    float w[4];
    bytes_to_floats(q.w[m] ^ 0x80808080u, 8388736.0f, w);  // 2^23 + 128
    low = pair_of(w[0], w[1]);
    high = pair_of(w[2], w[3]);
  }
  static __device__ __forceinline__ void activations(const u32* x, int m, u32& low, u32& high) {
    low = x[2 * m];
    high = x[2 * m + 1];
  }
};

// Two nibbles become 128 + v, or 1024 + v, by filling in the exponent: no conversion.
template <int GROUP>
struct Tile<Int4<GROUP>> {
  static constexpr int PER_THREAD = GROUP / 4;
  Words<PER_THREAD / 8> q;

  __device__ __forceinline__ void zero() { q.zero(); }
  __device__ __forceinline__ void load(const void* values, u64 f, int column) {
    q.load(static_cast<const u8*>(values) + f * (D / 2) + column / 2);
  }
  static __device__ __forceinline__ u32 values_of(u32 nibbles) {
    u32 pair;
#if defined(X_BF16)
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"((nibbles & 0x000f000fu) | 0x43004300u), "r"(0x3f803f80u), "r"(0xc308c308u));
#else
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(pair) : "r"((nibbles & 0x000f000fu) | 0x64006400u), "r"(0x3c003c00u), "r"(0xe408e408u));
#endif
    return pair;
  }
  // Of a word's values 0 to 7, bytes 0 and 2 hold 0 and 2 (low) and 4 and 6 (high), bytes 1 and 3 the rest.
  __device__ __forceinline__ void pairs(int m, u32& low, u32& high) const {
    const u32 word = q.w[m / 2] >> (m % 2 * 4);
    low = values_of(word);
    high = values_of(word >> 8);
  }
  static __device__ __forceinline__ void activations(const u32* x, int m, u32& low, u32& high) {
    low = __byte_perm(x[2 * m], x[2 * m + 1], 0x5410);
    high = __byte_perm(x[2 * m], x[2 * m + 1], 0x7632);
  }
};

template <class Format>
struct TileDot {
  static constexpr int PER_THREAD = Tile<Format>::PER_THREAD;
  static constexpr int COLUMNS = 4 * PER_THREAD;  // of a unit
  static constexpr int UNITS = D / COLUMNS;
  static constexpr int OF_WARP = (UNITS + WARPS - 1) / WARPS;
  // A unit of few bytes wants more units in flight.
  static constexpr int WANTED = LOADS * 16 / static_cast<int>(sizeof(Tile<Format>));
  static constexpr int SIZE = OF_WARP < WANTED ? OF_WARP : WANTED;
  static_assert(D % COLUMNS == 0, "units are whole");

  // sum[0..3] += token n, n, n + 8, n + 8 times neuron first + 2 q, + 2 q + 1, ... over this warp's columns.
  // Only neurons whose bit is set in `rows` are read; the others give 0. FIRST: as in `row_dot`.
  template <bool FIRST>
  static __device__ __forceinline__ void run(const void* values, const void* scales, int first, u32 rows, const X* x,
                                             float (&sum)[4]) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n = lane / 4, q = lane % 4;
    const bool mine = rows >> n & 1;
#pragma unroll 1
    for (int start = 0; start < OF_WARP; start += SIZE) {
      Tile<Format> tile[SIZE];
      u16 scale[SIZE];  // of neuron n
#pragma unroll
      for (int i = 0; i < SIZE; ++i) {
        const int unit = (start + i) * WARPS + warp;
        tile[i].zero();
        const bool there = start + i < OF_WARP && (UNITS % WARPS == 0 || unit < UNITS);
        if (mine && there) tile[i].load(values, first + n, unit * COLUMNS + q * PER_THREAD);
        scale[i] = 0;
        if (Format::SCALED && mine && there)
          load_once(static_cast<const u16*>(scales) + static_cast<u64>(first + n) * UNITS + unit, scale[i]);
      }
      if (FIRST && start == 0) wait_before_activations();
#pragma unroll
      for (int i = 0; i < SIZE; ++i) {
        const int unit = (start + i) * WARPS + warp;
        if (start + i >= OF_WARP || (UNITS % WARPS != 0 && unit >= UNITS)) break;
        if constexpr (Format::SCALED) {
          float part[4] = {0.0f, 0.0f, 0.0f, 0.0f};
          multiply(tile[i], x + unit * COLUMNS + q * PER_THREAD, n, part);
          const float mine = half_to_float(scale[i]);
          const float even = __shfl_sync(0xffffffffu, mine, 8 * q), odd = __shfl_sync(0xffffffffu, mine, 8 * q + 4);
          sum[0] = fmaf(part[0], even, sum[0]);
          sum[1] = fmaf(part[1], odd, sum[1]);
          sum[2] = fmaf(part[2], even, sum[2]);
          sum[3] = fmaf(part[3], odd, sum[3]);
        } else {
          multiply(tile[i], x + unit * COLUMNS + q * PER_THREAD, n, sum);
        }
      }
    }
  }

 private:
  static __device__ __forceinline__ void multiply(const Tile<Format>& tile, const X* x, int n, float (&sum)[4]) {
    u32 low[PER_THREAD / 2], high[PER_THREAD / 2];
    load_token(x, n, low);
    load_token(x, n + 8, high);  // zeros, known to the compiler, for T <= 8
#pragma unroll
    for (int m = 0; m < PER_THREAD / 4; ++m) {
      u32 a[4], b0, b1;
      Tile<Format>::activations(low, m, a[0], a[2]);
      Tile<Format>::activations(high, m, a[1], a[3]);
      tile.pairs(m, b0, b1);
      multiply_add(sum, a, b0, b1);
    }
  }

  static __device__ __forceinline__ void load_token(const X* x, int token, u32 (&words)[PER_THREAD / 2]) {
#pragma unroll
    for (int i = 0; i < PER_THREAD / 2; i += 4) {
      uint4 v = {0, 0, 0, 0};
      if (token < T && (T > 8 || token < 8)) v = load_cached(x + static_cast<u64>(token) * D + 2 * i);
      words[i] = v.x; words[i + 1] = v.y; words[i + 2] = v.z; words[i + 3] = v.w;
    }
  }
};

// The sums of all warps: thread i of the first 8 T gets token i / 8, neuron i % 8. Ends with the block in
// step, so that `partial` can be used again.
__device__ __forceinline__ float over_warps(float (&partial)[WARPS][TOKENS][NEURONS], const float (&sum)[4]) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n = lane / 4, q = lane % 4;
  partial[warp][n][2 * q] = sum[0];
  partial[warp][n][2 * q + 1] = sum[1];
  partial[warp][n + 8][2 * q] = sum[2];
  partial[warp][n + 8][2 * q + 1] = sum[3];
  __syncthreads();
  float v = 0.0f;
  if (threadIdx.x < T * NEURONS) {
#pragma unroll
    for (int w = 0; w < WARPS; ++w) v += partial[w][threadIdx.x / NEURONS][threadIdx.x % NEURONS];
  }
  __syncthreads();
  return v;
}
