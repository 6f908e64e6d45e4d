// Steps (1) and (2) in one pass: one warp reads a gate row and, where the neuron is active, goes
// straight on with its up row. x_1 [T, F] holds zero for every other neuron.
#include "constants.cuh"
#include "element.cuh"
#include "activation.cuh"
#include "grid.cuh"
#include "rows.cuh"
#include "up.cuh"

typedef GATE_FORMAT GateFormat;

extern "C" __global__ void __launch_bounds__(WARPS * 32, BLOCKS)
gate_up(const X* READ_ONLY x, const void* __restrict__ gate, const void* __restrict__ gate_scales,
        const X* __restrict__ gate_bias, const void* __restrict__ up, const void* __restrict__ up_scales,
        const X* __restrict__ up_bias, X* __restrict__ x1, float threshold, float shift) {
  const Activation activation{threshold, shift};
  const int lane = threadIdx.x & 31;
  const int f = blockIdx.x * WARPS + (threadIdx.x >> 5);
  let_next_kernel_start();
  if (f >= F) return;

  float value[T];
  row_dot<GateFormat, false, true>(gate, gate_scales, f, x, 0, lane, value);
  const float bias = gate_bias ? to_float(gate_bias[f]) : 0.0f;
#pragma unroll
  for (int t = 0; t < T; ++t) value[t] = activation(rounded(value[t] + bias));
  finish_neuron(value, up, up_scales, up_bias, x, x1, f, lane);
}
