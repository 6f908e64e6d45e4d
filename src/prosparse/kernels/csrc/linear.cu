// y_i = x W_i^T + b_i of up to three matrices: dense projections that read one input, in one launch. One
// warp reads a row, as in gate_up.cu. F counts the rows of all matrices, F0 and F1 those of the first two.
#include "constants.cuh"
#include "element.cuh"
#include "grid.cuh"
#include "rows.cuh"

struct Projection {
  const X* weight;
  const X* bias;
  X* y;
  int first, rows;
};

extern "C" __global__ void __launch_bounds__(WARPS * 32, BLOCKS)
linear(const X* READ_ONLY x, const X* weight0, const X* bias0, X* y0, const X* weight1, const X* bias1, X* y1,
       const X* weight2, const X* bias2, X* y2) {
  const int lane = threadIdx.x & 31;
  const int row = blockIdx.x * WARPS + (threadIdx.x >> 5);
  let_next_kernel_start();
  wait_before_weights();
  if (row >= F) return;

  const Projection mine = row < F0        ? Projection{weight0, bias0, y0, 0, F0}
                          : row < F0 + F1 ? Projection{weight1, bias1, y1, F0, F1}
                                          : Projection{weight2, bias2, y2, F0 + F1, F - F0 - F1};
  const int f = row - mine.first;
  float value[T];
  row_dot<Dense, false, true>(mine.weight, nullptr, f, x, 0, lane, value);
  const float bias = mine.bias ? to_float(mine.bias[f]) : 0.0f;
  float own = 0.0f;  // lane t writes token t's value
#pragma unroll
  for (int t = 0; t < T; ++t) own = lane == t ? value[t] : own;
  if (lane < T) mine.y[static_cast<u64>(lane) * mine.rows + f] = from_float(own + bias);
}
