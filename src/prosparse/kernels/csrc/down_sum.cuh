// Bring the sums of all lanes, warps and blocks of one column range together and write the output.
//
// Every addition has its fixed place, so two runs give the same bits. With SPLITS > 1 the blocks of a
// column range form a cluster (from sm_90 on): each pushes its sums into the shared memory of the
// block that finishes them, and no sum goes through memory.
#pragma once

constexpr int COLUMNS = LANES * VEC;  // of a block
constexpr int ROWS = 32 / LANES;      // that a warp reads at a time
constexpr int SUMS = T_TILE * COLUMNS;
constexpr int THREADS = WARPS * 32;
constexpr int FINISHED = (SUMS + SPLITS - 1) / SPLITS;         // outputs of a block
constexpr int OUTPUTS = (FINISHED + THREADS - 1) / THREADS;  // of a thread, at most

struct alignas(8) Partial {
  float of_warp[WARPS][SUMS];
#if SPLITS > 1
  float of_block[SPLITS][FINISHED];
  Mailbox mailbox;
#endif
};

struct Outputs {
  float bias[OUTPUTS], residual[OUTPUTS];
  u64 at[OUTPUTS];
  bool mine[OUTPUTS];

  // Bias and residual are read early: at the end, nothing would hide the wait for them.
  __device__ __forceinline__ void begin(Partial& partial, int split, int first_column, int first_token, const X* b, const void* r) {
#if SPLITS > 1
    const int finished_here = min(FINISHED, max(SUMS - split * FINISHED, 0));
    partial.mailbox.open(SPLITS * finished_here * sizeof(float));
#endif
#pragma unroll
    for (int j = 0; j < OUTPUTS; ++j) {
      const int finished = threadIdx.x + j * THREADS, i = split * FINISHED + finished;
      const int token = first_token + i / COLUMNS, column = first_column + i % COLUMNS;
      mine[j] = finished < FINISHED && i < SUMS && token < T && column < D;
      at[j] = static_cast<u64>(token) * D + column;
      bias[j] = mine[j] && b ? to_float(b[column]) : 0.0f;
#if RESIDUAL_FP32
      residual[j] = mine[j] && r ? static_cast<const float*>(r)[at[j]] : 0.0f;
#else
      residual[j] = mine[j] && r ? to_float(static_cast<const X*>(r)[at[j]]) : 0.0f;
#endif
    }
  }

  __device__ __forceinline__ void finish(float (&sum)[T_TILE][VEC], Partial& partial, int split, void* y) const {
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
#pragma unroll
    for (int t = 0; t < T_TILE; ++t)
#pragma unroll
      for (int k = 0; k < VEC; ++k) {
#pragma unroll
        for (int offset = LANES; offset < 32; offset *= 2) sum[t][k] += __shfl_xor_sync(0xffffffffu, sum[t][k], offset);
        if (lane < LANES) partial.of_warp[warp][t * COLUMNS + lane * VEC + k] = sum[t][k];
      }
    __syncthreads();
#if SPLITS > 1
    partial.mailbox.opened();
    for (int i = threadIdx.x; i < SUMS; i += THREADS)
      partial.mailbox.send(&partial.of_block[split][i % FINISHED], i / FINISHED, of_warps(partial, i));
    partial.mailbox.receive();
#endif
#pragma unroll
    for (int j = 0; j < OUTPUTS; ++j) {
      if (!mine[j]) continue;
      const int i = threadIdx.x + j * THREADS;
#if SPLITS > 1
      float v = partial.of_block[0][i];
#pragma unroll
      for (int block = 1; block < SPLITS; ++block) v += partial.of_block[block][i];
#else
      float v = of_warps(partial, i);
#endif
      v = v + bias[j] + residual[j];
#if OUTPUT_FP32
      static_cast<float*>(y)[at[j]] = v;
#else
      static_cast<X*>(y)[at[j]] = from_float(v);
#endif
    }
  }

  static __device__ __forceinline__ float of_warps(const Partial& partial, int i) {
    float v = partial.of_warp[0][i];
#pragma unroll
    for (int w = 1; w < WARPS; ++w) v += partial.of_warp[w][i];
    return v;
  }
};
