// Steps (1) and (2) in one pass: one warp reads a gate row and, where the neuron is active, goes
// straight on with its up row. x_1 [T, F] holds zero for every other neuron.
//
// SMALL: where rows are short, time is launches and waits for memory, hardly bytes. Then up's row is asked
// for with the gate's, needed or not, and an active neuron's row of down is on its way into the L2 cache
// before the kernel that needs it has started.
#include "constants.cuh"
#include "element.cuh"
#include "activation.cuh"
#include "grid.cuh"
#include "rows.cuh"
#include "up.cuh"

typedef GATE_FORMAT GateFormat;

#if SMALL
static_assert(CHUNKS <= LOADS, "a row is one batch");

__device__ __forceinline__ void fetch_into_cache(const X* row, int lane) {
  constexpr int LINE = 128 / sizeof(X);
  for (int column = lane * LINE; column < D; column += 32 * LINE) asm volatile("prefetch.global.L2 [%0];" ::"l"(row + column));
}
#endif

extern "C" __global__ void __launch_bounds__(WARPS * 32, BLOCKS)
gate_up(const X* READ_ONLY x, const void* __restrict__ gate, const void* __restrict__ gate_scales,
        const X* __restrict__ gate_bias, const void* __restrict__ up, const void* __restrict__ up_scales,
        const X* __restrict__ up_bias, const X* __restrict__ down, X* __restrict__ x1, float threshold, float shift) {
  const Activation activation{threshold, shift};
  const int lane = threadIdx.x & 31;
  const int f = blockIdx.x * WARPS + (threadIdx.x >> 5);
  let_next_kernel_start();
  wait_before_weights();
  if (f >= F) return;

  float value[T];
#if SMALL
  RowBatch<GateFormat> gate_row;
  RowBatch<UpFormat> up_row;
  gate_row.load(gate, gate_scales, f, 0, lane);
  up_row.load(up, up_scales, f, 0, lane);
  wait_before_activations();
  float up_value[T];
#pragma unroll
  for (int t = 0; t < T; ++t) value[t] = up_value[t] = 0.0f;
  gate_row.dot(x, 0, lane, value);
  up_row.dot(x, 0, lane, up_value);
#pragma unroll
  for (int t = 0; t < T; ++t) value[t] = warp_sum(value[t]), up_value[t] = warp_sum(up_value[t]);
#else
  row_dot<GateFormat, false, true>(gate, gate_scales, f, x, 0, lane, value);
#endif
  const float bias = gate_bias ? to_float(gate_bias[f]) : 0.0f;
#pragma unroll
  for (int t = 0; t < T; ++t) value[t] = activation(rounded(value[t] + bias));
#if SMALL
  const u32 tokens = tokens_of(value);
  if (tokens) fetch_into_cache(down + static_cast<u64>(f) * D, lane);
  write_neuron(value, tokens, up_value, up_bias, x1, f, lane);
#else
  finish_neuron(value, up, up_scales, up_bias, x, x1, f, lane);
#endif
}
