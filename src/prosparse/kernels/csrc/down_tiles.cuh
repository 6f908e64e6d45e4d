// The sums of the down projection on tensor cores: several tokens, weights in the dtype of x.
//
// An instruction takes 16 neurons of the list at once. With lane = 4 * n + q a thread loads 8 columns,
// 8 n to 8 n + 7, of neurons 4 q to 4 q + 3 in one load each, and multiplication j takes the j-th of them.
#pragma once

#include "tensor_core.cuh"

static_assert(LANES == 8 && VEC == 8, "a tile has 64 columns");
static_assert(F % 8 == 0 && RUN % 8 == 0, "8 neurons are looked at together");

constexpr int ROUND = THREADS * LOOKS * 8;  // neurons listed at a time
constexpr int LONGEST = ROUND < SHARE ? ROUND : SHARE;

struct Shared {
  Arrivals arrivals;
  int found[WARPS];
  union {
    struct {
      alignas(8) X value[T_TILE][LONGEST];
      int f[LONGEST];
    };
    WarpSums of_warp;  // when the list has been worked through
  };
};

__device__ __forceinline__ u32 word_of(const uint4& v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }

// List the active neurons among the ROUND from `first` on, in the order of the threads that looked at
// them. Return how many.
__device__ __forceinline__ int fill(Shared& shared, const X* x1, int first, int split, int) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  uint4 value[LOOKS][T_TILE];
  int f[LOOKS];
#pragma unroll
  for (int j = 0; j < LOOKS; ++j) {
    const int i = first + (j * THREADS + threadIdx.x) * 8;
    f[j] = neuron(i, split);
#pragma unroll
    for (int t = 0; t < T_TILE; ++t) {
      value[j][t] = {0, 0, 0, 0};
      if (i < SHARE && f[j] < F) value[j][t] = *reinterpret_cast<const uint4*>(x1 + static_cast<u64>(t) * F + f[j]);
    }
  }
  u32 active[LOOKS];  // as bits
  int mine = 0;
#pragma unroll
  for (int j = 0; j < LOOKS; ++j) {
    active[j] = 0;
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      u32 any = 0;
#pragma unroll
      for (int t = 0; t < T_TILE; ++t) any |= word_of(value[j][t], k / 2) << (k % 2 ? 0 : 16);
      active[j] |= static_cast<u32>((any & 0x7fff0000u) != 0) << k;  // -0 is zero too
    }
    mine += __popc(active[j]);
  }
  int up_to = mine;  // and with this lane
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int before = __shfl_up_sync(0xffffffffu, up_to, offset);
    if (lane >= offset) up_to += before;
  }
  if (lane == 31) shared.found[warp] = up_to;
  __syncthreads();
  int total = 0, at = up_to - mine;
#pragma unroll
  for (int w = 0; w < WARPS; ++w) {
    if (w < warp) at += shared.found[w];
    total += shared.found[w];
  }
#pragma unroll
  for (int j = 0; j < LOOKS; ++j)
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      if (!(active[j] >> k & 1)) continue;
      shared.f[at] = f[j] + k;
#pragma unroll
      for (int t = 0; t < T_TILE; ++t) shared.value[t][at] = static_cast<X>(word_of(value[j][t], k / 2) >> (k % 2 * 16));
      ++at;
    }
  // Neurons are taken by 16: what the last ones lack counts nothing.
  for (int i = threadIdx.x; i < T_TILE * 16; i += THREADS)
    if (total + i % 16 < LONGEST) shared.value[i / 16][total + i % 16] = from_float(0.0f);
  __syncthreads();
  return total;
}

struct Sums {
  float of[VEC][4];

  __device__ __forceinline__ Sums() {
#pragma unroll
    for (int j = 0; j < VEC; ++j) of[j][0] = of[j][1] = of[j][2] = of[j][3] = 0.0f;
  }

  __device__ __forceinline__ void add(const Shared& shared, int length, const void* down, const void*, int first_column) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n = lane / 4, q = lane % 4;
    const int column = first_column + n * VEC;
    const bool inside = D % COLUMNS == 0 || column < D;
    for (int first = warp * 16; first < length; first += WARPS * 16 * UNROLL) {
      uint4 row[UNROLL][4];
#pragma unroll
      for (int u = 0; u < UNROLL; ++u)
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const int i = first + u * WARPS * 16 + 4 * q + r;
          row[u][r] = {0, 0, 0, 0};
          if (i < length && inside) load_once(static_cast<const X*>(down) + static_cast<u64>(shared.f[i]) * D + column, row[u][r]);
        }
#pragma unroll
      for (int u = 0; u < UNROLL; ++u) {
        const int i = first + u * WARPS * 16;
        if (i >= length) break;
        u32 a[4];
        load_values(shared, n, i + 4 * q, a[0], a[2]);
        load_values(shared, n + 8, i + 4 * q, a[1], a[3]);
        multiply<0>(row[u][0].x, row[u][1].x, row[u][2].x, row[u][3].x, a);
        multiply<2>(row[u][0].y, row[u][1].y, row[u][2].y, row[u][3].y, a);
        multiply<4>(row[u][0].z, row[u][1].z, row[u][2].z, row[u][3].z, a);
        multiply<6>(row[u][0].w, row[u][1].w, row[u][2].w, row[u][3].w, a);
      }
    }
  }

  __device__ __forceinline__ void keep(Shared& shared) const {
    __syncthreads();  // the sums take the place of the list
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, n = lane / 4, q = lane % 4;
#pragma unroll
    for (int j = 0; j < VEC; ++j)
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int t = k < 2 ? n : n + 8;
        if (t < T_TILE) shared.of_warp[warp][t * COLUMNS + (2 * q + k % 2) * VEC + j] = of[j][k];
      }
  }

 private:
  // The values of a token for four neurons of the list.
  static __device__ __forceinline__ void load_values(const Shared& shared, int t, int i, u32& low, u32& high) {
    low = high = 0;
    if (t < T_TILE && (T_TILE > 8 || t < 8)) {
      const uint2 v = *reinterpret_cast<const uint2*>(&shared.value[t][i]);
      low = v.x;
      high = v.y;
    }
  }

  // Columns J and J + 1 lie in one word of each of four rows; the instruction wants pairs of rows.
  template <int J>
  __device__ __forceinline__ void multiply(u32 r0, u32 r1, u32 r2, u32 r3, const u32 (&a)[4]) {
    multiply_add(of[J], a, __byte_perm(r0, r1, 0x5410), __byte_perm(r2, r3, 0x5410));
    multiply_add(of[J + 1], a, __byte_perm(r0, r1, 0x7632), __byte_perm(r2, r3, 0x7632));
  }
};
