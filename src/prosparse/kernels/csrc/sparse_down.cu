// Step (3): y = x_1 W_2^T over the active neurons only, W_2 neuron-major [F, D].
//
// A block owns COLUMNS columns and one of SPLITS shares of the neurons. It lists the active ones of its
// share, always in the same order, and its warps add up their pieces of rows, ROWS * UNROLL in flight
// each. Tokens come in tiles of T_TILE (blockIdx.z); a row that any token of the tile needs is read
// once.
#include "constants.cuh"
#include "element.cuh"
#include "grid.cuh"
#include "down_sum.cuh"

typedef DOWN_FORMAT DownFormat;

constexpr int RUN = 16;  // a share is made of runs of 16 neurons dealt out in turn: clusters are shared
constexpr int SHARE = (F + SPLITS * RUN - 1) / (SPLITS * RUN) * RUN;
constexpr int ROUND = THREADS * LOOKS;  // neurons listed at a time
constexpr int LONGEST = ROUND < SHARE ? ROUND : SHARE;

__device__ __forceinline__ int neuron(int i, int split) { return (i / RUN * SPLITS + split) * RUN + i % RUN; }

struct Shared {
  Partial partial;
  int f[LONGEST];
  int found[WARPS];
  X value[T_TILE][LONGEST];
};
static_assert(sizeof(Shared) <= SHARED_BYTES, "the launch asks for too little shared memory");

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

// sum[t][k] += value[t] * W[f, column + k] over this thread's rows of the list.
__device__ __forceinline__ void add_rows(const Shared& shared, int length, const void* down, const void* scales, int column,
                                         float (&sum)[T_TILE][VEC]) {
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
#pragma unroll
        for (int t = 0; t < T_TILE; ++t) {
          const float value = to_float(shared.value[t][i]);
#pragma unroll
          for (int k = 0; k < VEC; ++k) sum[t][k] = fmaf(value, w[k], sum[t][k]);
        }
      }
    }
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
sparse_down(const X* __restrict__ x1, const void* __restrict__ down, const void* __restrict__ scales,
            const X* __restrict__ bias, const void* __restrict__ residual, void* __restrict__ y) {
  extern __shared__ float4 memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  const int split = blockIdx.x, first_column = blockIdx.y * COLUMNS, first_token = blockIdx.z * T_TILE;
  const int column = first_column + (threadIdx.x & 31) % LANES * VEC;
  Outputs outputs;
  outputs.begin(shared.partial, split, first_column, first_token, bias, residual);
  float sum[T_TILE][VEC];
#pragma unroll
  for (int t = 0; t < T_TILE; ++t)
#pragma unroll
    for (int k = 0; k < VEC; ++k) sum[t][k] = 0.0f;

  wait_for_previous_kernel();
#pragma unroll 1
  for (int first = 0; first < SHARE; first += ROUND) {
    if (first) __syncthreads();  // the list is still being read
    const int length = fill(shared, x1, first, split, first_token);
    if (D % COLUMNS == 0 || column < D) add_rows(shared, length, down, scales, column, sum);
  }
  outputs.finish(sum, shared.partial, split, y);
}
