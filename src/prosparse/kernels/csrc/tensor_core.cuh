// One tensor-core instruction: sum [16, 8] += A [16, 16] * B [16, 8], operands in X, sums in float32.
//
// With lane = 4 * n + q, a thread holds of A rows n and n + 8 (a[0], a[2] and a[1], a[3]), of B column n
// (b0, b1): two pairs of the sixteen terms each, those that its q stands for. It receives of rows n
// (sum[0], sum[1]) and n + 8 (sum[2], sum[3]) the columns 2 q and 2 q + 1.
#pragma once

__device__ __forceinline__ void multiply_add(float (&sum)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if defined(X_BF16)
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#endif
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
