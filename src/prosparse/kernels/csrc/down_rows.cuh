// The sums of the down projection, one multiplication at a time: any dtype and format, few tokens.
#pragma once

constexpr int ROWS = 32 / LANES;        // that a warp reads at a time
constexpr int ROUND = THREADS * LOOKS;  // neurons listed at a time
constexpr int LONGEST = ROUND < SHARE ? ROUND : SHARE;

struct Shared {
  Arrivals arrivals;
  WarpSums of_warp;
  int f[LONGEST];
  int found[WARPS];
  X value[T_TILE][LONGEST];
};

// List the active neurons among the ROUND from `first` on: those that warp 0 looked at, then those of
// warp 1, and so on. Return how many.
__device__ __forceinline__ int fill(Shared& shared, const X* x1, int first, int split, int first_token) {
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  X value[LOOKS][T_TILE];
#pragma unroll
  for (int j = 0; j < LOOKS; ++j) {
    const int i = first + j * THREADS + threadIdx.x, f = neuron(i, split);
#pragma unroll
    for (int t = 0; t < T_TILE; ++t) {
      const bool there = i < SHARE && f < F && first_token + t < T;
      value[j][t] = there ? x1[static_cast<u64>(first_token + t) * F + f] : from_float(0.0f);
    }
  }
  u32 votes[LOOKS];
  int found = 0;
#pragma unroll
  for (int j = 0; j < LOOKS; ++j) {
    bool any = false;
#pragma unroll
    for (int t = 0; t < T_TILE; ++t) any |= !(to_float(value[j][t]) == 0.0f);
    votes[j] = __ballot_sync(0xffffffffu, any);
    found += __popc(votes[j]);
  }
  if (lane == 0) shared.found[warp] = found;
  __syncthreads();
  int total = lane < WARPS ? shared.found[lane] : 0;
  int place = lane < warp ? total : 0;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    total += __shfl_xor_sync(0xffffffffu, total, offset);
    place += __shfl_xor_sync(0xffffffffu, place, offset);
  }
#pragma unroll
  for (int j = 0; j < LOOKS; ++j) {
    if (votes[j] >> lane & 1) {
      const int at = place + __popc(votes[j] & ((1u << lane) - 1));
      shared.f[at] = neuron(first + j * THREADS + threadIdx.x, split);
#pragma unroll
      for (int t = 0; t < T_TILE; ++t) shared.value[t][at] = value[j][t];
    }
    place += __popc(votes[j]);
  }
  __syncthreads();
  return total;
}

struct Sums {
  float of[T_TILE][VEC];

  __device__ __forceinline__ Sums() {
#pragma unroll
    for (int t = 0; t < T_TILE; ++t)
#pragma unroll
      for (int k = 0; k < VEC; ++k) of[t][k] = 0.0f;
  }

  // of[t][k] += value[t] * W[f, column + k] over this thread's rows of the list, UNROLL in flight.
  __device__ __forceinline__ void add(const Shared& shared, int length, const void* down, const void* scales, int first_column) {
    const int column = first_column + (threadIdx.x & 31) % LANES * VEC;
    if (D % COLUMNS != 0 && column >= D) return;
    const int mine = (threadIdx.x >> 5) * ROWS + (threadIdx.x & 31) / LANES;
    for (int first = mine; first < length; first += WARPS * ROWS * UNROLL) {
      DownFormat::Chunk chunk[UNROLL];
#pragma unroll
      for (int u = 0; u < UNROLL; ++u) {
        const int i = first + u * WARPS * ROWS;
        if (i < length) DownFormat::load(chunk[u], down, scales, shared.f[i], column);
      }
#pragma unroll
      for (int u = 0; u < UNROLL; ++u) {
        const int i = first + u * WARPS * ROWS;
        if (i < length) {
          float w[VEC];
          DownFormat::unpack(chunk[u], w);
          const float scale = DownFormat::scale(chunk[u]);
#pragma unroll
          for (int t = 0; t < T_TILE; ++t) {
            const float value = to_float(shared.value[t][i]) * scale;
#pragma unroll
            for (int k = 0; k < VEC; ++k) of[t][k] = fmaf(value, w[k], of[t][k]);
          }
        }
      }
    }
  }

  // Add up the lanes that read the same columns and leave the warp's sums for the block.
  __device__ __forceinline__ void keep(Shared& shared) {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
    for (int t = 0; t < T_TILE; ++t)
#pragma unroll
      for (int k = 0; k < VEC; ++k) {
#pragma unroll
        for (int offset = LANES; offset < 32; offset *= 2) of[t][k] += __shfl_xor_sync(0xffffffffu, of[t][k], offset);
        if (lane < LANES) shared.of_warp[warp][t * COLUMNS + lane * VEC + k] = of[t][k];
      }
  }
};
