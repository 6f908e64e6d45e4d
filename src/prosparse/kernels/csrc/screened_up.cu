// Steps (1) and (2), with an int8 copy of the gate as a screen: exact, and half the gate's bytes.
//
// A warp reads a neuron's int8 row. By Cauchy-Schwarz the true pre-activation is at most
// screen + bound[f] * |x|, where bound[f] covers what quantization took away and the rounding of both
// sums (`prosparse.kernels.screen`). Only where that reaches the threshold is the gate's own row read,
// and its value alone decides: what is skipped is zero for certain.
#include "constants.cuh"
#include "element.cuh"
#include "activation.cuh"
#include "grid.cuh"
#include "rows.cuh"
#include "up.cuh"

constexpr int WIDTH = 16;  // int8 values that a lane loads at once
constexpr int PIECES = (D + 32 * WIDTH - 1) / (32 * WIDTH);

struct Screen {
  float dot[T];      // of the int8 row
  float squares[T];  // |x|^2

  __device__ __forceinline__ void run(const u8* values, const u16* scales, u64 f, const X* x, int lane) {
    uint4 q[PIECES];
    u16 scale[PIECES];
#pragma unroll
    for (int p = 0; p < PIECES; ++p) {
      const int column = (p * 32 + lane) * WIDTH;
      if ((p + 1) * 32 * WIDTH <= D || column < D) {
        load_once(values + f * D + column, q[p]);
        load_once(scales + f * (D / SCREEN_GROUP) + column / SCREEN_GROUP, scale[p]);
      }
    }
    wait_before_activations();
#pragma unroll
    for (int t = 0; t < T; ++t) dot[t] = squares[t] = 0.0f;
#pragma unroll
    for (int p = 0; p < PIECES; ++p) {
      const int column = (p * 32 + lane) * WIDTH;
      if ((p + 1) * 32 * WIDTH > D && column >= D) continue;
      float w[WIDTH];
      bytes_to_floats(q[p].x ^ 0x80808080u, 8388736.0f, w);  // 2^23 + 128
      bytes_to_floats(q[p].y ^ 0x80808080u, 8388736.0f, w + 4);
      bytes_to_floats(q[p].z ^ 0x80808080u, 8388736.0f, w + 8);
      bytes_to_floats(q[p].w ^ 0x80808080u, 8388736.0f, w + 12);
#pragma unroll
      for (int t = 0; t < T; ++t) {
        float v[2][VEC], sum = 0.0f;
        load_activations(x + t * D + column, v[0]);
        load_activations(x + t * D + column + VEC, v[1]);
#pragma unroll
        for (int k = 0; k < WIDTH; ++k) {
          const float value = v[k / VEC][k % VEC];
          squares[t] = fmaf(value, value, squares[t]);
          sum = fmaf(w[k], value, sum);
        }
        dot[t] = fmaf(sum, half_to_float(scale[p]), dot[t]);
      }
    }
#pragma unroll
    for (int t = 0; t < T; ++t) {
      squares[t] = warp_sum(squares[t]);
      dot[t] = warp_sum(dot[t]);
    }
  }
};

extern "C" __global__ void __launch_bounds__(WARPS * 32, BLOCKS)
screened_up(const X* READ_ONLY x, const u8* __restrict__ screen_values, const u16* __restrict__ screen_scales,
            const float* __restrict__ screen_bound, const void* __restrict__ gate, const X* __restrict__ gate_bias,
            const void* __restrict__ up, const void* __restrict__ up_scales, const X* __restrict__ up_bias,
            X* __restrict__ x1, float threshold, float cut) {
  const Activation activation{threshold, 0.0f};
  const int lane = threadIdx.x & 31;
  const int f = blockIdx.x * WARPS + (threadIdx.x >> 5);
  let_next_kernel_start();
  wait_before_weights();
  if (f >= F) return;
  Screen screen;
  screen.run(screen_values, screen_scales, f, x, lane);
  const float bias = gate_bias ? to_float(gate_bias[f]) : 0.0f;
  const float bound = screen_bound[f];
  bool candidate = false;
#pragma unroll
  for (int t = 0; t < T; ++t)  // negated, so that NaN makes a candidate too
    candidate |= !(screen.dot[t] + bound * sqrtf(screen.squares[t]) + bias <= cut);
  float value[T];
#pragma unroll
  for (int t = 0; t < T; ++t) value[t] = 0.0f;
  if (candidate) {
    row_dot<Dense, false>(gate, nullptr, f, x, 0, lane, value);
#pragma unroll
    for (int t = 0; t < T; ++t) value[t] = activation(rounded(value[t] + bias));
  }
  finish_neuron(value, up, up_scales, up_bias, x, x1, f, lane);
}
