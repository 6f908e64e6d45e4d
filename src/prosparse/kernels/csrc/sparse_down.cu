// Step (3): y = x_1 W_2^T over the active neurons only, W_2 neuron-major [F, D].
//
// A block owns COLUMNS columns and one of SPLITS shares of the neurons. It lists the active ones of its
// share, always in the same order (`fill`), and its warps add up their pieces of rows (`Sums`), in one
// of two ways: down_rows.cuh and down_tiles.cuh. Tokens come in tiles of T_TILE (blockIdx.z); a row that any token of the tile needs is read
// once.
#include "constants.cuh"
#include "element.cuh"
#include "grid.cuh"
#include "down_sum.cuh"

typedef DOWN_FORMAT DownFormat;

constexpr int RUN = 16;  // a share is made of runs of 16 neurons dealt out in turn: clusters are shared
constexpr int SHARE = (F + SPLITS * RUN - 1) / (SPLITS * RUN) * RUN;

__device__ __forceinline__ int neuron(int i, int split) { return (i / RUN * SPLITS + split) * RUN + i % RUN; }

#if TILES
#include "down_tiles.cuh"
#else
#include "down_rows.cuh"
#endif
static_assert(sizeof(Shared) <= SHARED_BYTES, "the launch asks for too little shared memory");

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
sparse_down(const X* READ_ONLY x1, const void* __restrict__ down, const void* __restrict__ scales,
            const X* __restrict__ bias, const void* READ_ONLY residual, void* __restrict__ y) {
  extern __shared__ float4 memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  const int split = blockIdx.x, first_column = blockIdx.y * COLUMNS, first_token = blockIdx.z * T_TILE;
  Outputs outputs;
  outputs.begin(shared.arrivals, split, first_column, first_token);
  Sums sums;
  let_next_kernel_start();
  wait_before_weights();
  outputs.read(bias, residual);
#pragma unroll 1
  for (int first = 0; first < SHARE; first += ROUND) {
    if (first) __syncthreads();  // the list is still being read
    const int length = fill(shared, x1, first, split, first_token);
    sums.add(shared, length, down, scales, first_column);
  }
  sums.keep(shared);
  outputs.finish(shared.of_warp, shared.arrivals, split, y);
}
