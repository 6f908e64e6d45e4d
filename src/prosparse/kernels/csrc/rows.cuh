// The dot products of one weight row with the activations, by one warp.
#pragma once

constexpr int CHUNKS = (D + 32 * VEC - 1) / (32 * VEC);  // of a row, for one lane

// All of a batch's loads are issued before the first is used: that is what fills the memory pipe.
template <class Format>
struct RowBatch {
  static constexpr int SIZE = CHUNKS < LOADS ? CHUNKS : LOADS;
  typename Format::Chunk chunk[SIZE];

  static __device__ __forceinline__ bool within(int i, int column) {
    return (i + 1) * 32 * VEC <= D || (i < CHUNKS && column < D);
  }

  __device__ __forceinline__ void load(const void* values, const void* scales, u64 f, int first, int lane) {
#pragma unroll
    for (int i = 0; i < SIZE; ++i) {
      const int column = ((first + i) * 32 + lane) * VEC;
      if (within(first + i, column)) Format::load(chunk[i], values, scales, f, column);
    }
  }

  __device__ __forceinline__ void dot_piece(int i, int column, const X* x, float& sum) const {
    float w[VEC], v[VEC];
    Format::unpack(chunk[i], w);
    load_activations(x + column, v);
    float part = Format::SCALED ? 0.0f : sum;
#pragma unroll
    for (int k = 0; k < VEC; ++k) part = fmaf(w[k], v[k], part);
    sum = Format::SCALED ? fmaf(part, Format::scale(chunk[i]), sum) : part;
  }

  // sum[t] += row . x_t over this batch's columns, for all tokens ...
  __device__ __forceinline__ void dot(const X* x, int first, int lane, float (&sum)[T]) const {
#pragma unroll
    for (int i = 0; i < SIZE; ++i) {
      const int column = ((first + i) * 32 + lane) * VEC;
      if (within(first + i, column)) {
#pragma unroll
        for (int t = 0; t < T; ++t) dot_piece(i, column, x + t * D, sum[t]);
      }
    }
  }

  // ... or for those whose bit is set in `tokens`; a token's loads of x then go out together.
  __device__ __forceinline__ void dot(const X* x, u32 tokens, int first, int lane, float (&sum)[T]) const {
#pragma unroll
    for (int t = 0; t < T; ++t) {
      if (!(tokens >> t & 1)) continue;
#pragma unroll
      for (int i = 0; i < SIZE; ++i) {
        const int column = ((first + i) * 32 + lane) * VEC;
        if (within(first + i, column)) dot_piece(i, column, x + t * D, sum[t]);
      }
    }
  }
};

constexpr int BATCHES_UNROLLED = FEW_REGISTERS ? 1 : 4;

// sum[t] = row f . x_t in float32, the same in every lane. With SOME only the tokens whose bit is set in
// `tokens`; the others give 0. FIRST: nothing has been read in this kernel yet.
template <class Format, bool SOME, bool FIRST = false>
__device__ __forceinline__ void row_dot(const void* values, const void* scales, u64 f, const X* x, u32 tokens, int lane,
                                        float (&sum)[T]) {
#pragma unroll
  for (int t = 0; t < T; ++t) sum[t] = 0.0f;
#pragma unroll BATCHES_UNROLLED
  for (int first = 0; first < CHUNKS; first += RowBatch<Format>::SIZE) {
    RowBatch<Format> batch;
    batch.load(values, scales, f, first, lane);
    if (FIRST && first == 0) wait_before_activations();
    if constexpr (SOME && T > 1) batch.dot(x, tokens, first, lane, sum);
    else batch.dot(x, first, lane, sum);
  }
#pragma unroll
  for (int t = 0; t < T; ++t) sum[t] = warp_sum(sum[t]);
}
