// Step (2) alone: x_1 = FATReLU(gate_pre) * (x W_1^T), reading only the rows of active neurons.
//
// A block owns SLICE neurons: it lists its active ones, then its warps take them from the list. The
// neurons come in runs of RUN dealt out over all blocks, so that a cluster of active neurons is shared
// by many.
#include "constants.cuh"
#include "element.cuh"
#include "activation.cuh"
#include "grid.cuh"
#include "rows.cuh"
#include "up.cuh"

static_assert(SLICE % RUN == 0, "a block owns whole runs");

extern "C" __global__ void __launch_bounds__(WARPS * 32, BLOCKS)
sparse_up(const X* READ_ONLY gate_pre, const X* READ_ONLY x, const void* __restrict__ up,
          const void* __restrict__ up_scales, const X* __restrict__ up_bias, X* __restrict__ x1, float threshold, float shift) {
  const Activation activation{threshold, shift};
  __shared__ int active[SLICE];
  __shared__ int num_active;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  if (threadIdx.x == 0) num_active = 0;
  __syncthreads();
  let_next_kernel_start();
  wait_before_weights();
  for (int i = threadIdx.x; i < SLICE; i += WARPS * 32) {
    const int f = (i / RUN * gridDim.x + blockIdx.x) * RUN + i % RUN;
    if (f >= F) continue;
    bool any = false;
#pragma unroll
    for (int t = 0; t < T; ++t) any |= !(activation(to_float(gate_pre[static_cast<u64>(t) * F + f])) == 0.0f);
    if (any) {
      active[atomicAdd(&num_active, 1)] = f;  // any order: each neuron's result stands alone
    } else {
#pragma unroll
      for (int t = 0; t < T; ++t) x1[static_cast<u64>(t) * F + f] = from_float(0.0f);
    }
  }
  __syncthreads();
  for (int i = warp; i < num_active; i += WARPS) {
    const int f = active[i];
    float gate[T];
#pragma unroll
    for (int t = 0; t < T; ++t) gate[t] = activation(to_float(gate_pre[static_cast<u64>(t) * F + f]));
    finish_neuron(gate, up, up_scales, up_bias, x, x1, f, lane);
  }
}
