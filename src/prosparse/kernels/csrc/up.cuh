// From the gate's pre-activation to x_1 = act(gate) * up of one neuron, by one warp.
#pragma once

typedef UP_FORMAT UpFormat;

// Return the tokens that need a neuron, as bits: those whose gate is not zero.
__device__ __forceinline__ u32 tokens_of(const float (&gate)[T]) {
  u32 tokens = 0;
#pragma unroll
  for (int t = 0; t < T; ++t) tokens |= static_cast<u32>(!(gate[t] == 0.0f)) << t;
  return tokens;
}

// Write x_1[:, f]; value[t] is the sum of up's row with token t, where a token needs it.
__device__ __forceinline__ void write_neuron(const float (&gate)[T], u32 tokens, float (&value)[T], const X* up_bias,
                                             X* x1, int f, int lane) {
#if HAS_UP
  const float bias = tokens && up_bias ? to_float(up_bias[f]) : 0.0f;
#pragma unroll
  for (int t = 0; t < T; ++t) {
    float u = rounded(value[t] + bias);
#if UP_RELU
    if (u < 0.0f) u = 0.0f;
#endif
    value[t] = tokens >> t & 1 ? gate[t] * u : 0.0f;
  }
#else
#pragma unroll
  for (int t = 0; t < T; ++t) value[t] = gate[t];
#endif
  float mine = 0.0f;  // lane t writes token t's value
#pragma unroll
  for (int t = 0; t < T; ++t) mine = lane == t ? value[t] : mine;  // keeps value[] in registers
  if (lane < T) x1[static_cast<u64>(lane) * F + f] = from_float(mine);
}

// gate[t] = act(gate) of token t. Read up's row f if any token needs it, and write x_1[:, f].
__device__ __forceinline__ void finish_neuron(const float (&gate)[T], const void* up, const void* up_scales,
                                              const X* up_bias, const X* x, X* x1, int f, int lane) {
  float value[T];
  const u32 tokens = tokens_of(gate);
#if HAS_UP
#pragma unroll
  for (int t = 0; t < T; ++t) value[t] = 0.0f;
  if (tokens) row_dot<UpFormat, true>(up, up_scales, f, x, tokens, lane, value);
#endif
  write_neuron(gate, tokens, value, up_bias, x1, f, lane);
}
