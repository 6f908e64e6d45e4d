// Bring the sums of all lanes, warps and blocks of one column range together and write the output.
//
// Every addition has its fixed place, so two runs give the same bits. With SPLITS > 1 the blocks of a
// column range form a cluster (from sm_90 on): each pushes its sums into the shared memory of the
// block that finishes them, and no sum goes through memory.
#pragma once

constexpr int COLUMNS = LANES * VEC;  // of a block
constexpr int SUMS = T_TILE * COLUMNS;
constexpr int THREADS = WARPS * 32;
constexpr int FINISHED = (SUMS + SPLITS - 1) / SPLITS;         // outputs of a block
constexpr int OUTPUTS = (FINISHED + THREADS - 1) / THREADS;  // of a thread, at most

typedef float WarpSums[WARPS][SUMS];

// What the other blocks of the cluster send.
struct alignas(8) Arrivals {
#if SPLITS > 1
  float of_block[SPLITS][FINISHED];
  Mailbox mailbox;
#endif
};

struct Outputs {
  float bias[OUTPUTS], residual[OUTPUTS];
  u64 at[OUTPUTS];
  bool mine[OUTPUTS];

  __device__ __forceinline__ void begin(Arrivals& arrivals, int split, int first_column, int first_token) {
#if SPLITS > 1
    const int finished_here = min(FINISHED, max(SUMS - split * FINISHED, 0));
    arrivals.mailbox.open(SPLITS * finished_here * sizeof(float));
#endif
#pragma unroll
    for (int j = 0; j < OUTPUTS; ++j) {
      const int finished = threadIdx.x + j * THREADS, i = split * FINISHED + finished;
      const int token = first_token + i / COLUMNS, column = first_column + i % COLUMNS;
      mine[j] = finished < FINISHED && i < SUMS && token < T && column < D;
      at[j] = static_cast<u64>(token) * D + column;
    }
  }

  // Bias and residual are read before the rows: at the end, nothing would hide the wait for them.
  __device__ __forceinline__ void read(const X* b, const void* r) {
#pragma unroll
    for (int j = 0; j < OUTPUTS; ++j) {
      bias[j] = mine[j] && b ? to_float(b[at[j] % D]) : 0.0f;
#if RESIDUAL_FP32
      residual[j] = mine[j] && r ? static_cast<const float*>(r)[at[j]] : 0.0f;
#else
      residual[j] = mine[j] && r ? to_float(static_cast<const X*>(r)[at[j]]) : 0.0f;
#endif
    }
  }

  // By all threads, once the sums of every warp are in `of_warp`.
  __device__ __forceinline__ void finish(const WarpSums& of_warp, Arrivals& arrivals, int split, void* y) const {
    __syncthreads();
#if SPLITS > 1
    arrivals.mailbox.opened();
    for (int i = threadIdx.x; i < SUMS; i += THREADS)
      arrivals.mailbox.send(&arrivals.of_block[split][i % FINISHED], i / FINISHED, over_warps(of_warp, i));
    arrivals.mailbox.receive();
#endif
#pragma unroll
    for (int j = 0; j < OUTPUTS; ++j) {
      if (!mine[j]) continue;
      const int i = threadIdx.x + j * THREADS;
#if SPLITS > 1
      float v = arrivals.of_block[0][i];
#pragma unroll
      for (int block = 1; block < SPLITS; ++block) v += arrivals.of_block[block][i];
#else
      float v = over_warps(of_warp, i);
#endif
      v = v + bias[j] + residual[j];
#if OUTPUT_FP32
      static_cast<float*>(y)[at[j]] = v;
#else
      static_cast<X*>(y)[at[j]] = from_float(v);
#endif
    }
  }

  static __device__ __forceinline__ float over_warps(const WarpSums& of_warp, int i) {
    float v = of_warp[0][i];
#pragma unroll
    for (int w = 1; w < WARPS; ++w) v += of_warp[w][i];
    return v;
  }
};
