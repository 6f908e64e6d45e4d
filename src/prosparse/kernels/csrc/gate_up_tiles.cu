// Steps (1) and (2) in one pass for several tokens, or for quantized weights: 8 neurons to a block. The
// up rows of those that any token needs follow at once; x_1 [T, F] holds zero for the others. Where no
// neuron can be skipped this is a dense product on tensor cores, so it is its own fallback. The arguments
// are those of gate_up.cu.
#include "constants.cuh"
#include "element.cuh"
#include "activation.cuh"
#include "grid.cuh"
#include "tiles.cuh"

static_assert(T * NEURONS <= THREADS, "each thread finishes one output");

extern "C" __global__ void __launch_bounds__(WARPS * 32, BLOCKS)
gate_up_tiles(const X* READ_ONLY x, const void* __restrict__ gate, const void* __restrict__ gate_scales,
              const X* __restrict__ gate_bias, const void* __restrict__ up, const void* __restrict__ up_scales,
              const X* __restrict__ up_bias, const void*, X* __restrict__ x1, float threshold, float shift) {
  __shared__ float partial[WARPS][TOKENS][NEURONS];
  __shared__ u32 needed;  // neurons that any token needs, as bits
  const Activation activation{threshold, shift};
  const int first = blockIdx.x * NEURONS;
  const int token = threadIdx.x / NEURONS, neuron = threadIdx.x % NEURONS, f = first + neuron;
  const bool mine = token < T && f < F;
  if (threadIdx.x == 0) needed = 0;
  let_next_kernel_start();
  wait_before_weights();

  const u32 there = first + NEURONS <= F ? 0xffu : 0xffu >> (first + NEURONS - F);
  float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  TileDot<GATE_FORMAT>::run<true>(gate, gate_scales, first, there, x, sum);
  float value = over_warps(partial, sum);
  if (mine) {
    value = activation(rounded(value + (gate_bias ? to_float(gate_bias[f]) : 0.0f)));
    if (!(value == 0.0f)) atomicOr(&needed, 1u << neuron);
  }
#if HAS_UP
  __syncthreads();
  if (needed) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sum[j] = 0.0f;
    TileDot<UP_FORMAT>::run<false>(up, up_scales, first, needed, x, sum);
    const float u = over_warps(partial, sum);
    if (mine && !(value == 0.0f)) {
      float v = rounded(u + (up_bias ? to_float(up_bias[f]) : 0.0f));
#if UP_RELU
      if (v < 0.0f) v = 0.0f;
#endif
      value *= v;
    }
  }
#endif
  if (mine) x1[static_cast<u64>(token) * F + f] = from_float(value);
}
